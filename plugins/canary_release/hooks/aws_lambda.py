"""AWS Lambda: how the calls of one alias are shared out between two published versions.

API: https://docs.aws.amazon.com/lambda/latest/api/ (GetAlias, UpdateAlias).  Callers use the alias ``live``.  The two
backends are aliases, too, each pointing to one version: deploying is moving the idle one, and nothing calls them.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Any

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import CanaryError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import FULL, NONE, Weights, plain
from canary_release.hooks.aws_client import AwsClient, Region
from canary_release.hooks.connections import Strict
from canary_release.hooks.weight_units import to_units

UNKNOWN = frozenset({"ResourceNotFoundException"})
TRIES = 5  # of giving one side everything while others keep changing the alias


class AliasChangedError(LoadBalancerError):
    """Somebody changed the alias between our look and our write."""


class AwsLambdaHook(BaseHook):
    """Connection type ``aws``. Each write names the alias's RevisionId, so that AWS refuses it when the alias was
    changed meanwhile; giving one side everything looks again and insists.
    """

    class Options(Strict):
        """What a release file says about a function beyond its connection."""

        function: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Name of the function.")
        alias: str = Field("live", pattern=r"^[A-Za-z0-9_-]{1,128}$", description="The alias that callers use.")
        region: Region | None = Field(None, description="AWS region; default: the connection's.")

    finest_step: Decimal = Decimal("0.1")

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What the alias says. Raises UnknownTargetError when function or an alias does not exist, LoadBalancerError
        when the alias calls a version that is neither backend's.
        """
        versions = self._versions()
        return self._shares(self._client.call("get_alias", **self._alias), versions)

    def set_weights(self, weights: Weights) -> None:
        """Write version and share in one call. Raises UnknownTargetError or LoadBalancerError before anything is
        written, and AliasChangedError when somebody else was faster (not when one side gets everything).
        """
        to_units(weights, self.backends, self.finest_step)
        for name in self.backends:
            if weights[name] == FULL:
                self._give_everything(name)
                return
        versions = self._versions()
        seen = self._client.call("get_alias", **self._alias)
        self._shares(seen, versions)
        # The side that is the alias's own version stays it for as long as both have traffic: one number changes.
        main, other = sorted(self.backends, key=lambda name: versions[name] != seen["FunctionVersion"])
        self._write(versions[main], {versions[other]: float(weights[other] / FULL)}, seen)

    def _give_everything(self, name: str) -> None:
        """The way back: whatever the alias and the other side say."""
        version = one_version(self._client, self.options.function, name, LoadBalancerError)
        for tried in range(1, TRIES + 1):
            try:
                self._write(version, {}, self._client.call("get_alias", **self._alias))
                return
            except AliasChangedError:
                if tried == TRIES:
                    raise

    def _write(self, version: str, additional: dict[str, float], seen: Mapping[str, Any]) -> None:
        written = self._client.call(
            "update_alias",
            **self._alias,
            FunctionVersion=version,
            RoutingConfig={"AdditionalVersionWeights": additional},
            RevisionId=seen["RevisionId"],
        )
        # Only Lambda itself answers with this: a page of some proxy would pass for a write.
        _ = written["RevisionId"]

    def _shares(self, alias: Mapping[str, Any], versions: Mapping[str, str]) -> Weights:
        routing = alias.get("RoutingConfig") or {}
        try:
            # Through text, so that 0.05 is 5 % and not a little more.
            found = {
                str(version): FULL * Decimal(str(share))
                for version, share in (routing.get("AdditionalVersionWeights") or {}).items()
            }
        except InvalidOperation:
            raise LoadBalancerError(f"{self._where} has weights that are no numbers: {routing}.") from None
        found[str(alias["FunctionVersion"])] = FULL - sum(found.values(), NONE)
        strangers = [version for version, share in found.items() if share and version not in versions.values()]
        if strangers:
            known = ", ".join(f"{name} is version {version}" for name, version in versions.items())
            raise LoadBalancerError(
                f"{self._where} calls version {', '.join(strangers)}, but {known}; see who moved it."
            )
        shares = {name: found.get(version, NONE) for name, version in versions.items()}
        if any(share < NONE for share in shares.values()):
            raise LoadBalancerError(f"{self._where} has weights that share out nothing: {shares}.")
        return Weights({name: Decimal(plain(share)) for name, share in shares.items()})

    def _versions(self) -> dict[str, str]:
        return versions_of(self._client, self.options.function, self.backends, LoadBalancerError)

    @property
    def _alias(self) -> dict[str, str]:
        return {"FunctionName": self.options.function, "Name": self.options.alias}

    @property
    def _where(self) -> str:
        return f"The alias {self.options.alias} of function {self.options.function}"

    @cached_property
    def _client(self) -> AwsClient:
        return AwsClient(
            self.connection_id,
            "lambda",
            raises=LoadBalancerError,
            missing=UnknownTargetError,
            unknown=UNKNOWN,
            region=self.options.region,
            kinds={"PreconditionFailedException": AliasChangedError},
        )


def versions_of(
    client: AwsClient, function: str, backends: tuple[str, str], raises: type[CanaryError]
) -> dict[str, str]:
    """The version that each backend's alias points to. ``raises`` when the two cannot be told apart."""
    versions = {name: one_version(client, function, name, raises) for name in backends}
    if len(set(versions.values())) < len(versions):
        raise raises(
            f"The aliases {' and '.join(backends)} of {function} point to the same version {versions[backends[0]]}: "
            f"publish the new version and move the idle alias to it."
        )
    return versions


def one_version(client: AwsClient, function: str, alias: str, raises: type[CanaryError]) -> str:
    """The published version that an alias points to; ``raises`` when it is none, or more than one."""
    found = client.call("get_alias", FunctionName=function, Name=alias)
    version = str(found["FunctionVersion"])
    if version == "$LATEST" or (found.get("RoutingConfig") or {}).get("AdditionalVersionWeights"):
        raise raises(f"The alias {alias} of {function} must point to one published version; move it to one.")
    return version

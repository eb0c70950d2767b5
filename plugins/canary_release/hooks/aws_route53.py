"""Amazon Route 53: the weights of two weighted records of one name.

API: https://docs.aws.amazon.com/Route53/latest/APIReference/ (ListResourceRecordSets, ChangeResourceRecordSets).  Both
records go into one change batch, which is carried out wholly or not at all.  DNS shares out look-ups and not requests,
and a resolver keeps an answer for the record's TTL: a rollback is over only when that has passed.
"""

from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.aws_client import AwsClient
from canary_release.hooks.connections import Strict
from canary_release.hooks.weight_units import from_units, to_units

LARGEST_WEIGHT = 255
SPREAD_SECONDS = 60.0  # until all name servers of Route 53 have a change; "generally within 60 seconds"
ALIAS_TTL = 60.0  # seconds; an alias record has its target's TTL, which is this for AWS's load balancers
UNKNOWN = frozenset({"NoSuchHostedZone", "HostedZoneNotFound"})

RecordSet = dict[str, Any]


class AwsRoute53Hook(BaseHook):
    """Connection type ``aws``; the backends are the records' set identifiers.

    Weights add up to 200, so that the finest step is 0.5 %; everything is 200 to 0.
    """

    class Options(Strict):
        """What a release file says about a name beyond its connection."""

        zone: str = Field(pattern=r"^[A-Z0-9]{1,32}$", description="Id of the hosted zone.")
        record: str = Field(pattern=r"^[a-z0-9_*-]+(\.[a-z0-9_-]+)+\.?$", description="Name of the weighted records.")
        record_type: Literal["A", "AAAA", "CNAME"] = Field("A", description="Type of the records.")

    finest_step: Decimal = Decimal("0.5")

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What Route 53 has on record; resolvers may answer otherwise for ``rollback_seconds`` yet.

        Raises UnknownTargetError when zone or records do not exist, LoadBalancerError when records of other names get
        traffic, too.
        """
        return self._shares(self._records())

    def set_weights(self, weights: Weights) -> None:
        """Write both records in one batch, with all else as it is. Raises UnknownTargetError or LoadBalancerError
        before anything is written, and LoadBalancerError when AWS refuses.
        """
        units = to_units(weights, self.backends, self.finest_step)
        records = self._records()
        if all(units.values()):
            self._shares(records)
        changes = [
            {"Action": "UPSERT", "ResourceRecordSet": {**records[name], "Weight": unit}} for name, unit in units.items()
        ]
        self._client.call(
            "change_resource_record_sets",
            HostedZoneId=self.options.zone,
            ChangeBatch={"Comment": "canary release", "Changes": changes},
        )

    def rollback_seconds(self) -> float:
        """How long after a write clients may still follow the old weights: Route 53's own spreading and the TTL.

        Clients that keep an answer for longer than they may are not in it.  Raises LoadBalancerError.
        """
        records = self._records()
        return SPREAD_SECONDS + max(float(records[name].get("TTL", ALIAS_TTL)) for name in self.backends)

    def _shares(self, records: Mapping[str, RecordSet]) -> Weights:
        others = [name for name, record in records.items() if name not in self.backends and record["Weight"]]
        if others:
            raise LoadBalancerError(f"{self._where} shares look-ups with others, too: {', '.join(others)}.")
        return from_units({name: int(records[name]["Weight"]) for name in self.backends}, self._where)

    def _records(self) -> dict[str, RecordSet]:
        """The weighted records of the name by set identifier, both backends among them."""
        wanted = self.options.record.rstrip(".") + "."
        answer = self._client.call(
            "list_resource_record_sets",
            HostedZoneId=self.options.zone,
            StartRecordName=wanted,
            StartRecordType=self.options.record_type,
            MaxItems="100",
        )
        found = [
            one
            for one in answer["ResourceRecordSets"]
            # Route 53 writes an asterisk as its octal code.
            if one["Name"].replace("\\052", "*") == wanted and one["Type"] == self.options.record_type
        ]
        records = {str(one["SetIdentifier"]): one for one in found if "Weight" in one and "SetIdentifier" in one}
        if missing := [name for name in self.backends if name not in records]:
            known = ", ".join(sorted(records)) or "none"
            raise UnknownTargetError(
                f"{self._where} has no weighted record with the set identifier {' and '.join(missing)}; it has {known}."
            )
        return records

    @property
    def _where(self) -> str:
        return f"{self.options.record} ({self.options.record_type}) in hosted zone {self.options.zone}"

    @cached_property
    def _client(self) -> AwsClient:
        return AwsClient(
            self.connection_id,
            "route53",
            raises=LoadBalancerError,
            missing=UnknownTargetError,
            unknown=UNKNOWN,
        )

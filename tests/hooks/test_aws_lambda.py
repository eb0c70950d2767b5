"""A Lambda alias that others write to as well, and aliases that do not say which side is which."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import aws_client
from canary_release.hooks.aws_lambda import AliasChangedError, AwsLambdaHook
from contracts.fake_aws import FakeClient, refusal


class FakeLambda:
    """Three aliases of one function with revisions; an update with a stale one is refused, as AWS does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.aliases: dict[str, dict[str, Any]] = {}
        for name, version in (("live", "7"), ("blue", "7"), ("green", "8")):
            self.put(name, version)
        self.before_update: Callable[[], None] = lambda: None
        self.client = FakeClient("lambda", {"get_alias": self._get, "update_alias": self._update})
        monkeypatch.setattr(aws_client, "kept_client", lambda *_: self.client)

    def put(self, name: str, version: str, additional: dict[str, float] | None = None) -> None:
        revision = str(int(self.aliases.get(name, {}).get("RevisionId", "0")) + 1)
        routing = {"RoutingConfig": {"AdditionalVersionWeights": additional}} if additional else {}
        self.aliases[name] = {"Name": name, "FunctionVersion": version, "RevisionId": revision, **routing}

    def _get(self, **asked: Any) -> dict[str, Any]:
        if asked["Name"] not in self.aliases:
            raise refusal("ResourceNotFoundException", f"Cannot find alias {asked['Name']}")
        return dict(self.aliases[asked["Name"]])

    def _update(self, **asked: Any) -> dict[str, Any]:
        self.before_update()
        if asked["RevisionId"] != self.aliases[asked["Name"]]["RevisionId"]:
            raise refusal("PreconditionFailedException", "The RevisionId does not match")
        additional = asked["RoutingConfig"]["AdditionalVersionWeights"]
        assert asked["FunctionVersion"] not in additional
        self.put(asked["Name"], asked["FunctionVersion"], additional)
        return dict(self.aliases[asked["Name"]])


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> FakeLambda:
    return FakeLambda(monkeypatch)


def hook() -> AwsLambdaHook:
    return AwsLambdaHook("aws_here", ("blue", "green"), AwsLambdaHook.Options(function="shop"))


def green(percent: str) -> Weights:
    return Weights.split(stable="blue", canary="green", canary_percent=Decimal(percent))


def test_the_stable_version_stays_the_aliass_own_until_the_canary_has_everything(function: FakeLambda) -> None:
    for percent, version, additional in (("0.1", "7", {"8": 0.001}), ("60", "7", {"8": 0.6}), ("100", "8", {})):
        hook().set_weights(green(percent))
        live = function.aliases["live"]
        assert live["FunctionVersion"] == version
        assert live.get("RoutingConfig", {}).get("AdditionalVersionWeights", {}) == additional
        assert hook().get_weights() == green(percent)


def test_a_raise_that_somebody_overtook_is_refused_by_aws(function: FakeLambda) -> None:
    function.before_update = lambda: function.put("live", "7", {"8": 0.5})
    with pytest.raises(AliasChangedError, match="PreconditionFailedException"):
        hook().set_weights(green("5"))
    assert hook().get_weights() == green("50")


def test_the_way_back_looks_again_and_insists(function: FakeLambda) -> None:
    rivals = iter([0.5, 0.6])

    def rival() -> None:
        share = next(rivals, None)
        if share is not None:
            function.put("live", "7", {"8": share})

    function.before_update = rival
    hook().set_weights(green("0"))
    assert hook().get_weights() == green("0")
    assert len(function.client.asked("update_alias")) == 3


def test_the_way_back_gives_up_after_five_rivals(function: FakeLambda) -> None:
    function.before_update = lambda: function.put("live", "7", {"8": 0.5})
    with pytest.raises(AliasChangedError):
        hook().set_weights(green("0"))
    assert len(function.client.asked("update_alias")) == 5


def test_the_way_back_works_when_live_calls_a_stranger_or_the_idle_alias_was_moved(function: FakeLambda) -> None:
    function.put("live", "9", {"8": 0.5})
    with pytest.raises(LoadBalancerError, match="calls version 9, but blue is version 7, green is version 8"):
        hook().get_weights()
    with pytest.raises(LoadBalancerError, match="calls version"):
        hook().set_weights(green("5"))
    function.put("green", "7")
    hook().set_weights(green("0"))
    assert function.aliases["live"]["FunctionVersion"] == "7"
    assert "RoutingConfig" not in function.aliases["live"]


@pytest.mark.parametrize(
    ("version", "additional", "words"),
    [("7", None, "point to the same version 7"), ("$LATEST", None, "published"), ("8", {"7": 0.5}, "one published")],
)
def test_an_idle_alias_that_names_no_version_of_its_own_is_refused(
    version: str, additional: dict[str, float] | None, words: str, function: FakeLambda
) -> None:
    function.put("green", version, additional)
    for act in (hook().get_weights, lambda: hook().set_weights(green("5"))):
        with pytest.raises(LoadBalancerError, match=words):
            act()
    assert function.client.asked("update_alias") == []


def test_an_alias_that_does_not_exist_is_an_unknown_target(function: FakeLambda) -> None:
    del function.aliases["green"]
    with pytest.raises(UnknownTargetError, match="green"):
        hook().get_weights()

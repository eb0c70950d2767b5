"""An ALB's list of actions: what is kept, what is refused, and who may get more traffic."""

import copy
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import aws_client
from canary_release.hooks.aws_alb import AlbOptions, AwsAlbHook, check_actions
from contracts.fake_aws import FakeClient, refusal

HERE = "arn:aws:elasticloadbalancing:eu-central-1:123456789012"
RULE = f"{HERE}:listener-rule/app/shop/50dc6c495c0c9188/f2f7dc8efc522ab2/9683b2d02a6cabee"
LISTENER = f"{HERE}:listener/app/shop/50dc6c495c0c9188/f2f7dc8efc522ab2"
BLUE, GREEN, OTHER = (f"{HERE}:targetgroup/{name}/73e2d6bc24d8a067" for name in ("blue", "green", "other"))
GROUPS = {"blue": BLUE, "green": GREEN}
OIDC = {
    "Issuer": "https://login.example",
    "AuthorizationEndpoint": "https://login.example/a",
    "TokenEndpoint": "https://login.example/t",
    "UserInfoEndpoint": "https://login.example/u",
    "ClientId": "shop",
}


class FakeAlb:
    """One rule and one listener with the same list of actions, and targets with a health."""

    def __init__(self, actions: list[dict[str, Any]]) -> None:
        self.actions = actions
        self.health: dict[str, list[str]] = {BLUE: ["healthy"], GREEN: ["healthy"]}
        self.client = FakeClient(
            "elbv2",
            {
                "describe_rules": lambda **_: {"Rules": [{"RuleArn": RULE, "Actions": copy.deepcopy(self.actions)}]},
                "describe_listeners": lambda **_: {"Listeners": [{"DefaultActions": copy.deepcopy(self.actions)}]},
                "modify_rule": lambda **asked: self._modify(asked["Actions"]),
                "modify_listener": lambda **asked: self._modify(asked["DefaultActions"]),
                "describe_target_health": lambda **asked: self._health(asked["TargetGroupArn"]),
            },
        )

    @property
    def writes(self) -> list[dict[str, Any]]:
        return self.client.asked("modify_rule") + self.client.asked("modify_listener")

    def _modify(self, actions: list[dict[str, Any]]) -> dict[str, Any]:
        self.actions = copy.deepcopy(actions)
        return {}

    def _health(self, group: str) -> dict[str, Any]:
        states = enumerate(self.health[group])
        described = [{"Target": {"Id": f"i-{at}"}, "TargetHealth": {"State": state}} for at, state in states]
        return {"TargetHealthDescriptions": described}


def forward(weights: dict[str, int], **more: Any) -> dict[str, Any]:
    groups = [{"TargetGroupArn": arn, "Weight": weight} for arn, weight in weights.items()]
    return {"Type": "forward", "Order": 2, "ForwardConfig": {"TargetGroups": groups, **more}}


def alb(monkeypatch: pytest.MonkeyPatch, *actions: dict[str, Any]) -> FakeAlb:
    fake = FakeAlb(list(actions) or [forward({BLUE: 999, GREEN: 0})])
    monkeypatch.setattr(aws_client, "kept_client", lambda *_: fake.client)
    return fake


def hook(**place: str) -> AwsAlbHook:
    return AwsAlbHook("aws_here", ("blue", "green"), AlbOptions(**(place or {"rule": RULE}), target_groups=GROUPS))


def green(percent: str) -> Weights:
    return Weights.split(stable="blue", canary="green", canary_percent=Decimal(percent))


def weights_of(actions: list[dict[str, Any]]) -> dict[str, int]:
    return {
        one["TargetGroupArn"]: one["Weight"]
        for action in actions
        if action["Type"] == "forward"
        for one in action["ForwardConfig"]["TargetGroups"]
    }


@pytest.mark.parametrize(
    ("percent", "units"), [("0.1", (999, 1)), ("5", (950, 50)), ("50", (500, 500)), ("100", (0, 999)), ("0", (999, 0))]
)
def test_a_thousandth_is_exact_and_everything_is_the_largest_weight(
    percent: str, units: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = alb(monkeypatch, forward({BLUE: 700, GREEN: 300}))
    hook().set_weights(green(percent))
    assert weights_of(fake.actions) == {BLUE: units[0], GREEN: units[1]}
    assert hook().get_weights() == green(percent)


@pytest.mark.parametrize("place", [{"rule": RULE}, {"listener": LISTENER}])
def test_logins_stickiness_order_and_idle_groups_stay(place: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    login = {"Type": "authenticate-oidc", "Order": 1, "AuthenticateOidcConfig": OIDC}
    sticky = {"Enabled": True, "DurationSeconds": 600}
    forwarding = forward({BLUE: 999, OTHER: 0, GREEN: 0}, TargetGroupStickinessConfig=sticky)
    fake = alb(monkeypatch, login, forwarding)
    hook(**place).set_weights(green("5"))
    kept, changed = fake.actions
    # AWS never tells the client's secret, and forgets it unless it is told to keep it.
    assert kept == {**login, "AuthenticateOidcConfig": {**OIDC, "UseExistingClientSecret": True}}
    expected = forward({BLUE: 950, OTHER: 0, GREEN: 50}, TargetGroupStickinessConfig=sticky)
    assert changed == expected
    assert len(fake.writes) == 1


def test_stickiness_is_told_and_without_it_the_error_says_where_to_turn_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sticky = {"Enabled": True, "DurationSeconds": 600}
    fake = alb(monkeypatch, forward({BLUE: 999, GREEN: 0}, TargetGroupStickinessConfig=sticky))
    assert hook().sticky_by() == "cookie AWSALBTG, for 600 s"
    disabled = forward({BLUE: 999, GREEN: 0}, TargetGroupStickinessConfig={"Enabled": False})
    for off in (disabled, forward({BLUE: 1, GREEN: 0})):
        fake.actions = [off]
        with pytest.raises(UnknownTargetError, match="keeps no client on its side; turn stickiness on"):
            hook().sticky_by()
    assert fake.writes == []


def test_the_short_form_beside_several_groups_is_not_sent_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = alb(monkeypatch, {**forward({BLUE: 1, GREEN: 0}), "TargetGroupArn": BLUE})
    hook().set_weights(green("5"))
    assert "TargetGroupArn" not in fake.actions[0]


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        ([{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "503"}}], "0 forward actions"),
        ([{"Type": "forward", "TargetGroupArn": BLUE}], "green; add it there with weight 0"),
        ([forward({BLUE: 1, OTHER: 1})], "green"),
    ],
)
def test_an_action_that_does_not_name_both_groups_is_refused(
    actions: list[dict[str, Any]], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = alb(monkeypatch, *actions)
    with pytest.raises(UnknownTargetError, match=words):
        hook().get_weights()
    with pytest.raises(UnknownTargetError, match=words):
        hook().set_weights(green("5"))
    assert fake.writes == []


def test_a_stranger_with_traffic_bars_a_raise_but_not_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = alb(monkeypatch, forward({BLUE: 900, GREEN: 50, OTHER: 50}))
    with pytest.raises(LoadBalancerError, match="shares traffic with others"):
        hook().get_weights()
    with pytest.raises(LoadBalancerError, match="shares traffic with others"):
        hook().set_weights(green("10"))
    assert fake.writes == []
    hook().set_weights(green("0"))
    assert weights_of(fake.actions) == {BLUE: 999, GREEN: 0, OTHER: 50}


@pytest.mark.parametrize("states", [[], ["unhealthy", "healthy"], ["unused"], ["initial"], ["draining"]])
def test_a_canary_that_is_not_well_gets_no_more_traffic(states: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = alb(monkeypatch)
    fake.health[GREEN] = states
    assert hook().unhealthy("green")
    with pytest.raises(LoadBalancerError, match="Nothing was written: green"):
        hook().set_weights(green("5"))
    assert fake.writes == []


@pytest.mark.parametrize("states", [["healthy"], ["healthy", "initial"], ["healthy", "draining"], ["unavailable"]])
def test_targets_on_their_way_in_or_out_do_not_stop_a_raise(states: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fake = alb(monkeypatch)
    fake.health[GREEN] = states
    assert hook().unhealthy("green") == []
    hook().set_weights(green("5"))
    assert weights_of(fake.actions) == {BLUE: 950, GREEN: 50}


@pytest.mark.parametrize("action", [forward({GREEN: 1}), {"Type": "forward", "TargetGroupArn": GREEN}])
def test_the_way_back_puts_a_stable_group_back_that_somebody_took_out(
    action: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    alb(monkeypatch, action)
    hook().set_weights(green("0"))
    assert hook().get_weights() == green("0")


def test_the_way_back_needs_no_health(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = alb(monkeypatch, forward({BLUE: 950, GREEN: 50}))
    fake.health = {BLUE: ["unhealthy"], GREEN: ["unhealthy"]}
    hook().set_weights(green("0"))
    assert weights_of(fake.actions) == {BLUE: 999, GREEN: 0}
    assert fake.client.asked("describe_target_health") == []


@pytest.mark.parametrize(
    "weights", [{BLUE: 1000, GREEN: 0}, {BLUE: -1, GREEN: 2}, {BLUE: 0, GREEN: 0}, {f"{OTHER}{n}": 1 for n in range(6)}]
)
def test_what_an_alb_would_refuse_is_refused_before_it_is_asked(weights: dict[str, int]) -> None:
    with pytest.raises(LoadBalancerError):
        check_actions([forward(weights)], "The rule")


@pytest.mark.parametrize(
    "code",
    [
        "InvalidLoadBalancerAction",
        "TooManyUniqueTargetGroupsPerLoadBalancer",
        "OperationNotPermitted",
        "TooManyActions",
    ],
)
def test_a_refused_write_names_the_code_and_the_words_of_aws(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = alb(monkeypatch)

    def refuse(**_: Any) -> dict[str, Any]:
        raise refusal(code, "it will not")

    fake.client.answers["modify_rule"] = refuse
    with pytest.raises(LoadBalancerError, match=f"elasticloadbalancing:ModifyRule .* with {code}: it will not"):
        hook().set_weights(green("5"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_groups": GROUPS}, "either rule or listener"),
        ({"rule": RULE, "listener": LISTENER, "target_groups": GROUPS}, "either rule or listener"),
        ({"rule": LISTENER, "target_groups": GROUPS}, "no ARN of a rule"),
        ({"rule": "shop", "target_groups": GROUPS}, "no ARN"),
        ({"rule": RULE, "target_groups": {"blue": BLUE}}, "two backends"),
        ({"rule": RULE, "target_groups": {"blue": BLUE, "green": BLUE}}, "of its own"),
        ({"rule": RULE, "target_groups": {"blue": BLUE, "green": GREEN.replace("central", "west")}}, "another region"),
        ({"rule": RULE, "target_groups": {"blue": BLUE, "green": RULE}}, "no ARN of a target group"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        AlbOptions.model_validate(options)

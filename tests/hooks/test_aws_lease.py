"""A lease that EventBridge Scheduler ends: one schedule, moved in time, gone when it must not act."""

import json
from decimal import Decimal
from typing import Any

import pytest

from canary_release.core.ports import KeepsLease
from canary_release.core.problems import LoadBalancerError, ReleaseFileError, UnknownTargetError
from canary_release.core.release import Release, Target
from canary_release.core.values import Weights
from canary_release.hooks import aws_client
from canary_release.hooks.aws_alb import AwsAlbHook
from canary_release.hooks.aws_lease import LeasedAlbHook, LeaseOptions
from canary_release.hooks.registry import make_load_balancer
from contracts.fake_aws import FakeClient, refusal
from hooks.test_aws_alb import BLUE, GREEN, GROUPS, RULE, FakeAlb, forward, green, weights_of

ROLE = "arn:aws:iam::123456789012:role/canary-lease"
NOON = 1_800_014_400.0  # 2027-01-15T12:00:00Z


class FakeScheduler:
    """A schedule group. fail: operations that are refused."""

    def __init__(self) -> None:
        self.schedules: dict[str, dict[str, Any]] = {}
        self.fail: set[str] = set()
        self.client = FakeClient(
            "scheduler",
            {
                "create_schedule": lambda **asked: self._put("create_schedule", False, asked),
                "update_schedule": lambda **asked: self._put("update_schedule", True, asked),
                "delete_schedule": lambda **asked: self._delete(asked),
            },
        )

    @property
    def only(self) -> dict[str, Any]:
        (schedule,) = self.schedules.values()
        return schedule

    def _put(self, operation: str, exists: bool, asked: dict[str, Any]) -> dict[str, Any]:
        self._check(operation)
        if (asked["Name"] in self.schedules) is not exists:
            raise refusal("ResourceNotFoundException" if exists else "ConflictException")
        # As Scheduler does: what is not sent is gone.
        self.schedules[asked["Name"]] = asked
        return {"ScheduleArn": "arn"}

    def _delete(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._check("delete_schedule")
        if self.schedules.pop(asked["Name"], None) is None:
            raise refusal("ResourceNotFoundException")
        return {}

    def _check(self, operation: str) -> None:
        if operation in self.fail:
            raise refusal("InternalServerException", "sorry")


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOON
        self.alb = FakeAlb([forward({BLUE: 999, GREEN: 0})])
        self.scheduler = FakeScheduler()
        clients = {"elbv2": self.alb.client, "scheduler": self.scheduler.client}
        monkeypatch.setattr(aws_client, "kept_client", lambda _, service, __: clients[service])

    def hook(self) -> LeasedAlbHook:
        options = LeaseOptions(rule=RULE, target_groups=GROUPS, lease_role=ROLE)
        return LeasedAlbHook("aws_here", ("blue", "green"), options, clock=lambda: self.now)

    def carry_out(self) -> None:
        """What Scheduler does when a schedule is due: the call in its input, then its own end."""
        name, schedule = self.scheduler.schedules.popitem()
        assert schedule["Target"]["Arn"].endswith(":elasticloadbalancingv2:modifyRule"), name
        self.alb.client.modify_rule(**json.loads(schedule["Target"]["Input"]))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_load_balancer_keeps_a_lease_only_where_one_is_configured(world: World) -> None:
    assert isinstance(world.hook(), KeepsLease)
    assert not isinstance(AwsAlbHook("aws_here", ("blue", "green"), world.hook().options), KeepsLease)


def test_the_first_lease_makes_a_schedule_a_minute_before_its_end_that_gives_everything_back(world: World) -> None:
    world.hook().renew_lease(NOON + 300, "blue")
    made = world.scheduler.only
    assert made["ScheduleExpression"] == "at(2027-01-15T12:04:00)"
    assert (made["ScheduleExpressionTimezone"], made["State"]) == ("UTC", "ENABLED")
    assert made["FlexibleTimeWindow"] == {"Mode": "OFF"}
    assert made["ActionAfterCompletion"] == "DELETE"
    target = made["Target"]
    assert target["Arn"] == "arn:aws:scheduler:::aws-sdk:elasticloadbalancingv2:modifyRule"
    assert target["RoleArn"] == ROLE
    asked = json.loads(target["Input"])
    assert asked["RuleArn"] == RULE
    assert weights_of(asked["Actions"]) == {BLUE: 999, GREEN: 0}


def test_a_renewal_moves_the_one_schedule_and_sends_every_field_again(world: World) -> None:
    world.hook().renew_lease(NOON + 300, "blue")
    first = world.scheduler.only
    world.now += 60
    world.hook().renew_lease(NOON + 360, "blue")
    second = world.scheduler.only
    assert second["ScheduleExpression"] == "at(2027-01-15T12:05:00)"
    assert {**second, "ScheduleExpression": ""} == {**first, "ScheduleExpression": ""}


def test_a_canary_whose_lease_runs_out_goes_back_although_nothing_of_ours_lives(world: World) -> None:
    hook = world.hook()
    hook.renew_lease(NOON + 300, "blue")
    hook.set_weights(green("25"))
    world.carry_out()
    assert hook.get_weights() == green("0")


@pytest.mark.parametrize("safe", ["blue", "green"])
def test_the_end_of_a_lease_gives_everything_to_the_safe_side_and_leaves_no_schedule(safe: str, world: World) -> None:
    hook = world.hook()
    hook.renew_lease(NOON + 300, "blue")
    hook.set_weights(green("25"))
    hook.end_lease(safe)
    assert hook.get_weights()[safe] == 100
    assert world.scheduler.schedules == {}
    hook.end_lease(safe)


def test_a_schedule_that_cannot_be_deleted_is_an_error_after_the_traffic_was_moved(world: World) -> None:
    hook = world.hook()
    hook.renew_lease(NOON + 300, "blue")
    hook.set_weights(green("25"))
    world.scheduler.fail = {"delete_schedule"}
    with pytest.raises(LoadBalancerError, match=r"blue has all the traffic, but the schedule .* still stands"):
        hook.end_lease("blue")
    assert hook.get_weights() == green("0")


def test_a_lease_that_cannot_be_scheduled_is_an_error_before_any_weight_is_raised(world: World) -> None:
    world.scheduler.fail = {"update_schedule", "create_schedule"}
    with pytest.raises(LoadBalancerError, match="scheduler:UpdateSchedule"):
        world.hook().renew_lease(NOON + 300, "blue")
    assert world.alb.writes == []


@pytest.mark.parametrize("seconds", [-10, 0, 60, 120, 1e9])
def test_a_lease_that_a_schedule_cannot_keep_is_refused(seconds: float, world: World) -> None:
    with pytest.raises(LoadBalancerError, match="3 minutes or more"):
        world.hook().renew_lease(NOON + seconds, "blue")
    assert world.scheduler.schedules == {}


def test_a_safe_side_that_is_no_backend_is_refused(world: World) -> None:
    for act in (lambda: world.hook().renew_lease(NOON + 300, "red"), lambda: world.hook().end_lease("red")):
        with pytest.raises(UnknownTargetError, match="red"):
            act()
    assert world.alb.writes == []


@pytest.mark.parametrize(("lease", "fine"), [(60.0, False), (179.0, False), (180.0, True)])
def test_a_release_file_with_too_short_a_lease_is_refused_at_the_start(lease: float, fine: bool) -> None:
    options = {"rule": RULE, "target_groups": GROUPS, "lease_role": ROLE}
    release = Release(
        service="shop",
        load_balancer=Target("aws_alb_leased", "aws_here", options),
        backends=("blue", "green"),
        metrics=Target("replayed", "record"),
        steps=(),
        checks=(),
        lease=lease,
    )
    if fine:
        assert isinstance(make_load_balancer(release), KeepsLease)
        return
    with pytest.raises(ReleaseFileError, match="lease: is too short for aws_alb_leased; write `3m` or more"):
        make_load_balancer(release)


def test_the_weights_in_force_do_not_matter_to_what_is_scheduled(world: World) -> None:
    world.hook().set_weights(Weights({"blue": Decimal(40), "green": Decimal(60)}))
    world.hook().renew_lease(NOON + 300, "green")
    asked = json.loads(world.scheduler.only["Target"]["Input"])
    assert weights_of(asked["Actions"]) == {BLUE: 0, GREEN: 999}

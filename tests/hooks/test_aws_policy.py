"""The policy in docs/aws.md allows the calls that the hooks make, and no other."""

import json
import re
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from canary_release.core.values import Weights
from canary_release.hooks import aws_client
from canary_release.hooks.aws_alb import AwsAlbHook
from canary_release.hooks.aws_client import IAM_PREFIX
from canary_release.hooks.aws_lambda import AwsLambdaHook
from canary_release.hooks.aws_lease import LeasedAlbHook, LeaseOptions
from canary_release.hooks.aws_route53 import AwsRoute53Hook
from canary_release.hooks.cloudwatch import CloudWatchOptions, CloudWatchSource
from contracts.aws_cases import (  # noqa: F401  fixtures
    FUNCTION,
    LEASE_ROLE,
    RECORD,
    Aws,
    aws,
    hosted_zone,
    running_alb,
    running_moto,
)
from contracts.load_client import ask_many
from contracts.shop import BACKENDS

DOCUMENT = Path(__file__).parents[2] / "docs" / "aws.md"
STABLE, CANARY = BACKENDS
# Needed to hand a role to Scheduler; nobody calls it.
NO_CALL = {"iam:PassRole"}


def policies() -> list[dict[str, Any]]:
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)]


def actions_of(policy: dict[str, Any]) -> set[str]:
    listed = [statement["Action"] for statement in policy["Statement"]]
    return {action for one in listed for action in ([one] if isinstance(one, str) else one)}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The IAM actions of every call that leaves through botocore from now on."""
    calls: set[str] = set()
    whole = aws_client.new_client

    def watched(connection: Any, service: str, region: str | None) -> Any:
        client = whole(connection, service, region)

        def note(model: Any, **_: Any) -> None:
            calls.add(f"{IAM_PREFIX.get(service, service)}:{model.name}")

        client.meta.events.register("before-call", note)
        return client

    monkeypatch.setattr(aws_client, "new_client", watched)
    monkeypatch.setattr(aws_client, "_kept", {})
    return calls


def green(percent: str) -> Weights:
    return Weights.split(stable=STABLE, canary=CANARY, canary_percent=Decimal(percent))


def shift(balancer: Any) -> None:
    """What a rollout does to a load balancer."""
    for percent in ("0", "5", "100", "0"):
        balancer.set_weights(green(percent))
        assert balancer.get_weights() == green(percent)


def test_the_calls_of_a_rollout_on_everything_are_exactly_those_of_the_policy(
    aws: Aws,  # noqa: F811
    hosted_zone: str,  # noqa: F811
    made: set[str],
) -> None:
    aws.moto.make_function(FUNCTION, BACKENDS)
    shift(AwsAlbHook("aws_contract", BACKENDS, aws.options(*BACKENDS, by="listener")))
    options = LeaseOptions(**aws.options(*BACKENDS).model_dump(), lease_role=LEASE_ROLE)
    leased = LeasedAlbHook("aws_contract", BACKENDS, options)
    for seconds in (300, 360):
        leased.renew_lease(time.time() + seconds, STABLE)
    shift(leased)
    leased.end_lease(STABLE)
    shift(AwsLambdaHook("aws_contract", BACKENDS, AwsLambdaHook.Options(function=FUNCTION)))
    shift(AwsRoute53Hook("aws_contract", BACKENDS, AwsRoute53Hook.Options(zone=hosted_zone, record=RECORD)))
    cloudwatch(aws, time.time()).read({"end": int(time.time() // 60 - 10) * 60, "period": 60})
    assert made == actions_of(policies()[0]) - NO_CALL


def test_the_lease_role_may_do_what_its_schedule_does_and_nothing_else(aws: Aws) -> None:  # noqa: F811
    aws.moto.client("scheduler").create_schedule_group(Name="lease-role")
    done = set()
    for by in ("rule", "listener"):
        options = LeaseOptions(
            **aws.options(*BACKENDS, by=by).model_dump(), lease_role=LEASE_ROLE, lease_group="lease-role"
        )
        LeasedAlbHook("aws_contract", BACKENDS, options).renew_lease(time.time() + 300, STABLE)
    scheduler = aws.moto.client("scheduler")
    for schedule in scheduler.list_schedules(GroupName="lease-role")["Schedules"]:
        target = scheduler.get_schedule(GroupName="lease-role", Name=schedule["Name"])["Target"]
        service, _, action = target["Arn"].partition("aws-sdk:")[2].partition(":")
        assert service == "elasticloadbalancingv2"
        done.add(f"elasticloadbalancing:{action[0].upper()}{action[1:]}")
    assert done == actions_of(policies()[1])


def cloudwatch(aws: Aws, now: float) -> CloudWatchSource:  # noqa: F811
    groups = {name: {"TargetGroup": aws.alb.dimension(arn)} for name, arn in aws.alb.target_groups.items()}
    shared = {"LoadBalancer": aws.alb.dimension(aws.alb.load_balancer)}
    options = CloudWatchOptions(dimensions=shared, backends=groups, latency="none", region="eu-central-1")
    return CloudWatchSource("aws_contract", STABLE, CANARY, options, clock=lambda: now)


def test_cloudwatch_has_the_counts_that_clients_of_the_mirrored_alb_got(aws: Aws) -> None:  # noqa: F811
    minute = int(time.time() // 60) * 60
    AwsAlbHook("aws_contract", BACKENDS, aws.options(*BACKENDS)).set_weights(green("25"))
    aws.mirror.wait_until_followed()
    before = totals(aws, minute)
    pushed = sum(aws.mirror.pushed.values())
    answers = ask_many(aws.mirror.url, 200)
    aws.mirror.wait_until_pushed(pushed + 200)
    assert totals(aws, minute) == (before[0] + 150, before[1] + 50)
    assert answers == {(STABLE, 200): 150, (CANARY, 200): 50}


def totals(aws: Aws, minute: int) -> tuple[int, int]:  # noqa: F811
    windows, _ = cloudwatch(aws, minute + 600).read({"end": minute, "period": 60})
    stable = sum(window.stable.requests for window in windows if window.stable)
    return stable, sum(window.canary.requests for window in windows if window.canary)

"""A lease that AWS itself ends: a one-time schedule that gives everything to the safe side unless it is moved in time.

EventBridge Scheduler calls the load balancer's own API as a universal target, so nothing of ours, and no function of
anybody's, has to live.  https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-targets-universal.html
It starts a schedule within the minute of its time, so the schedule is set one minute before the lease's end.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any

from pydantic import Field

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import FULL, NONE, Weights
from canary_release.hooks.aws_alb import AlbOptions, AwsAlbHook, check_actions
from canary_release.hooks.aws_client import AwsClient, iam_action

PRECISION = 60.0  # seconds within which a schedule starts
SHORTEST_LEASE = 180.0  # seconds: the minute of precision, and two to renew it in
LATE = 20.0  # seconds that a lease may have aged before it is asked for here: other calls come first
LONGEST_LEASE = 366 * 86_400.0  # seconds; an instant in milliseconds is far beyond
TRIES = {"MaximumEventAgeInSeconds": 600, "MaximumRetryAttempts": 20}
# The SDK's name of a service as Scheduler's targets spell it.
TARGET_NAME = {"elbv2": "elasticloadbalancingv2"}
ROLE = r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9_+=,.@/-]+$"


class LeaseOptions(AlbOptions):
    """What a release file says about an ALB whose lease a schedule keeps."""

    lease_role: str = Field(pattern=ROLE, description="ARN of the role with which the schedule changes the weights.")
    lease_group: str = Field(
        "canary-release", pattern=r"^[0-9A-Za-z_.-]{1,64}$", description="EventBridge schedule group, made beforehand."
    )
    lease_dead_letters: str | None = Field(
        None, pattern=r"^arn:aws[a-z-]*:sqs:", description="ARN of a queue for schedules that could not be carried out."
    )


@dataclass
class Schedule:
    """One named one-time schedule in a group. role: with which it acts.  dead_letters: ARN of a queue, or None."""

    client: AwsClient
    name: str
    group: str
    role: str
    dead_letters: str | None = None

    def move_to(self, at: float, service: str, operation: str, parameters: dict[str, Any]) -> None:
        """Let it make this call at ``at`` (seconds since the epoch), whether it existed or not. LoadBalancerError."""
        everything = self._fields(at, service, operation, parameters)
        try:
            # An update leaves nothing of before: fields that are not sent go back to their defaults.
            self.client.call("update_schedule", **everything)
        except UnknownTargetError:
            self.client.call("create_schedule", **everything)

    def remove(self) -> None:
        """Nothing is left that could act. LoadBalancerError."""
        try:
            self.client.call("delete_schedule", Name=self.name, GroupName=self.group)
        except UnknownTargetError:
            return

    def _fields(self, at: float, service: str, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        action, partition = iam_action(service, operation).partition(":")[2], self.role.split(":")[1]
        target: dict[str, Any] = {
            "Arn": f"arn:{partition}:scheduler:::aws-sdk:{TARGET_NAME[service]}:{action[0].lower()}{action[1:]}",
            "RoleArn": self.role,
            "Input": json.dumps(parameters, sort_keys=True),
            "RetryPolicy": TRIES,
        }
        if self.dead_letters is not None:
            target["DeadLetterConfig"] = {"Arn": self.dead_letters}
        return {
            "Name": self.name,
            "GroupName": self.group,
            "Description": "Gives a canary's traffic back to the stable side when nobody renews its lease.",
            "ScheduleExpression": f"at({datetime.fromtimestamp(math.floor(at), UTC):%Y-%m-%dT%H:%M:%S})",
            "ScheduleExpressionTimezone": "UTC",
            "FlexibleTimeWindow": {"Mode": "OFF"},
            "State": "ENABLED",
            "ActionAfterCompletion": "DELETE",
            "Target": target,
        }


class LeasedAlbHook(AwsAlbHook):
    """An ALB whose canary goes back to stable by itself, at the latest when its lease ends, even with Airflow dead."""

    Options: type[AlbOptions] = LeaseOptions
    finest_step: Decimal = Decimal("0.1")

    def __init__(
        self,
        connection_id: str,
        backends: tuple[str, str],
        options: LeaseOptions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(connection_id, backends, options)
        self.lease = options
        self.clock = clock

    @staticmethod
    def shortest_lease(_: LeaseOptions) -> float:
        """Seconds, a poll not included."""
        return SHORTEST_LEASE

    def renew_lease(self, until: float, safe: str) -> None:
        """Schedule "everything to ``safe``" so that it has happened at ``until`` (seconds since the epoch).

        All else in the list of actions is sent as it is now.  Raises LoadBalancerError for a lease of less than three
        minutes, or when the schedule cannot be written; UnknownTargetError when ``safe`` is neither backend.
        """
        left = until - self.clock()
        if not SHORTEST_LEASE - LATE <= left <= LONGEST_LEASE:
            raise LoadBalancerError(
                f"A lease of {left:.0f} s was asked for; AWS keeps leases of {SHORTEST_LEASE / 60:g} minutes or more, "
                f"so write `lease: 5m` into the release file."
            )
        actions = self.actions_with_all_on(safe)
        check_actions(actions, self.options.where)
        operation, parameters = self.request(actions)
        self._schedule.move_to(until - PRECISION, "elbv2", operation, parameters)

    def end_lease(self, safe: str) -> None:
        """Give everything to ``safe`` now, then delete the schedule, which may have named the other side.

        Raises LoadBalancerError; when only the deletion failed, the sentence says where the traffic is.
        """
        if safe not in self.backends:
            raise UnknownTargetError(f"{safe} cannot be the safe side; the backends are {' and '.join(self.backends)}.")
        self.set_weights(Weights({name: FULL if name == safe else NONE for name in self.backends}))
        try:
            self._schedule.remove()
        except LoadBalancerError as error:
            raise LoadBalancerError(
                f"{safe} has all the traffic, but the schedule {self._schedule.group}/{self._schedule.name} still "
                f"stands and may move it when it is due; delete it. {error}"
            ) from None

    @cached_property
    def _schedule(self) -> Schedule:
        client = AwsClient(
            self.connection_id,
            "scheduler",
            raises=LoadBalancerError,
            missing=UnknownTargetError,
            unknown=frozenset({"ResourceNotFoundException"}),
            region=self.options.place.region,
        )
        # One for each rule or listener: who releases behind it next finds the schedule of before.
        name = f"canary-{hashlib.sha256(self.options.where.encode()).hexdigest()[:20]}"
        return Schedule(client, name, self.lease.lease_group, self.lease.lease_role, self.lease.lease_dead_letters)

"""Waits while a step is watched; the watching is done by a trigger, so no worker slot is held."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Context

from canary_release.control.desk import step_of
from canary_release.core.plan import longest
from canary_release.core.units import say_duration
from canary_release.operators.rollout_task import RolloutOperator, refusals_are_final, step_index
from canary_release.triggers.bake_trigger import BakeTrigger

_MARGIN = timedelta(minutes=5)


class BakeSensor(RolloutOperator):
    """Bake a step: until its time is over, or until the evidence ends it early either way.

    :param weight: the step's weight in percent.
    """

    def __init__(self, *, weight: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight

    def execute(self, context: Context) -> None:
        desk = self.open_desk()
        with refusals_are_final():
            rollout = self.rollout(desk, context)
            index = step_index(rollout, self.weight)
            assert index is not None, "the shift of this step was skipped, so this task was, too"
            step, release = step_of(rollout, index), desk.release(rollout)
        self.tell(
            f"bake     {self.weight} % for {say_duration(step.bake)}, a look every {say_duration(release.poll)}; "
            f"the trigger takes the canary off by itself when the evidence says so",
            f"  began                 {_instant(rollout.step_started_at)}",
            event="bake",
            rollout=rollout.id,
            weight=self.weight,
            seconds=step.bake,
            began=rollout.step_started_at,
        )
        most = timedelta(seconds=step.bake + longest(release, step) + release.max_no_data)
        self.defer(
            trigger=BakeTrigger(rollout.id, index, release.poll),
            method_name="baked",
            timeout=most + _MARGIN,
        )

    def baked(self, context: Context, event: dict[str, Any]) -> str:
        self.tell(f"bake     over: {event['decision']}", f"  {event['reason']}", event="baked", **event)
        return str(event["decision"])


def _instant(at: float | None) -> str:
    return "not yet" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

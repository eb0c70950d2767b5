"""Shift the traffic to a step's weight and see it in force."""

from datetime import UTC, datetime
from typing import Any, NoReturn

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from canary_release.control.desk import Desk, step_of, weights_for
from canary_release.control.opening import ClosedError, allow_time
from canary_release.control.stepping import Shifted, shift
from canary_release.core.values import plain
from canary_release.ledger.records import Rollout
from canary_release.operators.rollout_task import RolloutOperator, problems_are_final, step_index, weights_line
from canary_release.triggers.wait_trigger import WaitTrigger


class ShiftWeightOperator(RolloutOperator):
    """Write the step's weight, absolute and for both sides, and read it back.

    :param weight: the canary's share in percent, as written in the release file, for example ``"0.1"``.
    """

    def __init__(self, *, weight: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight

    def execute(self, context: Context) -> dict[str, str]:
        desk = self.open_desk()
        with problems_are_final():
            rollout = self.rollout(desk, context)
            index = step_index(rollout, self.weight)
            if index is None:
                self.skipped(f"{self.weight} % is not in this run's plan")
            if rollout.dry_run:
                wanted = weights_for(rollout, step_of(rollout, index))
                self.skipped(f"dry run: would ask the load balancer for {wanted}")
            try:
                shifted = shift(desk, rollout, index, actor=self.actor(context))
            except ClosedError as error:
                self._wait(context, desk, rollout, index, error)
        self._report(shifted)
        return {"weight": self.weight}

    def opened(self, context: Context, event: dict[str, str]) -> dict[str, str]:
        """The calendar may have opened; asking again is what decides."""
        if "over" in event:
            raise AirflowFailException(event["over"])
        return self.execute(context)

    def _wait(self, context: Context, desk: Desk, rollout: Rollout, index: int, error: ClosedError) -> NoReturn:
        """Wait for the calendar, the canary being watched on where it stands."""
        allow_time(desk, rollout, index, error.closed.until)
        until = datetime.fromtimestamp(error.closed.until, UTC)
        self.tell(
            f"shift    WAITS  {error}", event="closed", rollout=rollout.id, weight=self.weight, until=until.isoformat()
        )
        self.note(context, f"{rollout.service} {rollout.version} waits before {self.weight} %: {error.closed.sentence}")
        poll = desk.release(rollout).poll
        self.defer(trigger=WaitTrigger(rollout.id, poll, {"opening": True}), method_name="opened")
        raise AssertionError("defer never returns")

    def _report(self, shifted: Shifted) -> None:
        rollout, weight = shifted.rollout, plain(shifted.step.weight)
        before = plain(shifted.before[rollout.canary])
        if shifted.written is None:
            self.tell(f"shift    canary stands at {weight} % already; nothing written", event="shift", weight=weight)
            return
        took = shifted.written.seconds * 1000
        self.tell(
            f"shift    canary {before} % -> {weight} %   (load balancer reads back {weight} %, {took:.0f} ms)",
            weights_line("before", shifted.before),
            weights_line("asked", shifted.written.asked),
            weights_line("read back", shifted.written.read_back),
            f"  fence                 {rollout.fence}",
            event="shift",
            rollout=rollout.id,
            asked=weight,
            read_back=plain(shifted.written.read_back[rollout.canary]),
            seconds=round(shifted.written.seconds, 3),
        )

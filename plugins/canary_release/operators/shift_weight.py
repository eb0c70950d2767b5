"""Shift the traffic to a step's weight and see it in force."""

from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from canary_release.control.desk import step_of, weights_for
from canary_release.control.stepping import Shifted, shift
from canary_release.core.values import plain
from canary_release.operators.rollout_task import RolloutOperator, problems_are_final, step_index, weights_line


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
                raise AirflowSkipException(f"{self.weight} % is not in this run's plan")
            if rollout.dry_run:
                wanted = weights_for(rollout, step_of(rollout, index))
                raise AirflowSkipException(f"dry run: would ask the load balancer for {wanted}")
            shifted = shift(desk, rollout, index, actor=self.actor(context))
        self._report(shifted)
        return {"weight": self.weight}

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

"""Print a step's evidence, and go red when the canary is worse."""

from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from canary_release.control.stepping import judgement_of, ruling_of
from canary_release.core.values import Decision
from canary_release.core.window_words import window_table
from canary_release.core.wording import table
from canary_release.operators.rollout_task import RolloutOperator, refusals_are_final, step_index

MOST_WINDOWS = 200  # in the log; canary export has them all


class CompareMetricsOperator(RolloutOperator):
    """Judge the step's recorded windows once more and show every check with its numbers.

    :param weight: the step's weight in percent.
    """

    def __init__(self, *, weight: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight

    def execute(self, context: Context) -> str:
        desk = self.open_desk()
        with refusals_are_final():
            rollout = self.rollout(desk, context)
            index = step_index(rollout, self.weight)
            assert index is not None, "the shift of this step was skipped, so this task was, too"
            judgement = judgement_of(desk, rollout, index)
            record = ruling_of(desk, rollout, index)
        decision = record.decision if record is not None else "none"
        reason = record.reason if record is not None else "nothing was observed in this step"
        if decision not in (Decision.ADVANCE, Decision.PROMOTE, Decision.ROLL_BACK) and rollout.outcome_reason:
            # Nothing the evidence said: somebody or something else ended it, and that is why this task is red.
            reason = f"ended before its bake: {rollout.outcome_reason}"
        evidence = table(judgement) if judgement is not None else "no window was recorded"
        self.tell(
            f"compare  {rollout.service} {rollout.version} at {self.weight} %: {decision}",
            f"  {reason}",
            evidence,
            event="compare",
            rollout=rollout.id,
            weight=self.weight,
            decision=decision,
        )
        for said in judgement.checks if judgement is not None else ():
            self.fact(event="check", rollout=rollout.id, weight=self.weight, **said.to_json())
        windows = [window for window in desk.ledger.windows(rollout.id) if window.step == index]
        title = (
            f"The last {min(len(windows), MOST_WINDOWS)} of {len(windows)} windows of this step, as they were recorded"
        )
        self.fold(title, window_table(windows[-MOST_WINDOWS:]))
        context["ti"].xcom_push(key="decision", value=decision)
        if decision not in (Decision.ADVANCE, Decision.PROMOTE):
            raise AirflowFailException(f"{self.weight} %: {reason}")  # red here, at the step that failed
        return str(decision)

"""Branch to the next step, to promotion or to the rollback, by the ledger's word alone."""

from typing import Any

from airflow.sdk import Context
from airflow.sdk.bases.branch import BranchMixIn

from canary_release.control.stepping import ruling_of, take_off
from canary_release.core.problems import RefusedError
from canary_release.core.values import Decision
from canary_release.ledger.records import Rollout
from canary_release.operators.rollout_task import RolloutOperator, step_index


class DecideOperator(RolloutOperator, BranchMixIn):
    """Runs whatever happened before it.

    :param weight: the step's weight.  :param next_tasks: the next step's first tasks, or the promotion.
    :param roll_back_task: where to go in every other case.
    """

    inherits_from_skipmixin = True

    def __init__(self, *, weight: str, next_tasks: list[str], roll_back_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight
        self.next_tasks = next_tasks
        self.roll_back_task = roll_back_task

    def execute(self, context: Context) -> list[str]:
        desk = self.open_desk()
        try:
            rollout = self.rollout(desk, context)
        except RefusedError as error:
            self.skipped(str(error))
        index = step_index(rollout, self.weight)
        if rollout.dry_run or index is None:
            chosen, why = self.next_tasks, "a dry run goes on" if rollout.dry_run else "not in this run's plan"
        else:
            record = ruling_of(desk, rollout, index)
            chosen, why = self._choose(rollout, index, record.decision if record else None)
            if chosen == [self.roll_back_task] and not rollout.state.final:
                # The rollback task waits for every branch above it; the traffic does not.
                take_off(desk, rollout, why, actor=self.actor(context))
        named = ", ".join(chosen)
        self.tell(f"decide   {self.weight} %: {named}  ({why})", event="decide", weight=self.weight, chosen=named)
        self.do_branch(context, chosen)
        return chosen

    def _choose(self, rollout: Rollout, index: int, decision: str | None) -> tuple[list[str], str]:
        if index > max(rollout.step, 0):
            self.skipped(f"the step {self.weight} % was never begun")
        if decision in (Decision.ADVANCE, Decision.PROMOTE) and not rollout.outcome_reason:
            return self.next_tasks, f"the ledger says {decision}"
        return [self.roll_back_task], rollout.outcome_reason or f"the ledger says {decision or 'nothing'}"

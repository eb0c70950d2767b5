"""Watches the canary on while a person is asked, so that one that goes bad meanwhile does not wait for the answer."""

from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from canary_release.control.approving import step_to_approve
from canary_release.ledger.approvals import question_of
from canary_release.operators.rollout_task import RolloutOperator, refusals_are_final
from canary_release.triggers.wait_trigger import WaitTrigger


class KeepWatchSensor(RolloutOperator):
    """Ends with the answer, or red when the canary had to be taken off; then nobody needs to answer any more.

    :param weight: the weight in percent that the approval stands before.  :param approve_task: who asks.
    """

    def __init__(self, *, weight: str, approve_task: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.weight = weight
        self.approve_task = approve_task

    def execute(self, context: Context) -> str:
        desk = self.open_desk()
        with refusals_are_final():
            rollout = self.rollout(desk, context)
            index = step_to_approve(rollout, self.weight)
            poll = desk.release(rollout).poll
        if index is None or rollout.dry_run:
            return "nothing to wait for"
        question = question_of(desk.ledger, rollout.id, index)
        if question is not None and question.answer is not None:
            return str(question.answer)
        self.tell(
            f"watch    the canary is watched on while an approval of {self.weight} % is waited for",
            event="watch",
            rollout=rollout.id,
            weight=self.weight,
        )
        self.defer(trigger=WaitTrigger(rollout.id, poll, {"answer": index}), method_name="waited")
        raise AssertionError("defer never returns")

    def waited(self, context: Context, event: dict[str, str]) -> str:
        if "reached" in event:
            self.tell(f"watch    over: {event['reached']}", event="watched", reached=event["reached"])
            return event["reached"]
        desk = self.open_desk()
        with refusals_are_final():
            rollout = self.rollout(desk, context)
            index = step_to_approve(rollout, self.weight)
        question = question_of(desk.ledger, rollout.id, index) if index is not None else None
        self.tell(f"watch    over: {event['over']}", event="watched", rollout=rollout.id)
        if question is not None and question.answer is not None:
            self.skipped(f"the approval was {question.told}")
        skip_in_this_run([self.approve_task])
        raise AirflowFailException(event["over"])


def skip_in_this_run(task_ids: list[str]) -> None:
    """Skip tasks of this run that have not run, also one that waits for a person: nobody is asked any more."""
    from airflow.sdk.execution_time.comms import SkipDownstreamTasks
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    SUPERVISOR_COMMS.send(SkipDownstreamTasks(tasks=task_ids))

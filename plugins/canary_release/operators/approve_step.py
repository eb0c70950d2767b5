"""Ask a person before a step, in Airflow's own way of asking; the answer counts from the moment the ledger has it."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import Context, Param
from airflow.sdk.exceptions import AirflowFailException

from canary_release.control.approving import put, step_to_approve, take_answer, take_silence
from canary_release.control.desk import Desk, plan_of
from canary_release.core.units import say_duration
from canary_release.hooks.approver_groups import approvers, known_groups
from canary_release.ledger.approvals import Answer, NotEntitledError, Person, Question
from canary_release.ledger.records import Rollout
from canary_release.operators.rollout_task import RolloutOperator, problems_are_final
from canary_release.operators.start_release import looks_secret, plain_text

_LONGEST_COMMENT = 2000
_LONGEST_NAME = 250


class ApproveStepOperator(RolloutOperator, ApprovalOperator):
    """Wait for somebody who may approve. A rejection, or silence where the release file says so, takes the canary off.

    :param weight: the weight in percent that the approval stands before.
    """

    template_fields: Sequence[str] = ()  # a question holds texts from outside, which are no templates

    def __init__(self, *, weight: str, **kwargs: Any) -> None:
        comment = Param(None, type=["null", "string"], title="Comment", maxLength=_LONGEST_COMMENT)
        # The params of the DAG, which Airflow hands in here, are no fields of this question.
        question = {"subject": f"{weight} %?", "defaults": self.REJECT, "params": {"comment": comment}}
        super().__init__(**{**kwargs, **question})
        self.weight = weight

    def execute(self, context: Context) -> dict[str, str]:
        desk = self.open_desk()
        with problems_are_final():
            rollout = self.rollout(desk, context)
            index = step_to_approve(rollout, self.weight)
            if index is None:
                self.tell(f"approve  this run's plan has no approval before {self.weight} %")
                return {"answer": "not needed"}
            approval = plan_of(rollout).approval_before(index)
            assert approval is not None
            people = approvers(approval.by, known_groups())
            if rollout.dry_run:
                self.tell(f"approve  DRY RUN: would ask {', '.join(people)} before {self.weight} %")
                return {"answer": "dry run"}
            asked = put(
                desk, rollout, index, approvers=people, task_instance=str(context["ti"].id), actor=self.actor(context)
            )
        if asked.question.answer is not None:
            return self._done(asked.question)
        self.subject, self.body = asked.subject, asked.body
        self.assigned_users = [{"id": person, "name": person} for person in asked.question.approvers]
        self.response_timeout = timedelta(seconds=asked.wait)
        on = "holds; it goes on waiting" if asked.late else "waits"
        people = asked.question.approvers
        self.tell(
            f"approve  {asked.subject}  {on} for {', '.join(people)}, {say_duration(asked.wait)} at most",
            event="asked",
            rollout=rollout.id,
            weight=self.weight,
            approvers=list(people),
            seconds=asked.wait,
        )
        return super().execute(context)  # type: ignore[no-any-return]  # it never returns: the task waits

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, str]:
        desk = self.open_desk()
        with problems_are_final():
            rollout = self.rollout(desk, context)
            index = step_to_approve(rollout, self.weight)
            assert index is not None, "only a step that needs an approval asks for one"
            try:
                question = self._answered(desk, rollout, index, event, context)
            except NotEntitledError as error:
                self.log.warning("approve  NOT COUNTED  %s The question stands on.", error)
                question = None
        if question is None or question.answer is None:
            return self.execute(context)
        return self._done(question)

    def _answered(
        self, desk: Desk, rollout: Rollout, index: int, event: Mapping[str, Any], context: Context
    ) -> Question:
        by = _person(event.get("responded_by_user"))
        if by is None or "error" in event or event.get("timedout"):
            return take_silence(desk, rollout, index, actor=self.actor(context))
        said = Answer.APPROVE if list(event["chosen_options"]) == [self.APPROVE] else Answer.REJECT
        return take_answer(desk, rollout, index, said, by, _comment(event.get("params_input")))

    def _done(self, question: Question) -> dict[str, str]:
        self.tell(
            f"approve  {self.weight} %: {question.told}",
            event="answered",
            rollout=question.rollout_id,
            answer=str(question.answer),
            by=question.answered_by,
        )
        if question.answer is not Answer.APPROVE:
            raise AirflowFailException(f"{self.weight} %: {question.told}")
        return {"answer": str(question.answer), "by": question.answered_by or ""}


def _person(user: Any) -> Person | None:
    if not isinstance(user, Mapping) or not user.get("id"):
        return None
    id = plain_text(str(user["id"]), _LONGEST_NAME)
    return Person(id, plain_text(str(user.get("name") or id), _LONGEST_NAME))


def _comment(params: Any) -> str:
    written = params.get("comment") if isinstance(params, Mapping) else None
    comment = plain_text(str(written or ""), _LONGEST_COMMENT)
    return "(left out: it looks like a secret; change that secret)" if looks_secret(comment) else comment

"""Asking people before a step, and doing what they say: an approval opens the step, anything else takes the canary off.

The ledger keeps question and answer; what Airflow shows, stores or repeats decides nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from canary_release.control.desk import Desk, plan_of
from canary_release.control.notices import links_of
from canary_release.control.stepping import judgement_of, ruling_of, take_off
from canary_release.core.approval_words import Asking, body, subject
from canary_release.core.problems import RefusedError
from canary_release.core.release import Approval
from canary_release.core.values import NONE
from canary_release.ledger.approvals import (
    Answer,
    NotEntitledError,
    Person,
    Question,
    answer,
    ask,
    question_of,
    refused_answer,
)
from canary_release.ledger.records import Rollout

# Nobody can answer in less time than this.
_LEAST_WAIT = 1.0


@dataclass(frozen=True)
class Put:
    """A question as it is shown. wait: seconds until the timeout applies.  late: the timeout has passed and the rollout
    holds.
    """

    question: Question
    subject: str
    body: str
    wait: float
    late: bool = False


def step_to_approve(rollout: Rollout, weight: str) -> int | None:
    """Index of the plan's step that the approval before ``weight`` percent opens; None when this plan has none there.

    Where a run leaves the weight itself out, its approval stands before the next weight that is kept.
    """
    plan = plan_of(rollout)
    for index, step in enumerate(plan.weight_steps):
        if step.weight >= Decimal(weight):
            return index if plan.approval_before(index) is not None else None
    return None


def put(desk: Desk, rollout: Rollout, index: int, *, approvers: Sequence[str], task_instance: str, actor: str) -> Put:
    """Put the question before step ``index``, or find it as it was put first.

    approvers: ids or names of the users who may approve.  RefusedError when the rollout is being ended.
    """
    approval, now = _approval(rollout, index), desk.clock.now()
    first = question_of(desk.ledger, rollout.id, index) is None
    question = ask(
        desk.ledger, rollout, step=index, until=now + approval.timeout, approvers=approvers,
        task_instance=task_instance, actor=actor, at=now,
    )  # fmt: skip
    if first:
        desk.tell("approval", rollout, step=index - 1, wait=3.0)
    late = now >= question.until and approval.on_timeout == "hold"
    until = rollout.deadline if late else question.until
    asking = _asking(desk, rollout, index, question, until)
    return Put(question, subject(asking), body(asking), max(_LEAST_WAIT, until - now), late)


def take_answer(desk: Desk, rollout: Rollout, index: int, said: Answer, by: Person, comment: str) -> Question:
    """What somebody said. The question that is returned may hold an earlier answer: the first one stands.

    NotEntitledError when this person may not approve, and the question goes on standing; RefusedError when an approval
    comes too late.  A rejection takes the canary off before this returns.
    """
    try:
        question = answer(desk.ledger, rollout, step=index, said=said, by=by, comment=comment, at=desk.clock.now())
    except NotEntitledError as error:
        refused_answer(desk.ledger, rollout, step=index, by=by, why=str(error), at=desk.clock.now())
        raise
    return _acted(desk, rollout, question, actor=by.name)


def take_silence(desk: Desk, rollout: Rollout, index: int, *, actor: str) -> Question:
    """Nobody answered in time: by the release file the canary goes, or the question stands on until the rollout's
    deadline.
    """
    question = question_of(desk.ledger, rollout.id, index)
    now = desk.clock.now()
    if question is None:
        raise RefusedError(f"{rollout.id}: nobody was asked about step {index + 1}.")
    holds = _approval(rollout, index).on_timeout == "hold" and now < rollout.deadline
    if question.answer is None and not holds:
        question = answer(desk.ledger, rollout, step=index, said=Answer.TIMEOUT, by=None, comment="", at=now)
    return _acted(desk, rollout, question, actor=actor)


def _acted(desk: Desk, rollout: Rollout, question: Question, *, actor: str) -> Question:
    if question.answer in (Answer.REJECT, Answer.TIMEOUT) and not desk.ledger.rollout(rollout.id).state.final:
        # Whoever comes next finds the rollout barred and goes on, should the load balancer not obey at once.
        take_off(desk, rollout, f"the approval was {question.told}", actor=actor)
    return question


def _approval(rollout: Rollout, index: int) -> Approval:
    approval = plan_of(rollout).approval_before(index)
    if approval is None:
        raise RefusedError(f"the plan of {rollout.id} has no approval before step {index + 1}.")
    return approval


def _asking(desk: Desk, rollout: Rollout, index: int, question: Question, until: float) -> Asking:
    steps, exposed = plan_of(rollout).weight_steps, rollout.step >= 0
    ruling = ruling_of(desk, rollout, rollout.step) if exposed else None
    return Asking(
        service=rollout.service,
        version=rollout.version,
        old_version=rollout.old_version,
        safe_side=rollout.safe_side,
        started_by=rollout.started_by,
        standing=steps[rollout.step].weight if exposed else NONE,
        step=steps[index],
        approval=_approval(rollout, index),
        approvers=question.approvers,
        until=until,
        reason=ruling.reason if ruling is not None else "",
        why_released=rollout.reason,
        judgement=judgement_of(desk, rollout, rollout.step) if exposed else None,
        links=links_of(rollout, desk.release(rollout), desk.clock.now()),
    )

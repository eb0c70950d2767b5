"""Questions to people before a step, and their answers: the first answer stands, whatever is said later.

An answer that approves is only written for somebody who may give it, while the rollout still runs; the raise of the
step asks here again (authority.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from canary_release.core.plan import Plan
from canary_release.core.problems import RefusedError
from canary_release.ledger import tables
from canary_release.ledger.engine import insert_if_absent, storable
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger

_TABLE = tables.approvals


class Answer(StrEnum):
    APPROVE = "approve"
    REJECT = "reject"
    TIMEOUT = "timeout"


class NotEntitledError(RefusedError):
    """This person may not answer; the question still stands."""


@dataclass(frozen=True)
class Person:
    """Who answered, as Airflow knows them: its own id of the user, and the name that people use."""

    id: str
    name: str

    @property
    def names(self) -> set[str]:
        return {self.id, self.name}


@dataclass(frozen=True)
class Question:
    """An approval that was asked for. step: index of the weight step that needs it.  until: when the timeout applies.

    answer: None while it stands.  approvers: ids or names of the users who may answer.
    """

    rollout_id: str
    step: int
    asked_at: float
    until: float
    approvers: tuple[str, ...]
    task_instance: str | None
    answer: Answer | None
    answered_by: str | None
    answered_at: float | None
    comment: str

    @property
    def told(self) -> str:
        """``approved by ada: looks good``."""
        if self.answer is None:
            return "not answered yet"
        word = {Answer.APPROVE: "approved", Answer.REJECT: "rejected", Answer.TIMEOUT: "not answered in time"}
        by = f" by {self.answered_by}" if self.answer is not Answer.TIMEOUT else ""
        return f"{word[self.answer]}{by}" + (f": {self.comment}" if self.comment else "")


def ask(
    ledger: Ledger, rollout: Rollout, *, step: int, until: float, approvers: Sequence[str], task_instance: str,
    actor: str, at: float,
) -> Question:  # fmt: skip
    """Put the question, or find it as it was put first: asking again moves no deadline. Raises LedgerError."""
    with ledger._write() as connection:
        if _row(connection, rollout.id, step) is None:
            new = insert_if_absent(connection.engine, _TABLE)
            connection.execute(
                new.values(
                    rollout_id=rollout.id, step=step, asked_at=at, until=until, approvers=list(approvers), comment=""
                )
            )
            detail = {"step": step, "until": until, "approvers": list(approvers)}
            ledger._audit(connection, at, rollout.service, rollout.id, actor, "asked", detail)
        connection.execute(_this(rollout.id, step).values(task_instance=storable(task_instance)))
        return _question(_row(connection, rollout.id, step))


def answer(
    ledger: Ledger, rollout: Rollout, *, step: int, said: Answer, by: Person | None, comment: str, at: float
) -> Question:
    """Record the answer, unless there is one: then that one is returned. by: None for a timeout alone.

    NotEntitledError when this person may not give it; RefusedError for an approval of a rollout that is being ended.
    """
    with ledger._write() as connection:
        now = ledger._rollout(connection, rollout.id)
        row = _row(connection, rollout.id, step)
        if row is None:
            raise RefusedError(f"{rollout.id}: nobody was asked about step {step + 1}.")
        if row.answer is not None:
            return _question(row)
        _require_entitled(now, row, step, said, by)
        name = storable(by.name) if by is not None else None
        connection.execute(
            _this(rollout.id, step)
            .where(_TABLE.c.answer.is_(None))
            .values(answer=str(said), answered_by=name, answered_at=at, comment=storable(comment))
        )
        detail = {"step": step, "answer": str(said), "comment": comment}
        ledger._audit(connection, at, rollout.service, rollout.id, name or "timeout", "answered", detail)
        return _question(_row(connection, rollout.id, step))


def refused_answer(ledger: Ledger, rollout: Rollout, *, step: int, by: Person, why: str, at: float) -> None:
    """Keep in the audit trail that somebody answered who may not. Raises LedgerError."""
    with ledger._write() as connection:
        detail = {"step": step, "why": why}
        ledger._audit(connection, at, rollout.service, rollout.id, by.name, "answer_refused", detail)


def question_of(ledger: Ledger, rollout_id: str, step: int) -> Question | None:
    """The question before the weight step ``step``, None when it was not put yet. Raises LedgerError."""
    with ledger._read() as connection:
        row = _row(connection, rollout_id, step)
        return None if row is None else _question(row)


def _require_entitled(now: Rollout, row: sa.Row[Any], step: int, said: Answer, by: Person | None) -> None:
    """Saying no needs no permission."""
    if said is not Answer.APPROVE:
        return
    if by is None:
        raise RefusedError(f"{now.id}: an approval needs somebody who gives it.")
    if not by.names & set(row.approvers):
        raise NotEntitledError(
            f"{by.name} may not answer for step {step + 1} of {now.id}; it may be answered by: "
            f"{', '.join(row.approvers)}."
        )
    approval = Plan.from_json(now.plan).approval_before(step)
    if approval is not None and approval.not_by_starter and now.started_by in by.names:
        raise NotEntitledError(f"{by.name} started {now.id}, so somebody else must approve step {step + 1}.")
    if now.state is not State.RUNNING:
        raise RefusedError(f"too late: {now.id} is {now.state} ({now.outcome_reason}).")


def _row(connection: sa.Connection, rollout_id: str, step: int) -> Any:
    query = _TABLE.select().where(_TABLE.c.rollout_id == rollout_id, _TABLE.c.step == step)
    return connection.execute(query).first()


def _this(rollout_id: str, step: int) -> sa.Update:
    return _TABLE.update().where(_TABLE.c.rollout_id == rollout_id, _TABLE.c.step == step)


def _question(row: Any) -> Question:
    return Question(
        rollout_id=row.rollout_id,
        step=row.step,
        asked_at=row.asked_at,
        until=row.until,
        approvers=tuple(row.approvers),
        task_instance=row.task_instance,
        answer=None if row.answer is None else Answer(row.answer),
        answered_by=row.answered_by,
        answered_at=row.answered_at,
        comment=row.comment,
    )

"""What was called on the outside around a rollout. A row stands before the call, so that a retry does not repeat it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from canary_release.ledger import tables
from canary_release.ledger.engine import insert_if_absent, storable
from canary_release.ledger.records import Rollout
from canary_release.ledger.store import Ledger

_TABLE = tables.hook_calls


class CallState(StrEnum):
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True)
class Place:
    """Which call of a rollout is meant. moment: ``before``, ...  step: index of the weight step it belongs to, -1
    without one.  position: its place in the release file's list.
    """

    moment: str
    step: int
    position: int


@dataclass(frozen=True)
class Call:
    place: Place
    what: str
    state: CallState
    detail: str
    started_at: float
    ended_at: float | None


def begin_call(ledger: Ledger, rollout: Rollout, place: Place, what: str, *, actor: str, at: float) -> Call:
    """Note that something is about to be called, or find what was noted before. Raises LedgerError."""
    with ledger._write() as connection:
        row = _row(connection, rollout, place)
        if row is None:
            new = insert_if_absent(connection.engine, _TABLE)
            values = {"what": storable(what), "state": str(CallState.RUNNING), "detail": "", "started_at": at}
            connection.execute(new.values(**_key(rollout, place), **values))
            detail = {"moment": place.moment, "step": place.step, "what": what}
            ledger._audit(connection, at, rollout.service, rollout.id, actor, "calls", detail)
            row = _row(connection, rollout, place)
        return _call(row)


def end_call(
    ledger: Ledger, rollout: Rollout, place: Place, state: CallState, detail: str, *, actor: str, at: float
) -> None:
    """Note how a call ended; one that has ended stays as it is. Raises LedgerError."""
    with ledger._write() as connection:
        changed = connection.execute(
            _TABLE.update()
            .where(*_is(rollout, place), _TABLE.c.state == CallState.RUNNING)
            .values(state=str(state), detail=storable(detail), ended_at=at)
        )
        if changed.rowcount == 1:
            said = {"moment": place.moment, "step": place.step, "state": str(state), "detail": detail}
            ledger._audit(connection, at, rollout.service, rollout.id, actor, "called", said)


def _key(rollout: Rollout, place: Place) -> dict[str, Any]:
    return {"rollout_id": rollout.id, "moment": place.moment, "step": place.step, "position": place.position}


def _is(rollout: Rollout, place: Place) -> list[sa.ColumnElement[bool]]:
    return [_TABLE.c[name] == value for name, value in _key(rollout, place).items()]


def _row(connection: sa.Connection, rollout: Rollout, place: Place) -> Any:
    return connection.execute(_TABLE.select().where(*_is(rollout, place))).first()


def _call(row: Any) -> Call:
    place = Place(row.moment, row.step, row.position)
    return Call(place, row.what, CallState(row.state), row.detail, row.started_at, row.ended_at)

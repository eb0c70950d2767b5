"""Which notices are due, were sent or failed. A key is told once to each channel, whoever tells it."""

from dataclasses import dataclass

import sqlalchemy as sa

from canary_release.ledger.engine import insert_if_absent, storable
from canary_release.ledger.store import Ledger
from canary_release.ledger.tables import notices

PAUSES = (0.0, 30.0, 120.0, 600.0, 1800.0)
"""Seconds from the event to each attempt; there is none after the last."""
_OLDEST = 86400.0
_MOST_AT_ONCE = 20


@dataclass(frozen=True)
class Told:
    """One notice for one channel. at: the event's instant.  sent_at: None while it was not sent.  error: of the last
    attempt, empty when it was sent or never tried.
    """

    channel: str
    key: str
    service: str
    rollout_id: str | None
    event: str
    at: float
    sent_at: float | None
    attempts: int
    error: str


def offer(
    ledger: Ledger, *, channel: str, key: str, service: str, rollout_id: str | None, event: str, at: float
) -> None:
    """Note that something is to be told; what was offered before stays as it is. Raises LedgerError."""
    values = {"channel": channel, "key": key, "service": service, "rollout_id": rollout_id, "event": event, "at": at}
    with ledger._write() as connection:
        connection.execute(insert_if_absent(connection.engine, notices).values(**values, attempts=0, error=""))


def claim(ledger: Ledger, told: Told) -> bool:
    """Take the next attempt at a notice: False when it was sent, or somebody else took this attempt. LedgerError."""
    with ledger._write() as connection:
        taken = connection.execute(
            notices.update()
            .where(_is(told), notices.c.sent_at.is_(None), notices.c.attempts == told.attempts)
            .values(attempts=told.attempts + 1, error="no answer yet")
        )
        return bool(taken.rowcount == 1)


def sent(ledger: Ledger, told: Told, *, at: float) -> None:
    with ledger._write() as connection:
        connection.execute(notices.update().where(_is(told)).values(sent_at=at, error=""))


def failed(ledger: Ledger, told: Told, error: str) -> None:
    with ledger._write() as connection:
        unsent = notices.update().where(_is(told), notices.c.sent_at.is_(None))
        connection.execute(unsent.values(error=storable(error)))


def due(ledger: Ledger, *, now: float) -> list[Told]:
    """What has to be tried (again) at ``now``, oldest first, a few at a time. Raises LedgerError."""
    waited = [
        sa.and_(notices.c.attempts == attempts, notices.c.at <= now - pause) for attempts, pause in enumerate(PAUSES)
    ]
    query = (
        notices.select()
        .where(notices.c.sent_at.is_(None), notices.c.at > now - _OLDEST, sa.or_(*waited))
        .order_by(notices.c.id)
        .limit(_MOST_AT_ONCE)
    )
    with ledger._read() as connection:
        return [_told(row) for row in connection.execute(query)]


def told_of(ledger: Ledger, rollout_id: str) -> list[Told]:
    """Everything that was to be told of a rollout, oldest first. Raises LedgerError."""
    query = notices.select().where(notices.c.rollout_id == rollout_id).order_by(notices.c.id)
    with ledger._read() as connection:
        return [_told(row) for row in connection.execute(query)]


def _is(told: Told) -> sa.ColumnElement[bool]:
    return sa.and_(notices.c.channel == told.channel, notices.c.key == told.key)


def _told(row: "sa.Row[tuple[object, ...]]") -> Told:
    values = dict(row._mapping)
    values.pop("id")
    return Told(**values)

"""The ledger: the durable record of all rollouts, which alone decides what may be raised.

Every method is one transaction. Raising a weight is authorised here, in the transaction that writes the intent;
lowering is never refused.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from alembic.util.exc import CommandError
from sqlalchemy.exc import SQLAlchemyError

from canary_release.core.problems import LedgerError, RefusedError
from canary_release.core.values import Cursor, Weights, Window
from canary_release.ledger import audit_chain, statements, tables
from canary_release.ledger.authority import require_in_charge, require_promotion, require_step
from canary_release.ledger.engine import (
    insert_if_absent,
    make_engine,
    reading,
    said_of,
    shown_url,
    storable,
    writing,
)
from canary_release.ledger.records import AuditEntry, DecisionRecord, NewRollout, Rollout, State, Write
from canary_release.ledger.schema_version import bring_up_to_date
from canary_release.ledger.window_json import window_from_json, window_to_json


class Ledger:
    """Reads and writes one ledger database. Safe to share between threads; opened once a process."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> "Ledger":
        """Connect and bring the schema up to date. Raises LedgerError with the URL, its password hidden."""
        try:
            engine = make_engine(url)
            bring_up_to_date(engine)
        except (SQLAlchemyError, CommandError, OSError, ValueError, ImportError) as error:
            # Not chained: the driver's own error may repeat the password.
            raise LedgerError(f"the ledger at {shown_url(url)} cannot be opened: {said_of(error, url)}") from None
        return cls(engine)

    def close(self) -> None:
        self._engine.dispose()

    # -- rollouts ---------------------------------------------------------------------------------------------------

    def begin(self, new: NewRollout, *, at: float) -> Rollout:
        """Give the rollout its service's next generation and fence. RefusedError when the service is busy."""
        with self._write() as connection:
            row = self._service_row(connection, new.service)
            if row.holder is not None and not new.dry_run:
                raise RefusedError(self._busy_sentence(connection, new.service, row.holder))
            generation, fence = row.generation + 1, row.fence + (0 if new.dry_run else 1)
            rollout_id = f"{new.service}-{generation}"
            values = asdict(new)
            settings = values.pop("settings")
            values |= {name: storable(values[name]) for name in ("started_by", "reason", "version")}
            state = State.DRY_RUN if new.dry_run else State.RUNNING
            old_version = self._promoted_version(connection, new.service)
            connection.execute(
                tables.rollouts.insert().values(
                    id=rollout_id, generation=generation, fence=fence, state=state, safe_side=new.stable,
                    old_version=old_version, started_at=at, **values,
                )
            )  # fmt: skip
            holder = row.holder if new.dry_run else rollout_id
            connection.execute(
                tables.services.update()
                .where(tables.services.c.service == new.service)
                .values(generation=generation, fence=fence, holder=holder, settings=settings)
            )
            detail = {"version": new.version, "old_version": old_version, "dry_run": new.dry_run, "fence": fence}
            detail |= {"release_sha256": new.release_sha256, "reason": new.reason, "plan": new.plan}
            self._audit(connection, at, new.service, rollout_id, new.started_by, "started", detail)
            return self._rollout(connection, rollout_id)

    def rollout(self, rollout_id: str) -> Rollout:
        with self._read() as connection:
            return self._rollout(connection, rollout_id)

    def rollout_of_run(self, dag_id: str, run_id: str) -> Rollout | None:
        return self._first(statements.OF_RUN, dag=dag_id, run=run_id)

    def active(self, service: str) -> Rollout | None:
        table = tables.rollouts
        final = [state for state in State if state.final]
        return self._first(table.select().where(table.c.service == service, table.c.state.not_in(final)))

    def unfinished(self) -> list[Rollout]:
        table = tables.rollouts
        final = [state for state in State if state.final]
        return self._all(table.select().where(table.c.state.not_in(final)).order_by(table.c.started_at))

    def history(self, service: str | None = None, *, limit: int = 20) -> list[Rollout]:
        """Newest first."""
        table = tables.rollouts
        query = table.select().order_by(table.c.started_at.desc(), table.c.generation.desc()).limit(limit)
        return self._all(query if service is None else query.where(table.c.service == service))

    def services(self) -> dict[str, Mapping[str, Any]]:
        """Every service ever released, with what is needed to find its load balancer."""
        with self._read() as connection:
            rows = connection.execute(tables.services.select().order_by(tables.services.c.service))
            return {row.service: row.settings for row in rows}

    # -- writes to the load balancer --------------------------------------------------------------------------------

    def intend_raise(
        self, rollout: Rollout, *, step: int, weights: Weights, why: str, actor: str, at: float, lease_until: float
    ) -> int:
        """Authorise a raise and record it before it happens; returns the intent's id.

        RefusedError unless the rollout is in charge and ``step`` with these weights follows from plan and decisions
        (authority.py).
        """
        with self._write() as connection:
            now = self._rollout(connection, rollout.id)
            service = self._service_row(connection, rollout.service)
            require_in_charge(now, service, fence=rollout.fence, at=at)
            require_step(connection, now, step=step, weights=weights)
            connection.execute(
                tables.rollouts.update()
                .where(tables.rollouts.c.id == rollout.id)
                .values(step=step, lease_until=lease_until, **({} if now.step == step else {"step_started_at": None}))
            )
            return self._intent(connection, now, raises=True, weights=weights, why=why, actor=actor, at=at)

    def may_stand(self, rollout: Rollout, *, at: float) -> None:
        """RefusedError when a weight that this rollout raised may not stand: somebody took over meanwhile."""
        with self._read() as connection:
            now = self._rollout(connection, rollout.id)
            table = tables.services
            service = connection.execute(table.select().where(table.c.service == rollout.service)).one()
            require_in_charge(now, service, fence=rollout.fence, at=at)

    def intend_lower(
        self, service: str, rollout: Rollout | None, *, weights: Weights, why: str, actor: str, at: float
    ) -> int:
        """Record that a canary is about to be taken off. Never refused; bars every later raise of this rollout."""
        with self._write() as connection:
            if rollout is not None:
                connection.execute(
                    tables.rollouts.update()
                    .where(tables.rollouts.c.id == rollout.id, tables.rollouts.c.state == State.RUNNING)
                    .values(state=State.ROLLING_BACK, outcome_reason=storable(why))
                )
            return self._intent(
                connection, rollout, raises=False, weights=weights, why=why, actor=actor, at=at, service=service
            )

    def observe_weights(self, intent_id: int, *, weights: Weights, at: float, seconds: float, actor: str) -> None:
        """Record what the load balancer said after an intent was carried out."""
        with self._write() as connection:
            seen = {"intent_id": intent_id, "at": at, "weights": weights.to_json(), "seconds": seconds}
            connection.execute(statements.SEEN, seen)
            intent = connection.execute(tables.intents.select().where(tables.intents.c.id == intent_id)).one()
            detail = {"intent": intent_id, "read_back": weights.to_json(), "seconds": round(seconds, 3)}
            self._audit(connection, at, intent.service, intent.rollout_id, actor, "read_back", detail)

    def begin_step(self, rollout_id: str, *, at: float, cursor: Cursor, lease_until: float) -> None:
        """A raised weight was read back: the step is counted from now on, the metrics from this cursor."""
        table = tables.rollouts
        with self._write() as connection:
            connection.execute(
                table.update()
                .where(table.c.id == rollout_id, table.c.step_started_at.is_(None))
                .values(
                    step_started_at=at, cursor=dict(cursor), cursor_moves=table.c.cursor_moves + 1, blind_since=None
                )
            )
            running = table.update().where(table.c.id == rollout_id, table.c.state == State.RUNNING)
            connection.execute(running.values(lease_until=lease_until))

    def writes(self, rollout_id: str) -> list[Write]:
        """Every intent of a rollout with its read-back, oldest first."""
        with self._read() as connection:
            return [_write_record(row) for row in connection.execute(statements.WRITES, {"wanted": rollout_id})]

    # -- evidence ---------------------------------------------------------------------------------------------------

    def store_windows(
        self, rollout: Rollout, new: Sequence[Window], *, cursor: Cursor, lease_until: float | None
    ) -> bool:
        """Store windows and the cursor behind them together, and renew the lease.

        False when another reader was faster or the rollout is being ended: then nothing was stored.
        """
        table = tables.rollouts
        moved: dict[str, Any] = {"cursor": dict(cursor), "cursor_moves": rollout.cursor_moves + 1, "blind_since": None}
        if lease_until is not None:
            moved["lease_until"] = lease_until
        with self._write() as connection:
            changed = connection.execute(
                table.update()
                .where(
                    table.c.id == rollout.id,
                    table.c.cursor_moves == rollout.cursor_moves,
                    table.c.state == State.RUNNING,
                )
                .values(**moved)
            )
            if changed.rowcount != 1:
                return False
            for window in new:
                values = {"rollout_id": rollout.id, "index": window.index, "step": window.step}
                connection.execute(statements.NEW_WINDOW, {**values, "content": window_to_json(window)})
            return True

    def windows(self, rollout_id: str) -> list[Window]:
        with self._read() as connection:
            rows = connection.execute(statements.WINDOWS, {"wanted": rollout_id})
            return [window_from_json(row.content) for row in rows]

    def set_noise(self, rollout: Rollout, noise: Mapping[str, Any], *, actor: str, at: float) -> Rollout:
        """Keep what was learned of the service's noise; every judgement of this rollout uses it from now on."""
        table = tables.rollouts
        with self._write() as connection:
            connection.execute(table.update().where(table.c.id == rollout.id).values(noise=dict(noise)))
            self._audit(connection, at, rollout.service, rollout.id, actor, "learned", noise)
            return self._rollout(connection, rollout.id)

    def set_blind(self, rollout_id: str, *, since: float) -> float:
        """Note when reading the metrics began to fail; returns that first instant."""
        table = tables.rollouts
        with self._write() as connection:
            connection.execute(
                table.update().where(table.c.id == rollout_id, table.c.blind_since.is_(None)).values(blind_since=since)
            )
            return float(self._rollout(connection, rollout_id).blind_since or since)

    def record_decision(self, rollout: Rollout, record: DecisionRecord, *, actor: str) -> None:
        with self._write() as connection:
            said = {"rollout_id": rollout.id, "reason": storable(record.reason)}
            connection.execute(statements.NEW_DECISION, asdict(record) | said)
            detail = {"step": record.step, "window": record.window, "decision": record.decision}
            detail |= {"verdict": record.verdict, "reason": record.reason}
            self._audit(connection, record.at, rollout.service, rollout.id, actor, "decided", detail)

    def decisions(self, rollout_id: str) -> list[DecisionRecord]:
        with self._read() as connection:
            rows = connection.execute(statements.DECISIONS, {"wanted": rollout_id})
            return [
                DecisionRecord(row.step, row.window, row.at, row.decision, row.verdict, row.reason, row.judgement)
                for row in rows
            ]

    # -- endings ----------------------------------------------------------------------------------------------------

    def commit_promotion(self, rollout: Rollout, *, actor: str, at: float) -> Rollout:
        """From here on the canary is the safe side. RefusedError unless the rollout may still raise."""
        with self._write() as connection:
            now = self._rollout(connection, rollout.id)
            if now.state in (State.PROMOTING, State.PROMOTED):
                return now
            service = self._service_row(connection, rollout.service)
            require_in_charge(now, service, fence=rollout.fence, at=at)
            require_promotion(connection, now)
            table = tables.rollouts
            connection.execute(
                table.update().where(table.c.id == rollout.id).values(state=State.PROMOTING, safe_side=rollout.canary)
            )
            self._audit(connection, at, rollout.service, rollout.id, actor, "promoting", {"safe_side": rollout.canary})
            return self._rollout(connection, rollout.id)

    def end(self, rollout: Rollout, state: State, *, reason: str, actor: str, at: float) -> Rollout:
        """Record a final state and free the service. A final state is never changed again."""
        table = tables.rollouts
        with self._write() as connection:
            if self._rollout(connection, rollout.id).state.final:
                return self._rollout(connection, rollout.id)
            connection.execute(
                table.update()
                .where(table.c.id == rollout.id)
                .values(state=state, outcome_reason=storable(reason), ended_at=at, lease_until=None)
            )
            connection.execute(
                tables.services.update()
                .where(tables.services.c.service == rollout.service, tables.services.c.holder == rollout.id)
                .values(holder=None)
            )
            self._audit(connection, at, rollout.service, rollout.id, actor, str(state), {"reason": reason})
            return self._rollout(connection, rollout.id)

    def verify_audit(self) -> tuple[audit_chain.Head, list[str]]:
        """The audit chain's head, and everything that is wrong with the chain."""
        with self._write() as connection:
            head = self._head(connection, lock=True)
            rows = connection.execute(tables.audit.select().order_by(tables.audit.c.seq))
            return head, audit_chain.verify((audit_chain.entry(row) for row in rows), head)

    def audit_trail(self, *, service: str | None = None, rollout_id: str | None = None) -> list[AuditEntry]:
        table = tables.audit
        query = table.select().order_by(table.c.seq)
        if service is not None:
            query = query.where(table.c.service == service)
        if rollout_id is not None:
            query = query.where(table.c.rollout_id == rollout_id)
        with self._read() as connection:
            return [audit_chain.entry(row) for row in connection.execute(query)]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _intent(
        self, connection: sa.Connection, rollout: Rollout | None, *, raises: bool, weights: Weights, why: str,
        actor: str, at: float, service: str | None = None,
    ) -> int:  # fmt: skip
        name = rollout.service if rollout is not None else str(service)
        rollout_id = rollout.id if rollout is not None else None
        fence = rollout.fence if rollout is not None else 0
        values: dict[str, Any] = {"rollout_id": rollout_id, "service": name, "fence": fence, "at": at}
        values |= {"actor": storable(actor), "raises": raises, "weights": weights.to_json(), "why": storable(why)}
        result = connection.execute(statements.NEW_INTENT, values)
        intent_id = int(result.inserted_primary_key[0])  # type: ignore[index]  # None only for executemany
        detail = {"intent": intent_id, "asked": weights.to_json(), "why": why, "fence": fence}
        event = "intends_raise" if raises else "intends_lower"
        self._audit(connection, at, name, rollout_id, actor, event, detail)
        return intent_id

    def _audit(
        self, connection: sa.Connection, at: float, service: str, rollout_id: str | None, actor: str, event: str,
        detail: Mapping[str, Any],
    ) -> None:  # fmt: skip
        head = self._head(connection, lock=True)
        values = audit_chain.link(
            head, at=at, service=service, rollout_id=rollout_id, actor=storable(actor), event=event,
            detail=json.dumps(detail, sort_keys=True),
        )  # fmt: skip
        connection.execute(statements.NEW_ENTRY, values)
        connection.execute(statements.MOVED_HEAD, {"seq": values["seq"], "hash": values["hash"]})

    def _head(self, connection: sa.Connection, *, lock: bool = False) -> audit_chain.Head:
        """Locked, it makes the writers of the audit trail wait for each other."""
        row = connection.execute(statements.LOCKED_HEAD if lock else statements.HEAD).first()
        if row is not None:
            return audit_chain.Head(row.seq, row.hash)
        first = insert_if_absent(self._engine, tables.audit_head)
        connection.execute(first.values(id=1, seq=0, hash=audit_chain.GENESIS))
        return self._head(connection, lock=lock)

    def _service_row(self, connection: sa.Connection, service: str) -> sa.Row[Any]:
        new = insert_if_absent(self._engine, tables.services)
        connection.execute(new.values(service=service, generation=0, fence=0, settings={}))
        return connection.execute(statements.LOCKED_SERVICE, {"wanted": service}).one()

    def _busy_sentence(self, connection: sa.Connection, service: str, holder: str) -> str:
        other = self._rollout(connection, holder)
        return (
            f"{service} is busy: {other.id} (version {other.version}, run {other.run_id}, started by "
            f"{other.started_by}) is {other.state}. Wait for it to end, or abort it first."
        )

    def _promoted_version(self, connection: sa.Connection, service: str) -> str:
        table = tables.rollouts
        query = sa.select(table.c.version).where(table.c.service == service, table.c.state == State.PROMOTED)
        return connection.execute(query.order_by(table.c.generation.desc()).limit(1)).scalar() or "unknown"

    def _rollout(self, connection: sa.Connection, rollout_id: str) -> Rollout:
        row = connection.execute(statements.ROLLOUT, {"wanted": rollout_id}).first()
        if row is None:
            raise RefusedError(f"the ledger knows no rollout {rollout_id!r}.")
        return _rollout_record(row)

    def _first(self, query: sa.Select[Any], **values: str) -> Rollout | None:
        with self._read() as connection:
            row = connection.execute(query, values).first()
            return None if row is None else _rollout_record(row)

    def _all(self, query: sa.Select[Any]) -> list[Rollout]:
        with self._read() as connection:
            return [_rollout_record(row) for row in connection.execute(query)]

    def _write(self) -> AbstractContextManager[sa.Connection]:
        return writing(self._engine)

    def _read(self) -> AbstractContextManager[sa.Connection]:
        return reading(self._engine)


def _rollout_record(row: sa.Row[Any]) -> Rollout:
    values = dict(row._mapping)
    return Rollout(**(values | {"state": State(values["state"])}))


def _write_record(row: sa.Row[Any]) -> Write:
    return Write(
        intent_id=row.id, rollout_id=row.rollout_id, service=row.service, at=row.at, actor=row.actor,
        raises=row.raises, asked=Weights.from_json(row.weights), why=row.why,
        read_back=None if row.seen is None else Weights.from_json(row.seen),
        read_back_at=row.seen_at, seconds=row.seconds,
    )  # fmt: skip

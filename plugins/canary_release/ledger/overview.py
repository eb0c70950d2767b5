"""What pages show of many services at once, in a handful of queries however many there are; and the people around one
rollout. Reading only, but for the summary of a finished rollout, which is kept once it was computed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import sqlalchemy as sa

from canary_release.core.plan import Plan
from canary_release.core.problems import LedgerError
from canary_release.core.release import Step
from canary_release.core.values import Decision, Weights
from canary_release.ledger import tables
from canary_release.ledger.records import DecisionRecord, Rollout, State
from canary_release.ledger.store import Ledger

OUTCOMES = 10
_DRY_RUNS = 6  # so many of them among the last rollouts hide none of the others
RECENT_WINDOWS = 6
FINAL = tuple(str(state) for state in State if state.final)
_TOLD = (
    "id", "service", "generation", "dag_id", "run_id", "version", "old_version", "stable", "canary", "safe_side",
    "state", "outcome_reason", "profile", "started_by", "reason", "step", "step_started_at", "lease_until", "deadline",
    "blind_since", "started_at", "ended_at", "kept_until",
)  # fmt: skip


@dataclass(frozen=True)
class Brief:
    """A rollout without its release file, plan and cursor."""

    id: str
    service: str
    generation: int
    dag_id: str
    run_id: str
    version: str
    old_version: str
    stable: str
    canary: str
    safe_side: str
    state: State
    outcome_reason: str
    profile: str
    started_by: str
    reason: str
    step: int
    step_started_at: float | None
    lease_until: float | None
    deadline: float
    blind_since: float | None
    started_at: float
    ended_at: float | None
    kept_until: float | None


def brief_of(rollout: Rollout) -> Brief:
    return Brief(**{name: getattr(rollout, name) for name in _TOLD})


@dataclass(frozen=True)
class LastWrite:
    """The newest intent for a service, and the newest read-back after any of them."""

    asked: Weights
    raises: bool
    at: float
    seen: Weights | None
    seen_at: float | None


@dataclass(frozen=True)
class Requests:
    """What both sides answered in the last windows of a rollout."""

    canary: int
    stable: int


@dataclass(frozen=True)
class OpenQuestion:
    """An approval that waits. step: index of the weight step that needs it."""

    step: int
    asked_at: float
    until: float
    approvers: tuple[str, ...]


class Past(NamedTuple):
    """How one rollout of a service ended, or stands."""

    id: str
    version: str
    state: str
    ended_at: float | None


@dataclass(frozen=True)
class ServiceView:
    """One service. rollout: its newest that was no dry run, None when there was none; the rest is about that one.
    past: the last outcomes, newest first.  frozen: text and name of its release file, only where its next raise is due.
    """

    service: str
    holder: str | None
    rollout: Brief | None
    past: tuple[Past, ...] = ()
    plan: Mapping[str, Any] = field(default_factory=dict)
    decision: DecisionRecord | None = None
    write: LastWrite | None = None
    requests: Requests | None = None
    question: OpenQuestion | None = None
    frozen: tuple[str, str] | None = None

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The plan's weights, none where the plan cannot be read."""
        try:
            return Plan.from_json(self.plan).weight_steps if self.plan else ()
        except LedgerError:
            return ()


class Finished(NamedTuple):
    """A rollout that ended, for figures over many of them. seconds: to everything on the canary where it was promoted,
    from the first harm to weight 0 where it was rolled back; None where the summary does not know.  summed: whether
    there is a summary.
    """

    dag_id: str
    state: str
    seconds: float | None
    summed: bool = True


@dataclass(frozen=True)
class Surroundings:
    """What people and the outside had to do with a rollout: approvals, hook calls and notices, oldest first."""

    approvals: Sequence[Mapping[str, Any]]
    hook_calls: Sequence[Mapping[str, Any]]
    notices: Sequence[Mapping[str, Any]]


def look(ledger: Ledger) -> list[ServiceView]:
    """Every service that was ever released, by name. Raises LedgerError."""
    with ledger._read() as connection:
        table = tables.services
        services = connection.execute(sa.select(table.c.service, table.c.holder).order_by(table.c.service)).all()
        past = _past(connection)
        current = _current(connection, [rollouts[0].id for rollouts in past.values()])
        ids = list(current)
        running = [brief.id for brief, _ in current.values() if not brief.state.final]
        decisions = _last_decisions(connection, ids)
        writes = _last_writes(connection, ids)
        requests = _recent_requests(connection, running)
        questions = _open_questions(connection)
        frozen = _release_files(
            connection, [id for id, (brief, _) in current.items() if _due(brief, decisions.get(id))]
        )
    views = []
    for service, holder in services:
        outcomes = tuple(past.get(service, ()))
        brief, plan = current[outcomes[0].id] if outcomes else (None, {})
        id = brief.id if brief else ""
        views.append(
            ServiceView(
                service, holder, brief, outcomes, plan, decisions.get(id), writes.get(service), requests.get(id),
                questions.get(id), frozen.get(id),
            )
        )  # fmt: skip
    return views


def look_at(ledger: Ledger, rollout: Rollout) -> ServiceView:
    """The same of one rollout, without its service's past. Raises LedgerError."""
    ids = [rollout.id]
    with ledger._read() as connection:
        decisions = _last_decisions(connection, ids)
        writes = _last_writes(connection, ids)
        requests = _recent_requests(connection, ids)
        questions = _open_questions(connection)
    brief, decision = brief_of(rollout), decisions.get(rollout.id)
    frozen = (rollout.release_text, rollout.release_name) if _due(brief, decision) else None
    return ServiceView(
        rollout.service, None, brief, (), rollout.plan, decision, writes.get(rollout.service),
        requests.get(rollout.id), questions.get(rollout.id), frozen,
    )  # fmt: skip


def finished_since(ledger: Ledger, since: float) -> list[Finished]:
    """Every ended rollout that started at ``since`` (seconds since the epoch) or later, no dry runs."""
    table = tables.rollouts
    told = sa.case(
        (table.c.state == State.PROMOTED, table.c.summary["seconds_to_full"].as_float()),
        else_=table.c.summary["seconds_to_zero"].as_float(),
    )
    query = sa.select(table.c.dag_id, table.c.state, told, table.c.summary.is_not(None)).where(
        table.c.started_at >= since, table.c.state.in_([State.PROMOTED, State.ROLLED_BACK])
    )
    with ledger._read() as connection:
        return [Finished(*row) for row in connection.execute(query)]


def without_summary(ledger: Ledger, since: float, limit: int) -> list[str]:
    """Ids of the newest such rollouts whose summary was not computed yet. Raises LedgerError."""
    table = tables.rollouts
    query = (
        sa.select(table.c.id)
        .where(table.c.started_at >= since, table.c.state.in_([State.PROMOTED, State.ROLLED_BACK]))
        .where(table.c.summary.is_(None))
        .order_by(table.c.started_at.desc())
        .limit(limit)
    )
    with ledger._read() as connection:
        return list(connection.scalars(query))


def keep_summary(ledger: Ledger, rollout_id: str, summary: Mapping[str, Any]) -> None:
    """Keep what a finished rollout did; one that is kept already stays as it is. Raises LedgerError."""
    table = tables.rollouts
    kept = table.update().where(table.c.id == rollout_id, table.c.summary.is_(None), table.c.state.in_(FINAL))
    with ledger._write() as connection:
        connection.execute(kept.values(summary=dict(summary)))


def surroundings(ledger: Ledger, rollout_id: str) -> Surroundings:
    """Raises LedgerError."""
    with ledger._read() as connection:

        def rows(table: sa.Table) -> list[Mapping[str, Any]]:
            query = table.select().where(table.c.rollout_id == rollout_id).order_by(table.c.id)
            return [dict(row) for row in connection.execute(query).mappings()]

        return Surroundings(rows(tables.approvals), rows(tables.hook_calls), rows(tables.notices))


def dag_ids(ledger: Ledger) -> set[str]:
    """Every DAG that ever started a rollout. Raises LedgerError."""
    with ledger._read() as connection:
        return set(connection.scalars(sa.select(tables.rollouts.c.dag_id).distinct()))


def past_of(ledger: Ledger, service: str, limit: int) -> list[Brief]:
    """A service's rollouts, newest first, dry runs among them. Raises LedgerError."""
    table = tables.rollouts
    newest = table.c.started_at.desc(), table.c.generation.desc()
    query = sa.select(*(table.c[name] for name in _TOLD)).where(table.c.service == service).order_by(*newest)
    with ledger._read() as connection:
        return [_brief(row) for row in connection.execute(query.limit(limit))]


def newest_of(ledger: Ledger, service: str) -> Rollout | None:
    """The rollout in progress, else the last one that was no dry run. Raises LedgerError."""
    rollouts = ledger.history(service, limit=50)
    return next((each for each in rollouts if not each.dry_run), rollouts[0] if rollouts else None)


# -- inside ---------------------------------------------------------------------------------------------------------


def _past(connection: sa.Connection) -> dict[str, list[Past]]:
    """The last rollouts of every service, newest first, found through its generation: no query sorts them all."""
    table, services = tables.rollouts, tables.services
    of_service = sa.and_(
        table.c.service == services.c.service, table.c.generation > services.c.generation - OUTCOMES - _DRY_RUNS
    )
    query = (
        sa.select(table.c.service, table.c.id, table.c.version, table.c.state, table.c.ended_at)
        .select_from(services.join(table, of_service))
        .where(table.c.dry_run.is_(False))
        .order_by(table.c.service, table.c.generation.desc())
    )
    found: dict[str, list[Past]] = defaultdict(list)
    for service, *told in connection.execute(query):
        if len(found[service]) < OUTCOMES:
            found[service].append(Past(*told))
    return found


def _current(connection: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[Brief, Mapping[str, Any]]]:
    """Each of these rollouts with its plan."""
    table = tables.rollouts
    query = sa.select(*(table.c[name] for name in _TOLD), table.c.plan).where(table.c.id.in_(ids))
    found = {}
    for *told, plan in connection.execute(query):
        brief = _brief(told)
        found[brief.id] = (brief, plan)
    return found


def _brief(told: Sequence[Any]) -> Brief:
    """From the columns of _TOLD."""
    values = dict(zip(_TOLD, told, strict=True))
    return Brief(**(values | {"state": State(values["state"])}))


def _due(brief: Brief, decision: DecisionRecord | None) -> bool:
    """Whether the next raise of a rollout is all that comes now."""
    if brief.state is not State.RUNNING or decision is None or decision.step != brief.step:
        return False
    return decision.decision == Decision.ADVANCE


def _release_files(connection: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    if not ids:
        return {}
    table = tables.rollouts
    query = sa.select(table.c.id, table.c.release_text, table.c.release_name).where(table.c.id.in_(ids))
    return {id: (text, name) for id, text, name in connection.execute(query)}


def _last_decisions(connection: sa.Connection, ids: Sequence[str]) -> dict[str, DecisionRecord]:
    table = tables.decisions
    last = sa.select(sa.func.max(table.c.id)).where(table.c.rollout_id.in_(ids)).group_by(table.c.rollout_id)
    return {
        row.rollout_id: DecisionRecord(
            row.step, row.window, row.at, row.decision, row.verdict, row.reason, row.judgement
        )
        for row in connection.execute(table.select().where(table.c.id.in_(last)))
    }


def _last_writes(connection: sa.Connection, ids: Sequence[str]) -> dict[str, LastWrite]:
    """By service. A write without a rollout mended the service after its last one ended."""
    table, seen = tables.intents, tables.observations
    joined = table.outerjoin(seen, seen.c.intent_id == table.c.id)
    wanted = sa.or_(table.c.rollout_id.in_(ids), table.c.rollout_id.is_(None))
    newest = (
        sa.select(sa.func.max(table.c.id).label("asked"), sa.func.max(seen.c.id).label("read"))
        .select_from(joined)
        .where(wanted)
        .group_by(table.c.service)
        .subquery()
    )
    both = newest.join(table, table.c.id == newest.c.asked).outerjoin(seen, seen.c.id == newest.c.read)
    told = (table.c.service, table.c.weights, table.c.raises, table.c.at)
    query = sa.select(*told, seen.c.weights.label("seen"), seen.c.at.label("seen_at")).select_from(both)
    return {
        row.service: LastWrite(
            Weights.from_json(row.weights), bool(row.raises), row.at,
            None if row.seen is None else Weights.from_json(row.seen), row.seen_at,
        )
        for row in connection.execute(query)
    }  # fmt: skip


def _recent_requests(connection: sa.Connection, ids: Sequence[str]) -> dict[str, Requests]:
    """In the newest windows of the step that a rollout is in."""
    table, rollouts = tables.windows, tables.rollouts
    newest = (
        sa.select(table.c.rollout_id, sa.func.max(table.c.index).label("newest"))
        .where(table.c.rollout_id.in_(ids))
        .group_by(table.c.rollout_id)
        .subquery()
    )
    query = (
        sa.select(
            table.c.rollout_id,
            sa.func.sum(table.c.content[("canary", "requests")].as_integer()),
            sa.func.sum(table.c.content[("stable", "requests")].as_integer()),
        )
        .select_from(table.join(newest, table.c.rollout_id == newest.c.rollout_id))
        .join(rollouts, sa.and_(rollouts.c.id == table.c.rollout_id, rollouts.c.step == table.c.step))
        .where(table.c.index > newest.c.newest - RECENT_WINDOWS)
        .group_by(table.c.rollout_id)
    )
    return {row[0]: Requests(int(row[1] or 0), int(row[2] or 0)) for row in connection.execute(query)}


def _open_questions(connection: sa.Connection) -> dict[str, OpenQuestion]:
    table = tables.approvals
    rows = connection.execute(table.select().where(table.c.answer.is_(None)).order_by(table.c.id))
    return {
        row.rollout_id: OpenQuestion(row.step, row.asked_at, row.until, tuple(map(str, row.approvers))) for row in rows
    }

"""Everything about one rollout, as its page and its report show it.

Instants are seconds since the epoch, shares are percent, durations are seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canary_release.core.aftermath import Aftermath
from canary_release.core.plan import Plan
from canary_release.core.problems import LedgerError
from canary_release.core.release import Approval
from canary_release.core.units import show_duration
from canary_release.core.values import plain
from canary_release.ledger import overview
from canary_release.ledger.records import AuditEntry, DecisionRecord, Rollout, State, Write
from canary_release.ledger.store import Ledger
from canary_release.ui.charts import Story
from canary_release.ui.past_harm import harm_of, harm_sentences, keep_harm, release_of
from canary_release.ui.service_rows import ServiceRow, service_row

_NOISE = ("decided", "read_back")  # said better by the tables of decisions and writes


@dataclass(frozen=True)
class StepRow:
    """A weight of the plan, or the approval before one (weight None). state: done, current, failed or open."""

    weight: str | None
    says: str
    state: str
    began_at: float | None = None


@dataclass(frozen=True)
class CheckRow:
    """A check as it stood at the end of a step. verdict: the fields of a CheckVerdict."""

    step: int
    weight: str
    at: float
    task_id: str
    verdict: Mapping[str, Any]


@dataclass(frozen=True)
class DecisionRow:
    """times: how often it was decided like this in a row."""

    step: int
    at: float
    decision: str
    verdict: str
    reason: str
    times: int


@dataclass(frozen=True)
class WriteRow:
    at: float
    actor: str
    raises: bool
    asked: float | None
    read_back: float | None
    seconds: float | None
    why: str


@dataclass(frozen=True)
class AuditRow:
    at: float
    actor: str
    event: str
    says: str


@dataclass(frozen=True)
class RolloutPage:
    """may_return: whether the old side is kept and there is an action that returns to it.  lease_until: None once the
    rollout is over.
    """

    at: float
    revision: str
    title: str
    cause: str
    row: ServiceRow
    profile: str
    dry_run: bool
    lease_until: float | None
    kept_until: float | None
    may_return: bool
    release_name: str
    release_text: str
    release_sha256: str
    plan: list[StepRow]
    checks: list[CheckRow]
    charts: list[str]
    decisions: list[DecisionRow]
    writes: list[WriteRow]
    approvals: list[Mapping[str, Any]]
    hook_calls: list[Mapping[str, Any]]
    notices: list[Mapping[str, Any]]
    audit: list[AuditRow]
    harm: Aftermath
    harm_says: list[str]


def read_story(ledger: Ledger, rollout: Rollout, now: float) -> Story:
    """Raises LedgerError."""
    return Story(
        rollout,
        overview.look_at(ledger, rollout),
        release_of(rollout),
        ledger.writes(rollout.id),
        ledger.windows(rollout.id),
        ledger.decisions(rollout.id),
        now,
    )


def rollout_page(ledger: Ledger, story: Story, *, user: str, may_change: bool, may_return: bool = False) -> RolloutPage:
    """Raises LedgerError. Of a finished rollout the harm is computed once and kept."""
    rollout, now = story.rollout, story.now
    row = service_row(story.view, overview.brief_of(rollout), now=now, user=user, may_change=may_change)
    harm = harm_of(rollout, story.windows, story.writes, story.decisions, now=now)
    keep_harm(ledger, rollout, harm)
    around = overview.surroundings(ledger, rollout.id)
    return RolloutPage(
        at=now,
        revision=f"{rollout.state} {rollout.cursor_moves} {len(story.decisions)} {len(story.writes)}",
        title=_title(story, row),
        cause=_cause(story, row),
        row=row,
        profile=rollout.profile,
        dry_run=rollout.dry_run,
        lease_until=None if rollout.state.final else rollout.lease_until,
        kept_until=rollout.kept_until,
        may_return=may_return,
        release_name=rollout.release_name,
        release_text=rollout.release_text,
        release_sha256=rollout.release_sha256,
        plan=_plan_rows(story),
        checks=_check_rows(story),
        charts=["weight", "evidence", *(f"check-{place}" for place in range(_checks(story)))],
        decisions=_decision_rows(story.decisions),
        writes=[_write_row(write, rollout) for write in story.writes],
        approvals=list(around.approvals),
        hook_calls=list(around.hook_calls),
        notices=list(around.notices),
        audit=[_audit_row(each) for each in ledger.audit_trail(rollout_id=rollout.id) if each.event not in _NOISE],
        harm=harm,
        harm_says=harm_sentences(harm),
    )


def step_name(story: Story, step: int) -> str:
    steps = story.view.steps
    return plain(steps[step].weight) if 0 <= step < len(steps) else "?"


def _checks(story: Story) -> int:
    return len(story.release.checks) if story.release is not None else 0


def _title(story: Story, row: ServiceRow) -> str:
    rollout = story.rollout
    words = "stuck" if row.phase.name == "stuck" else row.phase.words
    return f"{rollout.service} {rollout.old_version} → {rollout.version} · {words}"


def _cause(story: Story, row: ServiceRow) -> str:
    rollout = story.rollout
    if row.phase.name == "stuck":
        return row.phase.words
    if rollout.outcome_reason:
        return rollout.outcome_reason
    if row.phase.why:
        return row.phase.why
    if story.decisions:
        return story.decisions[-1].reason
    return "Nothing has been decided yet."


def _plan_rows(story: Story) -> list[StepRow]:
    rollout = story.rollout
    try:
        plan = Plan.from_json(rollout.plan)
    except LedgerError:
        return []
    began = _began(story)
    rows, number = [], 0
    for step in plan.steps:
        state = _step_state(rollout, number)
        if isinstance(step, Approval):
            # The answer belongs to the step behind it.
            says = f"approval by {', '.join(step.by)}, within {show_duration(step.timeout)}, else {step.on_timeout}"
            rows.append(StepRow(None, says, "done" if rollout.step >= number else "open"))
            continue
        least = f", at least {step.min_requests:,} requests" if step.min_requests else ""
        rows.append(StepRow(plain(step.weight), f"{show_duration(step.bake)}{least}", state, began.get(number)))
        number += 1
    return rows


def _step_state(rollout: Rollout, number: int) -> str:
    if rollout.step < number:
        return "open"
    if rollout.step > number or rollout.state in (State.PROMOTED, State.PROMOTING):
        return "done"
    return "failed" if rollout.state in (State.ROLLED_BACK, State.ROLLING_BACK) else "current"


def _began(story: Story) -> dict[int, float]:
    began: dict[int, float] = {}
    for write in story.writes:
        if not write.raises or write.read_back_at is None:
            continue
        for number, step in enumerate(story.view.steps):
            if write.asked.shares.get(story.rollout.canary) == step.weight:
                began.setdefault(number, write.read_back_at)
    return began


def _check_rows(story: Story) -> list[CheckRow]:
    last: dict[int, DecisionRecord] = {each.step: each for each in story.decisions if each.judgement}
    return [
        CheckRow(step, weight, record.at, f"weight_{weight.replace('.', '_')}.compare", verdict)
        for step, record in sorted(last.items())
        for weight in [step_name(story, step)]
        for verdict in (record.judgement or {}).get("checks", ())
    ]


def _decision_rows(records: Sequence[DecisionRecord]) -> list[DecisionRow]:
    """Runs of equal decisions become one row, told by the last of them."""
    rows: list[DecisionRow] = []
    for record in records:
        same = rows and (rows[-1].step, rows[-1].decision) == (record.step, record.decision)
        times = rows.pop().times + 1 if same else 1
        rows.append(DecisionRow(record.step, record.at, record.decision, record.verdict, record.reason, times))
    return rows


def _write_row(write: Write, rollout: Rollout) -> WriteRow:
    asked = write.asked.shares.get(rollout.canary)
    read_back = write.read_back.shares.get(rollout.canary) if write.read_back is not None else None
    return WriteRow(
        at=write.at,
        actor=write.actor,
        raises=write.raises,
        asked=None if asked is None else float(asked),
        read_back=None if read_back is None else float(read_back),
        seconds=write.seconds,
        why=write.why,
    )


def _audit_row(entry: AuditEntry) -> AuditRow:
    detail = dict(entry.detail)
    if entry.event == "started":
        detail.pop("plan", None)
    says = "; ".join(f"{name.replace('_', ' ')}: {_short(value)}" for name, value in detail.items() if value != "")
    return AuditRow(entry.at, entry.actor, entry.event.replace("_", " "), says)


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    text = str(value)
    return text if len(text) <= 300 else f"{text[:299]}…"

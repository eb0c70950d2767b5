"""Whether the calendar lets a rollout start, or raise its canary: windows, freezes, the cooldown after a rollback.

Only giving traffic to a canary is ever held back, never taking it away. An override is recorded at the start and holds
for the whole rollout.
"""

from collections.abc import Mapping
from typing import Any

from canary_release.control.desk import Desk, plan_of
from canary_release.core.problems import RefusedError
from canary_release.core.release import Release
from canary_release.core.release_calendar import Closed, closed_at, opens_at, zone_of
from canary_release.core.units import show_duration
from canary_release.core.values import plain
from canary_release.ledger.deadlines import extend_deadline
from canary_release.ledger.records import Rollout, State

OVERRIDE = "override"
"""Where the frozen plan keeps the reason of an override."""
_PATIENCE = 2.0


class ClosedError(RefusedError):
    """Not now: ``closed`` says until when and why."""

    def __init__(self, service: str, closed: Closed, cure: str) -> None:
        super().__init__(f"{service}: {closed.sentence} {cure}")
        self.closed = closed


def start_closed(desk: Desk, release: Release) -> Closed | None:
    """What keeps a rollout from starting now, None when nothing does."""
    now = desk.clock.now()
    closed, cooling = closed_at(release.calendar, now), _cooling(desk, release, now)
    if cooling is None:
        return closed
    # What opens before the service has cooled down is of no use.
    return Closed(opens_at(release.calendar, cooling.until), cooling.why, cooling.timezone)


def require_start_open(desk: Desk, release: Release, *, override: str = "") -> Closed | None:
    """ClosedError while no rollout may start; with an override what it overrides is returned instead."""
    closed = start_closed(desk, release)
    if closed is not None and not override:
        cure = "Wait for it, or start with an override that says why it cannot wait."
        raise ClosedError(release.service, closed, cure)
    return closed


def raise_closed(desk: Desk, rollout: Rollout) -> Closed | None:
    """What keeps a rollout that has begun from raising its canary now, None when nothing does."""
    return None if rollout.dry_run else raise_closed_at(desk.release(rollout), rollout.plan, desk.clock.now())


def raise_closed_at(release: Release, plan: Mapping[str, Any], now: float) -> Closed | None:
    """The same of a frozen release and plan."""
    if release.calendar.allow_finish or plan.get(OVERRIDE):
        return None
    return closed_at(release.calendar, now)


def require_raise_open(desk: Desk, rollout: Rollout, index: int) -> None:
    """ClosedError while step ``index`` may not begin. A step that has begun is not held back."""
    if rollout.step >= index:
        return
    closed = raise_closed(desk, rollout)
    if closed is not None:
        weight = plain(plan_of(rollout).weight_steps[index].weight)
        raise ClosedError(rollout.service, closed, f"The canary is not raised to {weight} % before that.")


def allow_time(desk: Desk, rollout: Rollout, index: int, until: float) -> None:
    """Move the rollout's deadline, so that the steps from ``index`` on have their time after ``until``. LedgerError."""
    rest = sum(step.bake for step in plan_of(rollout).weight_steps[index:])
    left = max(rest, plan_of(rollout).longest_seconds)
    extend_deadline(desk.ledger, rollout, until + _PATIENCE * left)


def override_of(rollout: Rollout) -> str:
    """The reason why this rollout may go on while it is closed; empty without one."""
    return str(rollout.plan.get(OVERRIDE) or "")


def _cooling(desk: Desk, release: Release, now: float) -> Closed | None:
    cooldown = release.calendar.cooldown
    if not cooldown:
        return None
    past = [rollout for rollout in desk.ledger.history(release.service, limit=50) if not rollout.dry_run]
    last = next((rollout for rollout in past if rollout.state.final), None)
    # A rollout that was refused before the first user has taught nothing to cool down from.
    if last is None or last.state is not State.ROLLED_BACK or last.step < 0 or last.ended_at is None:
        return None
    until = last.ended_at + cooldown
    if now >= until:
        return None
    why = f"{last.id} was rolled back, and the cooldown is {show_duration(cooldown)}"
    return Closed(until, why, zone_of(release.calendar))

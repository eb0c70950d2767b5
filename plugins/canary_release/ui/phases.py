"""Where a rollout is, in words, and who must act.

Instants are seconds since the epoch.
"""

from dataclasses import dataclass

from canary_release.control.opening import raise_closed_at
from canary_release.core.release_calendar import Closed
from canary_release.core.units import say_duration
from canary_release.core.values import FULL, Decision, plain
from canary_release.ledger.overview import Brief, ServiceView
from canary_release.ledger.records import State
from canary_release.ui.past_harm import frozen_release

LATE = 30.0  # seconds beyond its lease after which a rollout counts as abandoned; the guardian needs some of them


@dataclass(frozen=True)
class Phase:
    """Where a rollout is. name: one of a few; words: for people; until: when it is over by itself, None if unknown;
    why: a sentence where the words do not say it, else empty.

    urgency: 0 is the most urgent; the list is sorted by it.
    """

    name: str
    words: str
    urgency: int
    until: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Question:
    """An approval that waits for one of these people. step: index of the weight step behind it."""

    step: int
    weight: str
    until: float
    approvers: list[str]


def phase_of(view: ServiceView, rollout: Brief, now: float) -> Phase:
    abandoned = _abandoned(view, rollout, now)
    if abandoned:
        return Phase("stuck", abandoned, 0)
    if rollout.state is State.PROMOTED:
        return Phase("promoted", "promoted", 7)
    if rollout.state is State.ROLLED_BACK:
        recent = rollout.ended_at is not None and now - rollout.ended_at < 86400
        return Phase("rolled_back", f"rolled back{_where(view, rollout)}", 5 if recent else 6)
    if rollout.state is State.DRY_RUN:
        return Phase("dry_run", "dry run", 7)
    if rollout.state is State.ROLLING_BACK:
        return Phase("rolling_back", "rolling back", 2)
    if rollout.state is State.PROMOTING:
        return Phase("promoting", "promoting", 4)
    return _running_phase(view, rollout, now)


def _where(view: ServiceView, rollout: Brief) -> str:
    """`` at 5 %``, empty where no user ever saw the canary."""
    steps = view.steps
    return f" at {plain(steps[rollout.step].weight)} %" if 0 <= rollout.step < len(steps) else ""


def _running_phase(view: ServiceView, rollout: Brief, now: float) -> Phase:
    question = question_of(view)
    if question is not None:
        return Phase("waiting", f"waiting for approval of {question.weight} %", 1, question.until)
    steps = view.steps
    if not 0 <= rollout.step < len(steps):
        return Phase("starting", "starting", 4)
    step = steps[rollout.step]
    at = f"{plain(step.weight)} %"
    if rollout.step_started_at is None:
        return Phase("shifting", f"shifting to {at}", 4)
    if rollout.blind_since is not None:
        blind = f"blind at {at} for {say_duration(now - rollout.blind_since)}: the metrics cannot be read"
        return Phase("blind", blind, 3)
    ends = rollout.step_started_at + step.bake
    if view.decision is not None and view.decision.step == rollout.step:
        closed = _closed(view, now)
        if closed is not None:
            return Phase("closed", f"waits at {at} for the calendar", 4, closed.until, closed.sentence)
        if view.decision.decision != Decision.HOLD:
            return Phase("deciding", f"{view.decision.decision.replace('_', ' ')} at {at}", 4)
        if now > ends:
            return Phase("holding", f"on hold at {at}", 3)
    return Phase("baking", f"baking at {at}", 4, ends)


def _closed(view: ServiceView, now: float) -> Closed | None:
    """What keeps the next raise waiting, None when nothing does, or it is not due."""
    release = frozen_release(*view.frozen) if view.frozen is not None else None
    return None if release is None else raise_closed_at(release, view.plan, now)


def _abandoned(view: ServiceView, rollout: Brief, now: float) -> str:
    """Why a weight stands that nobody answers for, empty when it is not so."""
    seen = view.write.seen if view.write is not None else None
    if rollout.state.final:
        if seen is None or seen.shares.get(rollout.safe_side, FULL) == FULL or rollout.state is State.DRY_RUN:
            return ""
        others = ((side, share) for side, share in seen.shares.items() if side != rollout.safe_side)
        said = ", ".join(f"{side} was last seen with {plain(share)} %" for side, share in others)
        return f"weight without a rollout: {said} of the traffic, and nobody is in charge of it"
    if rollout.lease_until is not None and now > rollout.lease_until + LATE:
        return f"abandoned: its lease ran out {say_duration(now - rollout.lease_until)} ago"
    if now > rollout.deadline + LATE:
        return f"abandoned: it is {say_duration(now - rollout.deadline)} past its deadline"
    return ""


def question_of(view: ServiceView) -> Question | None:
    asked, rollout = view.question, view.rollout
    if asked is None or rollout is None or rollout.state.final:
        return None
    steps = view.steps
    weight = plain(steps[asked.step].weight) if 0 <= asked.step < len(steps) else "?"
    return Question(asked.step, weight, asked.until, list(asked.approvers))

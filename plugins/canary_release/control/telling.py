"""What is told and measured when something was done: one line at each place, after the traffic was moved.

Imports little, and nothing here raises: it stands in the way back of every rollout.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from canary_release.control.desk import Desk, Figures
from canary_release.control.safe_writes import Written
from canary_release.core.problems import CanaryError
from canary_release.core.values import Decision, Verdict, Window
from canary_release.ledger.records import Rollout, State

if TYPE_CHECKING:
    from canary_release.core.judgement import Judgement
    from canary_release.core.notice_events import Event

log = logging.getLogger(__name__)

# Seconds that a process which ends soon waits for the answers of mail and chat servers.
WAIT = 5.0


def tell_started(desk: Desk, rollout: Rollout) -> None:
    desk.tell("started", rollout, wait=WAIT)
    _measure(desk, lambda figures: figures.phase(rollout))


def tell_shifted(desk: Desk, rollout: Rollout, written: Written | None) -> None:
    if written is not None:
        _measure(desk, lambda figures: figures.weight(rollout, written.read_back))


def tell_looked(
    desk: Desk,
    rollout: Rollout,
    index: int,
    windows: Sequence[Window],
    judgement: "Judgement | None",
    decision: Decision,
    lowered: Written | None,
) -> None:
    """After a look at a step was recorded. lowered: the write that took the canary off."""
    if decision in (Decision.ADVANCE, Decision.PROMOTE):
        desk.tell("step", rollout, step=index)
    failing = judgement is not None and judgement.verdict is Verdict.FAIL
    if decision is Decision.ROLL_BACK and lowered is not None:
        # Not later: the tasks that record the end come seconds behind the one who sees.
        desk.tell("rolled_back" if failing else "failed", _now(desk, rollout), step=index)
    _measure(desk, lambda figures: figures.looked(rollout, index, judgement))
    if lowered is not None:
        _measure(desk, lambda figures: figures.weight(rollout, lowered.read_back))
        if windows:
            _measure(desk, lambda figures: figures.rollback_latency(rollout, lowered.at - windows[-1].end))


def tell_ended(desk: Desk, rollout: Rollout, written: Written | None, *, actor: str) -> None:
    """After an end was recorded. The guardian goes on with other services; everybody else ends soon."""
    event = _end_event(desk, rollout, actor)
    desk.tell(event, rollout, wait=0.0 if event == "guardian" else WAIT)
    if written is not None:
        _measure(desk, lambda figures: figures.weight(rollout, written.read_back))
    _measure(desk, lambda figures: figures.ended(rollout, event))
    if event == "rolled_back":
        _measure(desk, lambda figures: _harm(desk, rollout, figures))


def tell_guarded(desk: Desk) -> None:
    """After every look of a guardian."""
    _measure(desk, lambda figures: figures.guarded(desk.clock.now()))
    if desk.herald is not None:
        desk.herald.retry()
        desk.herald.wait(WAIT)


def _end_event(desk: Desk, rollout: Rollout, actor: str) -> "Event":
    if rollout.state is State.PROMOTED:
        return "promoted"
    try:
        decisions = desk.ledger.decisions(rollout.id)
    except CanaryError:
        decisions = []
    if decisions and decisions[-1].verdict == Verdict.FAIL:
        return "rolled_back"
    return "guardian" if actor.startswith("guardian") else "failed"


def _now(desk: Desk, rollout: Rollout) -> Rollout:
    """With the reason that was recorded meanwhile."""
    try:
        return desk.ledger.rollout(rollout.id)
    except CanaryError:
        return rollout


def _harm(desk: Desk, rollout: Rollout, figures: Figures) -> None:
    from canary_release.control.costs import cost_of

    seconds = cost_of(desk, rollout).seconds_to_zero
    if seconds is not None:
        figures.harm_to_zero(rollout, seconds)


def _measure(desk: Desk, emit: Callable[..., None]) -> None:
    if desk.figures is None:
        return
    try:
        emit(desk.figures)
    except Exception as error:  # noqa: BLE001  a figure that cannot be sent changes nothing
        log.debug("a figure was not sent: %s", error)

"""What the ledger remembers of finished rollouts: for backtests, and as a service's own history."""

from dataclasses import replace

from canary_release.core.backtest import PROMOTED, ROLLED_BACK, RecordedRollout
from canary_release.core.noise_report import NoiseReport
from canary_release.core.values import Decision, Window
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger


def recorded_rollouts(ledger: Ledger, service: str, *, limit: int) -> list[RecordedRollout]:
    """The service's last ``limit`` finished rollouts that watched anything, newest first; no dry runs."""
    found: list[RecordedRollout] = []
    for rollout in ledger.history(service, limit=10 * limit):
        if len(found) < limit and rollout.state in (State.PROMOTED, State.ROLLED_BACK):
            windows = ledger.windows(rollout.id)
            found += [_recorded(ledger, rollout, windows)] if windows else []
    return found


def _recorded(ledger: Ledger, rollout: Rollout, windows: list[Window]) -> RecordedRollout:
    was = PROMOTED if rollout.state is State.PROMOTED else ROLLED_BACK
    last = Decision.PROMOTE if was == PROMOTED else Decision.ROLL_BACK
    decided = [record.window for record in ledger.decisions(rollout.id) if record.decision == last]
    return RecordedRollout(
        rollout=rollout.id,
        version=rollout.version,
        started=rollout.started_at,
        was=was,
        was_window=decided[-1] if decided and decided[-1] >= 0 else None,
        was_note=rollout.outcome_reason,
        windows=windows,
        noise=None if rollout.noise is None else NoiseReport.from_json(rollout.noise),
    )


def remembered_windows(ledger: Ledger, service: str, *, rollouts: int) -> list[Window]:
    """The windows of the service's last rollouts, oldest first and numbered anew, where stable had traffic."""
    past = recorded_rollouts(ledger, service, limit=rollouts)
    usable = sorted(
        (
            window
            for one in past
            for window in one.windows
            if window.broken is None and window.stable is not None and window.stable.requests > 0
        ),
        key=lambda window: window.start,
    )
    return [replace(window, index=place) for place, window in enumerate(usable)]

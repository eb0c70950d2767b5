"""What is decided without statistics: missing data, a breaker for disasters, and why a window cannot be used."""

from collections.abc import Sequence

import numpy as np

from canary_release.core.noise import Noise
from canary_release.core.observations import Arms, Timeline
from canary_release.core.record import CANARY, STABLE, BoolArray, FloatArray, Record
from canary_release.core.running_sums import Decayed, Silence, StepTotal, side_by_side

SILENCE = 10.0  # requests that should have come and did not: by chance once in e^10
BREAKER_RATE, BREAKER_ERRORS, BREAKER_RATIO = 0.25, 20.0, 5.0
_PRIOR_RATE = 0.005


def columns_of(arms: Arms) -> FloatArray:
    """Canary's events and requests, stable's events and requests, (W, C, 4)."""
    return side_by_side(arms.canary_events, arms.canary_of, arms.stable_events, arms.stable_of)


class NoData:
    """Where a check cannot be judged.

    A side could not be read in this window, it had no traffic in the step so far, or it has been silent where at least
    ten requests were due.
    """

    def __init__(self) -> None:
        self._in_step, self._canary, self._stable = StepTotal(), Silence(), Silence()

    def extend(self, arms: Arms, time: Timeline) -> BoolArray:
        """(W, C)."""
        alone = time.alone[:, None]
        unread = ~arms.canary_known | (~arms.stable_known & ~alone)
        traffic = self._in_step.extend(side_by_side(arms.canary_of, arms.stable_of), time.began)
        idle = (traffic[..., CANARY] <= 0) | ((traffic[..., STABLE] <= 0) & ~alone)
        return unread | idle | self._silent(arms, time)

    def _silent(self, arms: Arms, time: Timeline) -> BoolArray:
        of_canary, of_stable = time.due
        canary = self._canary.extend(arms.stable_of * of_canary, arms.canary_of > 0) >= SILENCE
        stable = self._stable.extend(arms.canary_of * of_stable, arms.stable_of > 0) >= SILENCE
        return canary | stable


def why_no_data(
    metric: str, record: Record, known: Sequence[bool], traffic: Sequence[float], *, alone: bool, came: bool
) -> str:
    """What was missing in the one window of ``record``.

    known, traffic in the step: canary's, then stable's.  came: whether the canary had requests in this window.
    """
    if record.broken[0] is not None:
        return f"the window cannot be used ({record.broken[0]})"
    for side, name in ((CANARY, "the canary"), (STABLE, "stable")):
        if not known[side] and not (alone and side == STABLE):
            read = bool(record.read[0, side])
            return f"{name} has no usable counts of {metric}" if read else f"{name} could not be read"
    for side, name in ((CANARY, "the canary"), (STABLE, "stable")):
        if traffic[side] <= 0:
            return f"{name} has had no traffic in this step"
    return "the canary has gone silent" if not came else "stable has gone silent"


class Breaker:
    """Where the canary must go back without any statistics, in one window or in the step so far.

    At least a quarter of its requests fail, at least 20 phi errors (so that one sticky client is not enough), and at
    least five times stable's rate; its last known rate once stable has no traffic left.
    """

    def __init__(self, noise: Noise) -> None:
        self._errors = BREAKER_ERRORS * noise.phi
        self._in_step, self._before = StepTotal(), Decayed()

    def extend(self, arms: Arms, time: Timeline) -> BoolArray:
        """(W,) from the error counts, one column."""
        columns = columns_of(arms)[:, 0]
        past = self._before.before(columns[:, 2:], time.start)
        before = (past[:, 0] + 0.5) / (past[:, 1] + 0.5 / _PRIOR_RATE)
        tripped = np.zeros(len(columns), dtype=bool)
        for some in (columns, self._in_step.extend(columns, time.began)):
            errors, requests, stable_errors, stable_requests = some.T
            rate = errors / np.maximum(requests, 1.0)
            own = stable_errors / np.maximum(stable_requests, 1.0)
            stable = np.where(stable_requests > 0, own, np.where(time.alone, before, np.inf))
            tripped |= (rate >= BREAKER_RATE) & (errors >= self._errors) & (rate >= BREAKER_RATIO * stable)
        return tripped & arms.canary_known[:, 0]

"""Learning from a service's past how clumped its events are: counts of instances' windows, (T, K).

From how much larger their differences are than chance makes them, and from how many windows have no events at all.
"""

import numpy as np

from canary_release.core.error_evidence import clump_cumulant
from canary_release.core.record import FloatArray

PRIOR_EVENTS = 10.0  # a prior of phi = 3 with the weight of so many events
STRETCHES = 6
SMALL = (0.0, 0.25, 0.5)
SURE, DOUBTFUL = 1.5, 0.25  # standard errors, and how large one may be beside its mean
EVENTS_AROUND = 300.0
LARGEST_PHI = 200.0


def clumps(residual: FloatArray, variance: FloatArray, expected: FloatArray) -> tuple[float, float]:
    """phi, and a lower value, from the differences of neighbouring windows, less what slow noise adds to them.

    Slow noise of persistence a adds A (1 - a) to windows next to each other and A (1 - a^2) to the next but one. Taken
    off is their difference over a: with a = 1 never too much, with a = 0.3 hardly ever too little. Clumps are surely
    there only where most stretches of the history show them, and no more than slow noise lets most of them.
    """
    near, far = (_differences(residual, variance, expected, apart) for apart in (1, 2))
    found, usual = ratio(*near), _usual(near)
    slow = max(ratio(*far) - found, 0.0)
    least = min(found, usual) - max(slow, _usual(far) - usual) / 0.3
    return min(max(1.0, found - slow), LARGEST_PHI), min(max(1.0, least), LARGEST_PHI)


def _differences(
    residual: FloatArray, variance: FloatArray, expected: FloatArray, apart: int
) -> tuple[FloatArray, FloatArray]:
    """Squares of differences and what chance makes of them, for each pair of windows (T - apart,).

    An instance that is so much worse than the others is taken to be so in both windows: its excess grows with what was
    expected, so that an incident of all instances is not taken for a clump of each.
    """
    first, later = expected[:-apart], expected[apart:]
    both = np.maximum(first + later, 1e-300)
    of_later, of_first = first / both, later / both
    squares = (residual[apart:] * of_later - residual[:-apart] * of_first) ** 2
    chance = variance[apart:] * of_later**2 + variance[:-apart] * of_first**2
    return 2.0 * squares.sum(axis=1), 2.0 * chance.sum(axis=1)


def least_by_small_counts(events: FloatArray, of: FloatArray) -> float | None:
    """A lower bound of phi from how often instances' windows have no events at all, or few; None where hardly any do.

    Of m expected events in Poisson clumps the mean of v^x is exp(m K(v)), K as in `error_evidence.py`; v = 0 counts the
    empty windows. Few large clumps among single events make phi large, and leave small counts as rare as those make
    them: what is found is the phi of geometric clumps of which there would be as few. m comes from the other instances'
    events, some minutes around where one window has few.
    """
    reach = max(1, int(EVENTS_AROUND / max(float(events.sum(axis=1).mean()), 1e-9)) // 2)
    x, n = (_around(values, reach) for values in (events, of))
    others = np.maximum(n.sum(axis=1, keepdims=True) - n, 1.0)
    expected = (x.sum(axis=1, keepdims=True) - x) / others * of
    cells = expected > 0
    for v in SMALL:
        found = v ** events[cells]
        mean, error = float(found.mean()), float(found.std()) / np.sqrt(max(found.size, 1))
        if 0 < error < DOUBTFUL * mean:
            return _phi_of(expected[cells], v, mean - SURE * error)
    return None


def _phi_of(expected: FloatArray, v: float, mean: float) -> float:
    """The phi with which the mean of v^x is ``mean``, at least 1."""
    fewest, most = 1e-3, 1.0  # clumps for each event
    for _ in range(30):
        loose = float(np.sqrt(fewest * most))
        enough = float(np.exp(expected * clump_cumulant(np.array(v), np.array(1.0 - loose))).mean()) < mean
        fewest, most = (fewest, loose) if enough else (loose, most)
    return 2.0 / most - 1.0


def _around(values: FloatArray, reach: int) -> FloatArray:
    """Sums over so many windows on both sides of each, (T, K)."""
    total = np.concatenate((np.zeros_like(values[:1]), np.cumsum(values, axis=0)))
    at = np.arange(len(values))
    return np.asarray(total[np.minimum(at + reach + 1, len(values))] - total[np.maximum(at - reach, 0)])


def _usual(sums: tuple[FloatArray, FloatArray]) -> float:
    """The median over stretches of the history."""
    parts = zip(*(np.array_split(values, STRETCHES) for values in sums), strict=True)
    return float(np.median([ratio(squares, chance) for squares, chance in parts]))


def ratio(squares: FloatArray, chance: FloatArray) -> float:
    """phi from squared differences and what chance makes of them, with the prior."""
    return (float(squares.sum()) + 3.0 * PRIOR_EVENTS) / (float(chance.sum()) + PRIOR_EVENTS)


def upper(phi: float, events: float) -> float:
    """An upper bound: large clumps are rare, so few events show too little of them."""
    return phi * (1.0 + float(np.sqrt(5.0 * phi / (events + PRIOR_EVENTS))))


def lower(phi: float, events: float) -> float:
    return 1.0 + (phi - 1.0) * max(0.0, 0.85 - float(np.sqrt(5.0 * phi / (events + PRIOR_EVENTS))))

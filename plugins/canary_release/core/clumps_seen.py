"""Learning during a rollout how clumped a service's events are, where its past taught nothing: from stable alone.

Each pair of neighbouring windows is taken to have one rate p, so that what changes slowly cancels; what it does not
cancel only makes the judge more careful. With x events of n requests each, the difference of a pair in parts of chance
    d = (x_2 - p n_2)^2 / (p (1 - p) n_1 n_2/(n_1 + n_2)),   p = (x_1 + x_2)/(n_1 + n_2)
is phi on average. For geometric clumps of mean size c and x events its relative variance is 2 + 6 c/x (excess kurtosis
of a Polya-Aeppli count), so that a pair counts 2/(2 + 6 c/x) as much as one with many events; and a third in
all, as each window is in two pairs and a normal variance has half a degree of freedom. With those weights w, halved
every five minutes so that clumps which begin late are not taken for harm for long,
    phi = (WEIGHT phi_0 + sum w d)/(WEIGHT + sum w),
the mean of an inverse gamma posterior.
"""

import numpy as np

from canary_release.core.record import FloatArray
from canary_release.core.running_sums import HALF_LIFE, gaps

WEIGHT = 0.375  # of the default, in the unit of w: about one pair of windows with many events
CLUMPED = 20.0  # events at which a pair counts half: 3 c of clumps of six
SURPRISE = 9.0  # times what is expected that one pair may count: an incident is not a clump


class ClumpsSeen:
    """The Fano factor of some series before each window. It never looks at the canary."""

    def __init__(self, phi: FloatArray) -> None:
        """phi: where nothing was seen yet, (S,)."""
        self._series = [_Series(start) for start in phi.tolist()]
        self._last = np.zeros((2, len(phi)))
        self._start: float | None = None
        self.known: FloatArray = np.zeros((0, len(phi)))
        """How much of the last windows' factors was seen, 0 to 1, the rest is the default; (W, S)."""

    def extend(self, stable_events: FloatArray, stable_of: FloatArray, start: FloatArray) -> FloatArray:
        """(W, S), from events out of how many, both (W, S), in windows that start at (W,)."""
        events = np.concatenate((self._last[:1], stable_events))
        of = np.concatenate((self._last[1:], stable_of))
        kept = (0.5 ** (gaps(start, self._start) / HALF_LIFE)).tolist()
        self._last, self._start = np.concatenate((events[-1:], of[-1:])), float(start[-1])
        difference, weight = _pairs(events, of)
        followed = [
            series.extend(difference[:, at].tolist(), weight[:, at].tolist(), kept)
            for at, series in enumerate(self._series)
        ]
        both: FloatArray = np.array(followed, dtype=float).reshape(len(followed), 2, len(start)).transpose(1, 2, 0)
        found, counted = both
        self.known = counted / (WEIGHT + counted)
        return np.asarray(found)


class _Series:
    """phi of one series, and the sums of w d and of w."""

    def __init__(self, phi: float) -> None:
        self._prior, self._squares, self._weights = WEIGHT * phi, 0.0, 0.0

    def extend(
        self, difference: list[float], weight: list[float], kept: list[float]
    ) -> tuple[list[float], list[float]]:
        """phi and the sum of w before each window."""
        prior, squares, weights = self._prior, self._squares, self._weights
        found, counted = list[float](), list[float]()
        for one, counts, keep in zip(difference, weight, kept, strict=True):
            squares *= keep
            weights *= keep
            phi = (prior + squares) / (WEIGHT + weights)
            phi = 1.0 if phi < 1.0 else phi
            found.append(phi)
            counted.append(weights)
            most = SURPRISE * phi
            squares += counts * (most if one > most else one)
            weights += counts
        self._squares, self._weights = squares, weights
        return found, counted


def differences(events: FloatArray, of: FloatArray, apart: int = 1) -> tuple[FloatArray, FloatArray]:
    """Squared differences of windows so many apart, and what chance makes of them; (T - apart, ...) from (T, ...)."""
    first, later = slice(None, -apart), slice(apart, None)
    both = np.maximum(of[later] + of[first], 1.0)
    rate = (events[later] + events[first]) / both
    return (events[later] - rate * of[later]) ** 2, rate * (1.0 - rate) * of[later] * of[first] / both


def _pairs(events: FloatArray, of: FloatArray) -> tuple[FloatArray, FloatArray]:
    """d and w of each window with the one before it, (W - 1, S)."""
    squares, chance = differences(events, of)
    both, together = of[1:] + of[:-1], events[1:] + events[:-1]
    known = chance > 0
    rarer = np.minimum(together, both - together)
    difference = squares / np.where(known, chance, 1.0)
    return difference, np.where(known, rarer / (rarer + CLUMPED) / 3.0, 0.0)

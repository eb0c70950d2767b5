"""Which counts a window is expected to bring when events come in clumps, a few values with their chances.

Few events are taken with their exact chances, those of a Polya-Aeppli count: whether a window has any at all is all
that is known of it then. Many are normal. Shapes: D rates, Q values.
"""

import math

import numpy as np

from canary_release.core.record import FloatArray

VALUES = 24
FEW = 3
_MOST_COUNTED = 240  # up to so many events their chances are added up one by one
_RARE = 0.1  # share of requests beyond which chance is less than of rare events
_FURTHEST = 3.5  # standard deviations
_NORMAL = np.linspace(-_FURTHEST, _FURTHEST, VALUES)
_DENSITY = np.exp(-0.5 * _NORMAL**2) / np.exp(-0.5 * _NORMAL**2).sum()


def counts(expected: FloatArray, share: FloatArray, phi: float) -> tuple[FloatArray, FloatArray]:
    """Values and their chances, both (D, Q), for events of which so many are expected, (D,), with Fano factor phi.

    share: of requests that are events, (D,).
    """
    deviation = np.sqrt(phi * expected * (1.0 - share))
    rare = (share < _RARE) | (expected < _FURTHEST * deviation)
    few = rare & (expected + 5.0 * np.sqrt(phi * expected) < _MOST_COUNTED)
    exact = _chances(np.where(few, expected, 0.0), phi)
    pairs = [
        _grouped(row, mean, phi) if is_few else _normal(mean, spread)
        for row, mean, spread, is_few in zip(exact, expected.tolist(), deviation.tolist(), few.tolist(), strict=True)
    ]
    return np.array([values for values, _ in pairs]), np.array([chances for _, chances in pairs])


def few_counts(expected: float, share: float, phi: float) -> tuple[FloatArray, FloatArray]:
    """The same for one rate in a few values, each the average of those that it stands for; both (FEW,)."""
    values, chances = (of[0] for of in counts(np.array([expected]), np.array([share]), phi))
    middle = np.cumsum(chances) - 0.5 * chances
    group = np.minimum((middle * FEW).astype(np.int64), FEW - 1)
    weight = np.bincount(group, chances, FEW)
    return np.bincount(group, chances * values, FEW) / np.maximum(weight, 1e-300), np.asarray(weight, dtype=float)


def _chances(expected: FloatArray, phi: float) -> FloatArray:
    """Of 0, 1, 2, ... events, (D, most + 1): Poisson clumps of geometric size (Johnson, Kemp & Kotz, 9.7)."""
    sticky = (phi - 1.0) / (phi + 1.0)
    clumps = expected * (1.0 - sticky)
    found = np.zeros((len(expected), _MOST_COUNTED + 1))
    found[:, 0] = np.exp(-clumps)
    found[:, 1] = clumps * (1.0 - sticky) * found[:, 0]
    for n in range(2, _MOST_COUNTED + 1):
        once = (2.0 * sticky * (n - 1) + clumps * (1.0 - sticky)) * found[:, n - 1]
        found[:, n] = np.maximum(once - sticky * sticky * (n - 2) * found[:, n - 2], 0.0) / n
    return found


def _grouped(chances: FloatArray, mean: float, phi: float) -> tuple[FloatArray, FloatArray]:
    """Neighbouring counts as one, by their average, so that VALUES are left."""
    width = max(1, math.ceil((mean + 5.0 * math.sqrt(phi * mean) + 5.0) / VALUES))
    number = np.arange(len(chances))
    group = np.minimum(number // width, VALUES - 1)
    weight = np.bincount(group, chances, VALUES)
    total = np.bincount(group, chances * number, VALUES)
    some = weight > 0
    return np.where(some, total / np.where(some, weight, 1.0), 0.0), weight / weight.sum()


def _normal(mean: float, deviation: float) -> tuple[FloatArray, FloatArray]:
    values = np.maximum(mean + deviation * _NORMAL, 0.0)
    return values * (mean / max(float(values @ _DENSITY), 1e-300)), _DENSITY

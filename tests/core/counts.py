"""One window's counts, and how likely they are."""

import math

import numpy as np

from canary_release.core.observations import Arms


def arms(canary: tuple[float, float], stable: tuple[float, float]) -> Arms:
    known = np.array([[True]])
    columns = [np.array([[float(count)]]) for count in (*canary, *stable)]
    return Arms(*columns, known, known)


def one(value: float) -> np.ndarray:
    return np.array([[float(value)]])


def clumped(mean: float, size: float, most: int) -> np.ndarray:
    """Chances of 0 ... most events: Poisson clumps of geometric size (Panjer's recursion)."""
    rate, stay = mean / size, 1 - 1 / size
    sizes = np.array([0.0] + [(1 - stay) * stay ** (k - 1) for k in range(1, most + 1)])
    chances = np.zeros(most + 1)
    chances[0] = math.exp(-rate)
    for k in range(1, most + 1):
        chances[k] = rate / k * sum(j * sizes[j] * chances[k - j] for j in range(1, k + 1))
    return chances

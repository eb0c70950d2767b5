"""Learning during a rollout how clumped a service's events are, where its past taught nothing: from stable alone."""

import numpy as np

from canary_release.core.observations import Arms
from canary_release.core.record import BoolArray, FloatArray

PRIOR_EVENTS = 150.0  # with which the default counts
SURPRISE = 9.0  # times its expected square that one pair of windows may count: an incident is not a clump


class ClumpsSeen:
    """The Fano factor before each window, from how stable's neighbouring windows differ.

    Each pair of neighbours is taken to have one rate, so that what changes slowly cancels; what it does not cancel only
    makes the judge more careful. It never looks at the canary.
    """

    def __init__(self, phi: FloatArray, learns: BoolArray) -> None:
        """phi: where nothing was seen yet, (C,).  learns: the others keep it, (C,)."""
        self._phi, self._learns = phi, learns
        self._squares, self._chances = PRIOR_EVENTS * phi, np.full(len(phi), PRIOR_EVENTS)
        self._last = np.zeros((2, len(phi)))

    def extend(self, arms: Arms) -> FloatArray:
        """(W, C)."""
        if not self._learns.any():
            return np.broadcast_to(self._phi, arms.stable_of.shape)
        events = np.concatenate((self._last[:1], arms.stable_events))
        of = np.concatenate((self._last[1:], arms.stable_of))
        self._last = np.stack((events[-1], of[-1]))
        both = of[1:] + of[:-1]
        rate = (events[1:] + events[:-1]) / np.maximum(both, 1.0)
        chances = rate * (1.0 - rate) * of[1:] * of[:-1] / np.maximum(both, 1.0) * self._learns
        squares = (events[1:] - rate * of[1:]) ** 2
        found = np.empty_like(rate)
        for at, (square, chance) in enumerate(zip(squares, chances, strict=True)):
            phi = self._squares / self._chances
            np.maximum(phi, 1.0, out=found[at])
            self._squares = self._squares + np.minimum(square, SURPRISE * phi * chance)
            self._chances = self._chances + chance
        return found

"""What the judge is expected to learn of clumps during a rollout, as `clumps_seen.py` does."""

from dataclasses import dataclass

import numpy as np

from canary_release.core.clumps_seen import CLUMPED, WEIGHT
from canary_release.core.record import FloatArray
from canary_release.core.running_sums import HALF_LIFE

_TOO_FEW = 0.3  # most of the variance of what was seen of clumps, over 9


@dataclass(frozen=True)
class Learning:
    """What ClumpsSeen is expected to make of a stable of which the windows have so many events.

    start, true: the Fano factor before anything was seen, and the one that there is.
    """

    start: float
    true: float
    events: float

    @property
    def weight(self) -> float:
        """How much a window and the one before it count in what is learned."""
        return 2.0 * self.events / (2.0 * self.events + CLUMPED) / 3.0

    def known(self, windows: FloatArray, seconds: float, before: float = 0.0) -> FloatArray:
        """How much has been counted ahead of the windows numbered so (N,), when it had been ``before``."""
        kept = 0.5 ** (seconds / HALF_LIFE)
        most = self.weight * kept / (1.0 - kept)
        return np.asarray(most + (before - most) * kept ** np.maximum(windows - 1.0, 0.0))

    def values(self, known: FloatArray, normal: FloatArray) -> FloatArray:
        """What has been learned where so much was counted, by what chance makes of it, a normal value; alike shapes.

        The squares are taken for gamma distributed, with the variance that each has (see `clumps_seen.py`), three
        quarters of it since windows are in two pairs and older ones are halved; quantiles by Wilson and Hilferty.
        """
        pair = 2.0 * self.events
        variance = 0.25 * (2.0 * pair + 3.0 * (self.true + 1.0)) / (pair + CLUMPED)
        spread = np.minimum(variance / np.maximum(9.0 * known, 1e-9), _TOO_FEW)
        times = np.maximum(1.0 - spread + normal * np.sqrt(spread), 0.0) ** 3
        return np.asarray(np.maximum((WEIGHT * self.start + known * self.true * times) / (WEIGHT + known), 1.0))

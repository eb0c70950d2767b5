"""How much noisier than coin flips a service's counts are."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Noise:
    """What the judge allows for beyond independent requests.

    phi: Fano factor of the counts, at least 1: errors that come in geometric clumps of mean m have phi = 2 m - 1.
    tau2: variance of the slow relative noise of one instance in windows of ``window`` seconds, as it adds up over many
        of them: 2 deviation^2 T/window for noise that lasts T seconds. Divided by the number of instances when used,
        and by the ratio of the lengths for windows of other lengths.
    least_phi: a lower bound of phi: clumps that are surely there, so that their errors can be counted as one.
    deviation: how far one instance's own rate wanders, as a standard deviation of its logarithm; None: as far as tau2
        allows, which is true of noise that lasts longer than half a window.

    The defaults hold for the errors of a service without per-instance history: clumps of up to six, and instances whose
    error rates wander by 30 % for ten minutes. Safe, and up to three times slower than noise that was measured,
    although clumps are learned during the rollout.
    """

    phi: float = 6.0
    tau2: float = 2.4
    deviation: float | None = 0.3
    window: float = 30.0
    least_phi: float = 1.0

    def __post_init__(self) -> None:
        if not (1.0 <= self.phi < math.inf and 0.0 <= self.tau2 < math.inf):
            raise ValueError(
                f"phi must be at least 1 and tau2 at least 0, both finite, not {self.phi} and {self.tau2}."
            )
        if not (0.0 < self.window < math.inf and 0.0 <= self.wander < math.inf):
            raise ValueError(f"deviation and window must be positive and finite, not {self.deviation}, {self.window}.")

    @property
    def stickiness(self) -> float:
        """The chance r that the next error belongs to the same clump; phi = (1 + r) / (1 - r)."""
        return (self.phi - 1.0) / (self.phi + 1.0)

    @property
    def wander(self) -> float:
        """The deviation, in its known or its largest possible size."""
        return math.sqrt(self.tau2) if self.deviation is None else self.deviation

    @property
    def drift(self) -> float:
        """tau2 for windows of one second."""
        return self.tau2 * self.window


DEFAULT_NOISE = Noise()
# Slow requests come in no clumps as retries make of errors. Wide enough for instances that wander by 30 % for ten
# minutes where nothing is tolerated; a latency that is 10 % higher cannot be told from that without a history.
DEFAULT_LATENCY_NOISE = Noise(phi=2.0, tau2=1.8, deviation=0.35)

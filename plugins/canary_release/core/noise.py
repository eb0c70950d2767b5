"""How much noisier than coin flips a service's counts are."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Noise:
    """What the judge allows for beyond independent requests.

    phi: Fano factor of the counts, at least 1: errors that come in geometric clumps of mean m have phi = 2 m - 1.
    tau2: variance of the slow relative noise of one instance, divided by the number of instances when used.

    The defaults hold for a service without per-instance history: safe, and slower than noise that was measured.
    """

    phi: float = 3.0
    tau2: float = 0.1

    def __post_init__(self) -> None:
        if not (1.0 <= self.phi < float("inf") and 0.0 <= self.tau2 < float("inf")):
            raise ValueError(
                f"phi must be at least 1 and tau2 at least 0, both finite, not {self.phi} and {self.tau2}."
            )

    @property
    def stickiness(self) -> float:
        """The chance r that the next error belongs to the same clump; phi = (1 + r) / (1 - r)."""
        return (self.phi - 1.0) / (self.phi + 1.0)


DEFAULT_NOISE = Noise()

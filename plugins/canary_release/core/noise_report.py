"""What was learned of a service before a rollout: its noise, and how stable was doing just before."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from canary_release.core.noise import Noise
from canary_release.core.problems import LedgerError


@dataclass(frozen=True)
class Baseline:
    """Stable just before the rollout, older windows counting half every five minutes.

    events: (events, of how many) by metric.  edges: of the latency histogram, in seconds; slower: requests slower than
    each of them; requests: all of that histogram.
    """

    events: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    edges: tuple[float, ...] = ()
    slower: tuple[float, ...] = ()
    requests: float = 0.0


@dataclass(frozen=True)
class NoiseReport:
    """checks: by the check's label, only what was learned.  at_edges: of latency, one for each edge of the baseline.

    sentences: what was learned from what, or why not.
    """

    checks: Mapping[str, Noise] = field(default_factory=dict)
    at_edges: tuple[Noise, ...] = ()
    baseline: Baseline = field(default_factory=Baseline)
    sentences: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; ``from_json`` makes an equal report of it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "NoiseReport":
        """Raises LedgerError when it is anything else than what ``to_json`` wrote."""
        try:
            base = value["baseline"]
            return cls(
                checks={str(name): Noise(**of) for name, of in value["checks"].items()},
                at_edges=tuple(Noise(**of) for of in value["at_edges"]),
                baseline=Baseline(
                    events={str(name): (float(x), float(n)) for name, (x, n) in base["events"].items()},
                    edges=tuple(map(float, base["edges"])),
                    slower=tuple(map(float, base["slower"])),
                    requests=float(base["requests"]),
                ),
                sentences=tuple(map(str, value["sentences"])),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LedgerError(
                f"the noise in the ledger cannot be read ({type(error).__name__}: {error}); start the rollout anew."
            ) from error

"""The words of the project as types (see the README's glossary): sides, weights, counts, windows, verdicts.

Frozen values without behaviour beyond reading them; every other module may import this one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

FULL = Decimal(100)
NONE = Decimal(0)


class Side(StrEnum):
    """The two versions compared: stable holds the traffic when a rollout starts."""

    STABLE = "stable"
    CANARY = "canary"


class Verdict(StrEnum):
    """What the evidence says. No data is neither a pass nor a fail."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"
    NO_DATA = "no_data"


class Decision(StrEnum):
    """What follows from a verdict."""

    ADVANCE = "advance"
    HOLD = "hold"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True)
class Weights:
    """Shares of the traffic in percent, one for each backend, absolute, adding up to 100.

    Percentages are decimals, so that 0.1 % is 0.1 % and a read-back can be compared for equality.
    """

    shares: Mapping[str, Decimal]

    @classmethod
    def split(cls, *, stable: str, canary: str, canary_percent: Decimal) -> "Weights":
        """Give ``canary_percent`` to the canary's backend and the rest to the stable one."""
        return cls({stable: FULL - canary_percent, canary: canary_percent})

    @classmethod
    def from_json(cls, value: Mapping[str, str]) -> "Weights":
        return cls({name: Decimal(share) for name, share in value.items()})

    def to_json(self) -> dict[str, str]:
        return {name: plain(share) for name, share in self.shares.items()}

    def __getitem__(self, backend: str) -> Decimal:
        return self.shares[backend]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Weights) and dict(self.shares) == dict(other.shares)

    def __hash__(self) -> int:
        return hash(frozenset(self.shares.items()))

    def __str__(self) -> str:
        return ", ".join(f"{name} {plain(share)} %" for name, share in self.shares.items())


def plain(number: Decimal) -> str:
    """A decimal without exponent or trailing zeros: ``5``, ``0.1``, ``100``."""
    text = format(number, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


@dataclass(frozen=True)
class Counts:
    """What one side did in one window.

    requests, errors: whole numbers, errors <= requests.
    buckets: requests by latency, not cumulative, one for each edge of the window and one for "slower than all";
        empty when the source has no latency.
    instances: how many instances served the side, None when unknown.
    proportions: named counts (events, of how many), for example ``{"conversions": (31, 1200)}``.
    values: named single numbers for stores that give no counts, for example ``{"p99": 0.41}``.
    """

    requests: int
    errors: int = 0
    buckets: tuple[int, ...] = ()
    instances: int | None = None
    proportions: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """The counts of both sides between two instants.

    start, end: seconds since the epoch.  edges: upper bucket edges in seconds, ascending, without infinity.
    stable, canary: None when the side could not be read (that is no data, not zero requests).
    broken: why this window must not be judged (a counter went backwards, a value was missing), else None.
    index, step, weight: the window's place in its rollout (weight = the canary's share, 0 to 1); a metric source
        leaves them open and the control part fills them in with ``placed``.
    """

    start: float
    end: float
    stable: Counts | None
    canary: Counts | None
    edges: tuple[float, ...] = ()
    broken: str | None = None
    index: int = -1
    step: int = -1
    weight: float = math.nan

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def placed(self, *, index: int, step: int, weight: float) -> "Window":
        return replace(self, index=index, step=step, weight=weight)


Cursor = Mapping[str, Any]
"""Where a metric source stopped reading: small, JSON, opaque to everyone but the source that made it."""

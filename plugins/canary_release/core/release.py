"""A release file as frozen typed values, after every unit has been read; `release_file.py` makes them from YAML.

Durations are seconds, shares are percent as decimals, limits carry their unit in their kind.
"""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any


class CheckKind(StrEnum):
    """What a check's evidence is made of."""

    PROPORTION = "proportion"  # events out of requests (or out of a named count): error_rate, conversions
    LATENCY = "latency"  # a quantile of a histogram: page_load_time
    VALUE = "value"  # one number a window and side, from stores that give no counts


class Direction(StrEnum):
    LOWER_IS_BETTER = "lower_is_better"
    HIGHER_IS_BETTER = "higher_is_better"


class LimitKind(StrEnum):
    RELATIVE = "relative"  # 10 %: canary <= stable x 1.10      amount 0.10
    POINTS = "points"  # 0.5pp: canary <= stable + 0.005        amount 0.005
    SECONDS = "seconds"  # 50ms: canary <= stable + 0.050 s     amount 0.050
    PLAIN = "plain"  # a bare number, for value checks


@dataclass(frozen=True)
class Limit:
    kind: LimitKind
    amount: float
    text: str  # as written in the file, for sentences


@dataclass(frozen=True)
class Check:
    """A metric and how much worse the canary may be. Several limits on one check must all hold.

    metric: ``error_rate``, ``page_load_time`` or the name of a proportion or value that the metric source gives.
    quantile: for latency checks, 0 to 1.
    max_change: how far the canary may be from stable in the bad direction (``max_increase``; ``max_decrease`` where
        higher is better); None when there is only an absolute limit.
    absolute: ``max`` (``min`` where higher is better) for the canary alone.
    share: this check's part of the evidence budget, positive, relative to the others (``weight`` in the file).
    critical: a fail rolls back by itself (the default). observe_only: judged and shown, never acted upon.
    """

    metric: str
    kind: CheckKind
    quantile: float | None = None
    max_change: Limit | None = None
    absolute: Limit | None = None
    direction: Direction = Direction.LOWER_IS_BETTER
    share: float = 1.0
    critical: bool = True
    observe_only: bool = False


class WhenUndecided(StrEnum):
    """What a step does when its bake is over and the evidence says neither pass nor fail."""

    HOLD = "hold"
    EXTEND = "extend"
    ADVANCE = "advance"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True)
class Step:
    """One weight of the plan. weight: percent. bake, min_bake, extend_up_to: seconds. min_requests: on the canary."""

    weight: Decimal
    bake: float
    min_bake: float = 0.0
    min_requests: int = 0
    when_undecided: WhenUndecided = WhenUndecided.ADVANCE
    extend_up_to: float = 0.0


@dataclass(frozen=True)
class Approval:
    """Someone must say yes before the next step. on_timeout is ``roll_back`` or ``hold``, never approve."""

    by: tuple[str, ...]
    timeout: float
    on_timeout: str = "roll_back"


@dataclass(frozen=True)
class Target:
    """Where a balancer or source is reached: its type, its Airflow connection, and the type's own typed options."""

    type: str
    connection: str
    options: Any = None


@dataclass(frozen=True)
class ReleaseWindow:
    """When a rollout may start: weekday numbers (0 = Monday), local minutes of the day, an IANA time zone."""

    days: tuple[int, ...]
    start_minute: int
    end_minute: int
    timezone: str


@dataclass(frozen=True)
class Release:
    """A whole release file.

    backends: the two sides' names in the load balancer; the one with the traffic is stable.
    profiles: other step lists by name; ``steps`` is the profile ``standard``.
    poll: seconds between looks.  lease: seconds a raised weight may stand without news.
    max_no_data: seconds without usable data before ``on_no_data`` (hold or roll_back) applies.
    max_blind: seconds without being able to read the source before the canary is taken off.
    drift: what to do when somebody else moved the weights: hold, adopt or repair (once a step, then hold).
    text, sha256: the file as it was, frozen into the ledger when a rollout starts.
    """

    service: str
    load_balancer: Target
    backends: tuple[str, str]
    metrics: Target
    steps: tuple[Step | Approval, ...]
    checks: tuple[Check, ...]
    profiles: dict[str, tuple[Step | Approval, ...]] = field(default_factory=dict)
    poll: float = 10.0
    lease: float = 60.0
    max_no_data: float = 600.0
    on_no_data: str = "roll_back"
    max_blind: float = 300.0
    harm_budget: float = 0.25
    early_promotion: bool = True
    drift: str = "hold"
    window: ReleaseWindow | None = None
    owner: str = ""
    text: str = ""
    sha256: str = ""

"""A release file as frozen typed values, after every unit has been read; `release_file.py` makes them from YAML.

Durations are seconds, shares are percent as decimals, limits carry their unit in their kind.
"""

from collections.abc import Mapping
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
    """One weight of the plan. weight: percent. bake, min_bake, extend_up_to: seconds. min_requests: on the canary.

    must_contain_peak: the bake lasts until it has seen the service's peak hours.
    """

    weight: Decimal
    bake: float
    min_bake: float = 0.0
    min_requests: int = 0
    when_undecided: WhenUndecided = WhenUndecided.ADVANCE
    extend_up_to: float = 0.0
    must_contain_peak: bool = False


@dataclass(frozen=True)
class Approval:
    """Someone must say yes before the next step. on_timeout is ``roll_back`` or ``hold``, never approve.

    not_by_starter: whoever started the rollout may not be the one who approves.
    """

    by: tuple[str, ...]
    timeout: float
    on_timeout: str = "roll_back"
    not_by_starter: bool = False


class Ability(StrEnum):
    """What only some load balancers can do."""

    LEASE = "lease"  # takes the canary off by itself when nobody renews its lease
    FORCED_CANARY = "forced_canary"  # a header or cookie reaches the canary whatever its weight
    STICKY = "sticky"  # a client stays on the side that it met
    MIRROR = "mirror"  # copies of requests go to the canary, their answers nowhere


@dataclass(frozen=True)
class Target:
    """Where a balancer or source is reached: its type, its Airflow connection, and the type's own typed options."""

    type: str
    connection: str
    options: Any = None


@dataclass(frozen=True)
class ReleaseWindow:
    """Hours of the week: weekday numbers (0 = Monday), local minutes of the day, an IANA time zone."""

    days: tuple[int, ...]
    start_minute: int
    end_minute: int
    timezone: str


@dataclass(frozen=True)
class Freeze:
    """No release from ``start`` to just before ``end``, in seconds since the epoch. why: in the team's own words."""

    start: float
    end: float
    why: str


@dataclass(frozen=True)
class Calendar:
    """When traffic may be given to a canary; taking it away is never held back.

    windows: it is open while any of them is; without one always.  freezes: closed, whatever the windows say.
    when_closed: what a start does while it is closed, ``refuse`` or ``wait``.
    allow_finish: a rollout that has begun goes on while it is closed; otherwise its next raise waits.
    cooldown: seconds after a rollback in which no rollout starts.
    peak: the service's busiest hours, for steps whose bake must contain them.
    """

    windows: tuple[ReleaseWindow, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    when_closed: str = "refuse"
    allow_finish: bool = False
    cooldown: float = 0.0
    peak: ReleaseWindow | None = None


class Moment(StrEnum):
    """When something outside is called."""

    BEFORE = "before"  # the service is taken, nobody is exposed
    BEFORE_STEP = "before_step"  # before every raise
    AFTER = "after"  # promoted
    ON_ROLLBACK = "on_rollback"  # the safe side has everything again


@dataclass(frozen=True)
class HttpCall:
    """A request to the server of an Airflow connection. body: JSON, empty for none."""

    connection: str
    method: str
    path: str
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Hook:
    """What is called around a rollout: a DAG with its conf, or an HTTP request; one of them.

    timeout: seconds for one attempt.  retries: attempts after a failed one.  rolls_back: whether its failure ends the
    rollout.  Texts of conf and body that are a placeholder such as ``{version}`` as a whole are filled in.
    """

    dag: str = ""
    conf: Mapping[str, Any] = field(default_factory=dict)
    http: HttpCall | None = None
    timeout: float = 600.0
    retries: int = 0
    rolls_back: bool = True

    @property
    def what(self) -> str:
        """``DAG deploy_checkout`` or ``POST /warm at deployer``."""
        return f"{self.http.method} {self.http.path} at {self.http.connection}" if self.http else f"DAG {self.dag}"


@dataclass(frozen=True)
class Channel:
    """Who is told what: via is a way of sending, ``to`` what it needs beyond its connection, on the events it hears."""

    via: str
    connection: str
    to: str
    on: frozenset[str]

    @property
    def name(self) -> str:
        """The same for the same receiver, whatever it hears: nobody is told the same thing twice."""
        return " ".join(filter(None, (self.via, self.connection, self.to)))


@dataclass(frozen=True)
class Links:
    """Where a person looks further: URLs with ``{service}``, ``{version}``, ``{from}`` and ``{to}``; empty: nowhere."""

    dashboard: str = ""
    runbook: str = ""
    load_balancer: str = ""


@dataclass(frozen=True)
class Release:
    """A whole release file.

    backends: the two sides' names in the load balancer; the one with the traffic is stable.
    needs: what the load balancer must be able to do and be configured to do.
    profiles: other step lists by name; ``steps`` is the profile ``standard``.
    poll: seconds between looks.  lease: seconds a raised weight may stand without news.
    max_no_data: seconds without usable data before ``on_no_data`` (hold or roll_back) applies.
    max_blind: seconds without being able to read the source before the canary is taken off.
    requests_per_user: how many requests one user makes on the service during a rollout, 0 where nobody said.
    hooks: what is called on the outside, in order.  keep_old_for: seconds after a promotion in which the old side is
    kept, so that one action returns to it.  on_asset: an Airflow asset whose events start a rollout.
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
    calendar: Calendar = Calendar()
    hooks: Mapping[Moment, tuple[Hook, ...]] = field(default_factory=dict)
    requests_per_user: float = 0.0
    keep_old_for: float = 0.0
    needs: tuple[Ability, ...] = ()
    on_asset: str = ""
    notify: tuple[Channel, ...] = ()
    links: Links = Links()
    owner: str = ""
    text: str = ""
    sha256: str = ""

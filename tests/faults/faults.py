"""What can go wrong, and a load balancer, a metric source and a ledger in which it does.

The load balancer here is the truth of the simulation: what it really does is kept in ``shares`` whether or not its API
says so, and clients are served by that alone.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from typing import Any

import numpy as np

from canary_release.core.ports import Clock
from canary_release.core.problems import LedgerError, LoadBalancerError, MetricSourceError, UnknownTargetError
from canary_release.core.values import Counts, Cursor, Weights, Window
from canary_release.ledger.store import Ledger
from faults.simulator import Hub

BLUE, GREEN = "shop-blue", "shop-green"
HUNDRED = Decimal(100)
STANDARD = Weights({BLUE: HUNDRED, GREEN: Decimal(0)})
API_SECONDS = 0.02
TIMEOUT_SECONDS = 10.0
LATE_SECONDS = 90.0
BUSY_SECONDS = 15.0


class BalancerFault(StrEnum):
    """What the load balancer's API does instead of obeying."""

    FAILS_BEFORE = "500 before it applied the write"
    RESETS_AFTER = "connection reset after it applied the write"
    TIMES_OUT = "no answer within 10 s, nothing applied"
    IGNORES = "says yes and applies nothing"
    APPLIES_LATE = "says yes and applies 90 s later"
    GARBAGE = "its answers cannot be read"
    THROTTLES = "429 for every call"
    FORBIDS = "403 for every write"
    RULE_IS_GONE = "404: the rule was deleted"


class MetricFault(StrEnum):
    """What the metric source does instead of counting."""

    DOWN = "the store does not answer"
    TIMES_OUT = "no answer within 10 s"
    EMPTY = "an answer without any series"
    NO_CANARY = "an answer without the canary's series"
    NOT_A_NUMBER = "NaN for a count"
    STALE = "the same old instant again"
    COUNTER_RESET = "a counter went backwards"
    SWAPPED = "the two sides' labels are swapped"
    ZERO = "no requests at all on the canary"


class LedgerFault(StrEnum):
    UNREACHABLE = "the ledger's database is gone"
    LOCKED = "the ledger's database is locked by somebody"
    LOST_ANSWER = "the transaction was committed and its answer lost"


Kind = BalancerFault | MetricFault | LedgerFault


@dataclass(frozen=True)
class Outage:
    """A fault of a port between two instants of true time."""

    kind: Kind
    start: float
    end: float


@dataclass
class Outages:
    hub: Hub
    all: list[Outage] = field(default_factory=list)

    def add(self, kind: Kind, seconds: float, *, start: float | None = None) -> None:
        begin = self.hub.time if start is None else start
        self.all.append(Outage(kind, begin, begin + seconds))

    def now(self, family: type[Kind]) -> Any:
        """The first fault of this family in force, else None."""
        at = self.hub.time
        return next((one.kind for one in self.all if isinstance(one.kind, family) and one.start <= at < one.end), None)

    def over(self) -> bool:
        return all(one.end <= self.hub.time for one in self.all)


@dataclass
class SimulatedBalancer:
    """A load balancer with two backends. told: called with (before, after) whenever what clients see changes.

    asked: called before a write leaves the process, with the weights.  other_rules: what must never change.
    failing: the share of calls that fail by themselves, 0 to 1.
    late: how many writes it said yes to and has not applied yet.
    """

    hub: Hub
    outages: Outages
    told: Callable[[Weights, Weights], None]
    asked: Callable[[Weights], None]
    shares: Weights = STANDARD
    finest_step: Decimal = Decimal("0.01")
    other_rules: Mapping[str, str] = field(default_factory=lambda: {"admin": "10.0.0.9"})
    writes: list[tuple[float, Weights]] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    late: int = 0
    failing: float = 0.0

    def get_weights(self) -> Weights:
        self._call("get_weights")
        fault = self.outages.now(BalancerFault)
        if fault is BalancerFault.TIMES_OUT:
            self.hub.sleep(TIMEOUT_SECONDS)
        if fault in (BalancerFault.TIMES_OUT, BalancerFault.GARBAGE, BalancerFault.THROTTLES):
            raise LoadBalancerError(f"GET weights: {fault}")
        if fault is BalancerFault.RULE_IS_GONE:
            raise UnknownTargetError(f"GET weights: {fault}")
        self.hub.sleep(API_SECONDS)
        seen = self.shares
        self.hub.reach("balancer.get_weights:after")
        return seen

    def set_weights(self, weights: Weights) -> None:
        self._call("set_weights")
        self.asked(weights)
        fault = self.outages.now(BalancerFault)
        self._refuse(fault)
        self.hub.sleep(API_SECONDS)
        if fault is BalancerFault.APPLIES_LATE:
            self.late += 1
            self.hub.spawn("balancer", lambda: self._apply_late(weights), at=self.hub.time + LATE_SECONDS)
        elif fault is not BalancerFault.IGNORES:
            self.apply(weights)
        if fault is BalancerFault.RESETS_AFTER:
            raise LoadBalancerError(f"PUT weights: {fault}")
        self.hub.reach("balancer.set_weights:after")

    def apply(self, weights: Weights) -> None:
        """What clients see changes."""
        before, self.shares = self.shares, weights
        self.writes.append((self.hub.time, weights))
        self.told(before, weights)

    def _apply_late(self, weights: Weights) -> None:
        self.late -= 1
        self.apply(weights)

    def _refuse(self, fault: BalancerFault | None) -> None:
        if fault is BalancerFault.TIMES_OUT:
            self.hub.sleep(TIMEOUT_SECONDS)
        if fault is BalancerFault.RULE_IS_GONE:
            raise UnknownTargetError(f"PUT weights: {fault}")
        if fault in (
            BalancerFault.TIMES_OUT, BalancerFault.FAILS_BEFORE, BalancerFault.THROTTLES, BalancerFault.FORBIDS,
        ):  # fmt: skip
            raise LoadBalancerError(f"PUT weights: {fault}")

    def _call(self, name: str) -> None:
        self.hub.reach(f"balancer.{name}:before")
        self.calls.append(self.hub.time)
        if self.failing and self.hub.rng.random() < self.failing:
            raise LoadBalancerError(f"{name}: 503, as it does now and then")


@dataclass
class SimulatedMetrics:
    """Counts what the clients really did, since they were served by the true weights.

    served(start, end): requests by backend.  error_rate: by backend.
    """

    hub: Hub
    clock: Clock
    outages: Outages
    served: Callable[[float, float], Mapping[str, float]]
    error_rate: Mapping[str, float]
    stable: str
    canary: str

    def __post_init__(self) -> None:
        self._noise = np.random.default_rng(self.hub.seed)

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        self.hub.reach("metrics.read:before")
        fault = self.outages.now(MetricFault)
        if fault is MetricFault.TIMES_OUT:
            self.hub.sleep(TIMEOUT_SECONDS)
        if fault in (MetricFault.DOWN, MetricFault.TIMES_OUT, MetricFault.NOT_A_NUMBER):
            raise MetricSourceError(f"the metrics store: {fault}")
        here = {"at": self.clock.now(), "true": self.hub.time}
        if cursor is None:
            return [], here
        if fault is MetricFault.STALE or here["at"] <= cursor["at"]:
            return [], cursor
        counts = self._counts(cursor["true"], here["true"])
        window = Window(cursor["at"], here["at"], counts[self.stable], counts[self.canary])
        window = _spoilt(window, fault)
        self.hub.reach("metrics.read:after")
        return [window], here

    def _counts(self, start: float, end: float) -> dict[str, Counts]:
        counts = {}
        for backend, expected in self.served(start, end).items():
            requests = int(expected)
            errors = int(self._noise.binomial(requests, self.error_rate[backend]))
            counts[backend] = Counts(requests, errors, instances=4)
        return counts


def _spoilt(window: Window, fault: MetricFault | None) -> Window:
    if fault is MetricFault.EMPTY:
        return replace(window, stable=None, canary=None)
    if fault is MetricFault.NO_CANARY:
        return replace(window, canary=None)
    if fault is MetricFault.COUNTER_RESET:
        return replace(window, broken="a counter went backwards")
    if fault is MetricFault.SWAPPED:
        return replace(window, stable=window.canary, canary=window.stable)
    if fault is MetricFault.ZERO:
        return replace(window, canary=Counts(0, 0, instances=4))
    return window


@dataclass
class LeasingBalancer(SimulatedBalancer):
    """A load balancer that takes the canary off by itself. It goes by its own clock, the true one."""

    configured: Weights = STANDARD
    lease: tuple[float, str] | None = None

    def apply(self, weights: Weights) -> None:
        self.configured = weights
        self._enforce()

    def renew_lease(self, until: float, safe: str) -> None:
        self._ask(until, safe, "renew_lease")
        self.hub.spawn("balancer", self._enforce, at=until)

    def end_lease(self, safe: str) -> None:
        self._ask(0.0, safe, "end_lease")

    def _ask(self, until: float, safe: str, name: str) -> None:
        self._call(name)
        self._refuse(self.outages.now(BalancerFault))
        self.hub.sleep(API_SECONDS)
        self.lease = (until, safe)
        self._enforce()
        self.hub.reach(f"balancer.{name}:after")

    def _enforce(self) -> None:
        weights = self.configured
        if self.lease is not None and self.hub.time >= self.lease[0]:
            weights = Weights({name: HUNDRED if name == self.lease[1] else Decimal(0) for name in weights.shares})
        if weights != self.shares:
            super().apply(weights)


# What these gave stays true until somebody writes.
_LOOKS = (
    "rollout", "rollout_of_run", "active", "unfinished", "history", "services", "writes", "windows", "decisions",
    "audit_trail",
)  # fmt: skip
_CALLS = [name for name, value in vars(Ledger).items() if callable(value) and not name.startswith("_")]


class FaultyLedger(Ledger):
    """The real ledger; every call passes a point before and after, and may find the database gone.

    A look that is repeated without a write in between is answered from the one before. wrote: counts the writes.
    """

    def __init__(self, engine: Any, hub: Hub, outages: Outages) -> None:
        super().__init__(engine)
        self._hub, self._outages = hub, outages
        self._seen: dict[Any, Any] = {}
        self.wrote = 0
        for name in _CALLS:
            if name not in ("open", "close"):
                call = getattr(self, name)
                setattr(self, name, self._watched(name, self._remembered(name, call) if name in _LOOKS else call))

    def _write(self) -> AbstractContextManager[Any]:
        self._seen.clear()
        self.wrote += 1
        return super()._write()

    def _remembered(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def remembered(*args: Any, **kwargs: Any) -> Any:
            key = (name, args, *kwargs.items())
            if key not in self._seen:
                self._seen[key] = call(*args, **kwargs)
            return copy(self._seen[key])

        return remembered

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._hub.current is None:
                return call(*args, **kwargs)
            self._hub.reach(f"ledger.{name}:before")
            self._stand_in_the_way()
            result = call(*args, **kwargs)
            if self._outages.now(LedgerFault) is LedgerFault.LOST_ANSWER:
                raise LedgerError("the ledger could not be written: server closed the connection unexpectedly")
            self._hub.reach(f"ledger.{name}:after")
            return result

        return watched

    def _stand_in_the_way(self) -> None:
        fault = self._outages.now(LedgerFault)
        if fault is LedgerFault.LOCKED:
            waited = 0.0
            while waited < BUSY_SECONDS and self._outages.now(LedgerFault) is LedgerFault.LOCKED:
                self._hub.sleep(1.0)
                waited += 1.0
            fault = self._outages.now(LedgerFault)
        if fault in (LedgerFault.UNREACHABLE, LedgerFault.LOCKED):
            raise LedgerError(f"the ledger could not be read or written: {fault}")

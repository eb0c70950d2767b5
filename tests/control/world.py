"""A small world for the control part: a clock that only moves when told, a balancer and metrics that behave.

No Airflow, no network: what happens in an hour of rollout happens here in milliseconds.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from canary_release.control.desk import Desk
from canary_release.control.starting import Started, StartRequest, start
from canary_release.core.ports import LoadBalancer, MetricSource
from canary_release.core.problems import LoadBalancerError, MetricSourceError
from canary_release.core.release import Check, CheckKind, Limit, LimitKind, Release, Step, Target
from canary_release.core.values import Counts, Cursor, Weights, Window
from canary_release.ledger.store import Ledger

BLUE, GREEN = "shop-blue", "shop-green"


def a_release(*weights: int, bake: float = 30.0, **changes: object) -> Release:
    """A release of the shop through these weights, polled every second."""
    text = f"service: shop {weights} {bake} {changes}"
    release = Release(
        service="shop",
        load_balancer=Target("world", "none"),
        backends=(BLUE, GREEN),
        metrics=Target("world", "none"),
        steps=tuple(Step(Decimal(weight), bake) for weight in (weights or (1, 5, 25, 100))),
        checks=(Check("error_rate", CheckKind.PROPORTION, max_change=Limit(LimitKind.POINTS, 0.005, "0.5pp")),),
        poll=1.0,
        lease=20.0,
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    return replace(release, **changes)  # type: ignore[arg-type]


class WorldClock:
    """Time that passes only by ``sleep``."""

    def __init__(self, at: float = 1_800_000_000.0) -> None:
        self.at = at

    def now(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class WorldBalancer:
    """Keeps the weights it is given. ``fault`` is asked before each write; it may raise, or return False to ignore."""

    weights: Weights = field(default_factory=lambda: Weights({BLUE: Decimal(100), GREEN: Decimal(0)}))
    finest_step: Decimal = Decimal("0.01")
    writes: list[Weights] = field(default_factory=list)
    fault: Callable[[Weights], bool] = lambda weights: True

    def get_weights(self) -> Weights:
        return self.weights

    def set_weights(self, weights: Weights) -> None:
        if set(weights.shares) != {BLUE, GREEN}:
            raise LoadBalancerError(f"unknown backends in {weights}")
        self.writes.append(weights)
        if self.fault(weights):
            self.weights = weights


@dataclass
class WorldMetrics:
    """Counts what clients would have seen since the cursor, given the weights in force and each side's error rate."""

    clock: WorldClock
    balancer: WorldBalancer
    rate: float = 1000.0
    error_rate: dict[str, float] = field(default_factory=lambda: {BLUE: 0.002, GREEN: 0.002})
    down: bool = False
    stable: str = BLUE
    canary: str = GREEN

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        if self.down:
            raise MetricSourceError("the metrics store does not answer")
        now = self.clock.now()
        if cursor is None or now <= cursor["at"]:
            return [], {"at": now}
        counts = {side: self._counts(side, now - cursor["at"]) for side in (BLUE, GREEN)}
        return [Window(cursor["at"], now, counts[self.stable], counts[self.canary])], {"at": now}

    def _counts(self, side: str, seconds: float) -> Counts:
        requests = int(self.rate * seconds * float(self.balancer.weights[side]) / 100)
        return Counts(requests, errors=round(requests * self.error_rate[side]), instances=4)


class World:
    """A desk over one ledger, with everything outside it in the test's hand."""

    def __init__(self, folder: Path, release: Release | None = None) -> None:
        self.clock = WorldClock()
        self.balancer = WorldBalancer()
        self.metrics = WorldMetrics(self.clock, self.balancer)
        self.release = release or a_release()
        self.ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}")
        self.desk = self.new_desk()

    def new_desk(self) -> Desk:
        """A second process's view of the same ledger and load balancer."""

        def source(release: Release, stable: str, canary: str) -> MetricSource:
            self.metrics.stable, self.metrics.canary = stable, canary
            return self.metrics

        def balancer(release: Release) -> LoadBalancer:
            return self.balancer

        return Desk(self.ledger, self.clock, balancer, source, lambda text, name: self.release)

    def start(self, version: str = "v2", **changes: object) -> Started:
        request = StartRequest(
            release=self.release,
            release_name="shop.yaml",
            version=version,
            dag_id="release_shop",
            run_id=f"shop-{version}",
            by="ada",
        )
        return start(self.desk, replace(request, **changes))  # type: ignore[arg-type]

    @property
    def canary_percent(self) -> Decimal:
        return self.balancer.weights[GREEN]

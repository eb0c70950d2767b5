"""Recorded windows as the points of a chart: pooled into as many bins as a chart has room for, never across steps.

A value is what a check compares: a share, seconds, or the store's own number; nan where there is nothing to show.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from canary_release.core.aftermath import beyond, stable_quantile
from canary_release.core.release import Check, CheckKind, Direction
from canary_release.core.values import Counts, Window

Z = 1.96  # a 95 % band


@dataclass
class Pool:
    """The counts of one side over some windows."""

    requests: int = 0
    errors: int = 0
    buckets: list[int] = field(default_factory=list)
    proportions: dict[str, tuple[int, int]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    edges: tuple[float, ...] = ()

    def add(self, counts: Counts, edges: tuple[float, ...]) -> None:
        self.requests += counts.requests
        self.errors += counts.errors
        for name, (events, of) in counts.proportions.items():
            before = self.proportions.get(name, (0, 0))
            self.proportions[name] = (before[0] + events, before[1] + of)
        for name, value in counts.values.items():
            self.values.setdefault(name, []).append(value)
        if len(counts.buckets) == len(edges) + 1 and self.edges in ((), edges):
            self.edges = edges
            so_far = self.buckets or [0] * len(counts.buckets)
            self.buckets = [one + other for one, other in zip(so_far, counts.buckets, strict=True)]


@dataclass
class Bin:
    """Some windows of one step. at: its middle; start, end: seconds since the epoch."""

    step: int
    start: float
    end: float
    stable: Pool = field(default_factory=Pool)
    canary: Pool = field(default_factory=Pool)

    @property
    def at(self) -> float:
        return (self.start + self.end) / 2


@dataclass(frozen=True)
class Band:
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CheckPoint:
    """A check after one bin. canary, stable: of the step so far, as the judge compares them; seen: of the canary in
    this bin alone. limit: what the canary may have.
    """

    at: float
    step: int
    canary: Band
    stable: float
    limit: float
    seen: float


def bins_of(windows: Sequence[Window], most: int) -> list[Bin]:
    """At most about ``most`` bins of equally many windows; broken windows are left out."""
    usable = [window for window in windows if window.broken is None]
    size = max(math.ceil(len(usable) / max(most, 1)), 1)
    bins: list[Bin] = []
    held = 0
    for window in usable:
        if not bins or bins[-1].step != window.step or held >= size:
            bins.append(Bin(window.step, window.start, window.end))
            held = 0
        held += 1
        bins[-1].end = window.end
        if window.stable is not None:
            bins[-1].stable.add(window.stable, window.edges)
        if window.canary is not None:
            bins[-1].canary.add(window.canary, window.edges)
    return bins


def observed_share(each: Bin) -> float:
    """The canary's share of the requests in percent."""
    both = each.canary.requests + each.stable.requests
    return 100.0 * each.canary.requests / both if both else math.nan


def points_of(check: Check, bins: Sequence[Bin]) -> list[CheckPoint]:
    measure = _measure_of(check)
    points: list[CheckPoint] = []
    step, known = None, math.nan
    stable, canary = Pool(), Pool()
    for each in bins:
        if each.step != step:
            step, stable, canary = each.step, Pool(), Pool()
        _pour(each.stable, stable)
        _pour(each.canary, canary)
        of_stable = measure(stable).value
        # With everything on the canary, stable's last value goes on to say what is allowed.
        known = of_stable if math.isfinite(of_stable) else known
        seen = measure(each.canary).value
        points.append(CheckPoint(each.at, each.step, measure(canary), of_stable, _limit(check, known), seen))
    return points


def _pour(source: Pool, into: Pool) -> None:
    counts = Counts(source.requests, source.errors, tuple(source.buckets), None, source.proportions)
    into.add(counts, source.edges)
    for name, values in source.values.items():
        into.values.setdefault(name, []).extend(values)


def _measure_of(check: Check) -> Callable[[Pool], Band]:
    if check.kind is CheckKind.LATENCY:
        return lambda pool: _quantile(pool, check.quantile or 0.5)
    if check.kind is CheckKind.VALUE:
        return lambda pool: _mean(pool.values.get(check.metric, []))
    if check.metric == "error_rate":
        return lambda pool: _wilson(pool.errors, pool.requests)
    return lambda pool: _wilson(*pool.proportions.get(check.metric, (0, 0)))


def _wilson(events: int, of: int) -> Band:
    """A share with its 95 % score interval (Wilson, 1927)."""
    if of <= 0:
        return Band(math.nan, math.nan, math.nan)
    share, scale = events / of, 1.0 + Z * Z / of
    middle = (share + Z * Z / (2 * of)) / scale
    reach = Z * math.sqrt(max(share * (1 - share), 0.0) / of + Z * Z / (4 * of * of)) / scale
    return Band(share, max(middle - reach, 0.0), min(middle + reach, 1.0))


def _quantile(pool: Pool, quantile: float) -> Band:
    """A quantile with the interval of its rank, q ± 1.96 sqrt(q (1 - q) / n)."""
    total = sum(pool.buckets)
    if not pool.edges or total <= 0:
        return Band(math.nan, math.nan, math.nan)
    reach = Z * math.sqrt(quantile * (1 - quantile) / total)
    ranks = (quantile, max(quantile - reach, 1e-9), min(quantile + reach, 1.0))
    value, low, high = (_or_nan(stable_quantile(pool.edges, pool.buckets, rank)) for rank in ranks)
    return Band(value, low, high)


def _mean(values: Sequence[float]) -> Band:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return Band(math.nan, math.nan, math.nan)
    return Band(fmean(finite), min(finite), max(finite))


def _limit(check: Check, stable: float) -> float:
    bounds = []
    if check.absolute is not None:
        bounds.append(check.absolute.amount)
    if check.max_change is not None and math.isfinite(stable):
        higher = check.direction is Direction.HIGHER_IS_BETTER
        bounds.append(beyond(stable, check.max_change, higher_is_better=higher))
    if not bounds:
        return math.nan
    return max(bounds) if check.direction is Direction.HIGHER_IS_BETTER else min(bounds)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value

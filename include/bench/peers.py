"""The decision rules of other tools, written anew from their documentation, with the settings that it shows.

They are not those tools: no queries, no delays of scraping, no set-up of theirs runs here. Every rule sees the same
counts as the judge, summed up to the interval at which it measures, and none is told anything the judge is not.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np

from bench.oracle import first_crossing
from bench.traffic import CANARY, EDGES, STABLE, FloatArray, IntArray, Rollouts

BoolArray = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


class Rule(Protocol):
    """Anything that decides when a rollout goes back."""

    @property
    def name(self) -> str: ...

    def rollback_seconds(self, seen: Rollouts) -> FloatArray:
        """Seconds from the start of each rollout until its weight goes to 0; infinite where it never does."""


@dataclass(frozen=True)
class Measured:
    """Counts per interval: requests, errors (side, rollout, interval), buckets (side, rollout, interval, bucket)."""

    requests: IntArray
    errors: IntArray
    buckets: IntArray
    ends: FloatArray

    @property
    def error_rate(self) -> FloatArray:
        """NaN where there was no request."""
        return np.where(self.requests > 0, self.errors / np.maximum(self.requests, 1), np.nan)

    def quantile(self, q: float) -> FloatArray:
        return histogram_quantile(self.buckets, q)


def per_interval(seen: Rollouts, interval: float) -> Measured:
    """Sum windows up to intervals; a last interval that is not whole is never measured."""
    size = max(1, round(interval / seen.plan.window))
    whole = seen.plan.windows // size

    def summed(counts: IntArray) -> IntArray:
        kept = counts[:, :, : whole * size]
        return np.asarray(kept.reshape(*kept.shape[:2], whole, size, *kept.shape[3:]).sum(axis=3))

    ends = seen.plan.ends[size - 1 :: size][:whole]
    return Measured(summed(seen.requests), summed(seen.errors), summed(seen.buckets), ends)


def histogram_quantile(buckets: IntArray, q: float) -> FloatArray:
    """As Prometheus has it: linear inside a bucket, the last finite edge beyond it, NaN without requests."""
    total = buckets.sum(axis=-1)
    below = np.cumsum(buckets, axis=-1)
    rank = q * total
    at = np.minimum((below < rank[..., None]).sum(axis=-1), len(EDGES))
    uppers = np.array([*EDGES, EDGES[-1]])
    lowers = np.array([0.0, *EDGES])
    inside = np.take_along_axis(buckets, at[..., None], axis=-1)[..., 0]
    before = np.take_along_axis(below, at[..., None], axis=-1)[..., 0] - inside
    part = (rank - before) / np.maximum(inside, 1)
    value = lowers[at] + (uppers[at] - lowers[at]) * part
    return np.where(total > 0, value, np.nan)


@dataclass(frozen=True)
class Flagger:
    """Success rate and p99 of the canary against fixed limits, once an interval; failed checks add up for ever.

    Source: docs.flagger.app, "Metrics Analysis" (success rate at least 99 %, p99 at most 500 ms, interval 1m) and "How
    it works" (threshold: the number of failed checks before a rollback, 10 in its example); fluxcd/flagger,
    pkg/controller/scheduler.go: no data is a failed check, and the rollback comes at the tick after the one that
    reached the threshold. With ``times_own`` the limits are so many times the service's own usual figures instead,
    as someone would set them who knows the service well.
    """

    threshold: int = 10
    interval: float = 60.0
    largest_error_rate: float = 0.01
    largest_p99: float = 0.5
    times_own: float | None = None

    @property
    def name(self) -> str:
        return "flagger" if self.times_own is None else "flagger, tuned"

    def rollback_seconds(self, seen: Rollouts) -> FloatArray:
        measured = per_interval(seen, self.interval)
        failed = beyond_limits(measured, *limits(seen, self.largest_error_rate, self.largest_p99, self.times_own))
        seconds = first_crossing(np.cumsum(failed, axis=1) >= self.threshold, measured.ends) + self.interval
        return np.where(seconds > seen.plan.seconds, np.inf, seconds)


def limits(seen: Rollouts, errors: float, p99: float, times_own: float | None) -> tuple[float, float]:
    """The given limits, or multiples of the service's own error rate and p99."""
    if times_own is None:
        return errors, p99
    own = seen.service.median * 99.0 ** (1.0 / seen.service.tail)
    return times_own * seen.service.errors, times_own * own


def beyond_limits(measured: Measured, errors: float, p99: float) -> BoolArray:
    """Where the canary is out of bounds or gives no number, (rollout, interval)."""
    rate, slow = measured.error_rate[CANARY], measured.quantile(0.99)[CANARY]
    return np.asarray(~((rate <= errors) & (slow <= p99)))


@dataclass(frozen=True)
class ArgoRollouts:
    """A background analysis: a success condition on the canary's error rate and another on its p99.

    Source: argoproj/argo-rollouts, docs/features/analysis.md: interval 5m, success rate of at least 95 %, failureLimit
    3; the run has failed when there are more failures than the limit; a measurement without a value is an error, and
    more than consecutiveErrorLimit (4) of them in a row end the run, which aborts the rollout as well.
    """

    interval: float = 300.0
    failure_limit: int = 3
    consecutive_error_limit: int = 4
    largest_error_rate: float = 0.05
    largest_p99: float = 0.5
    times_own: float | None = None

    @property
    def name(self) -> str:
        return "argo rollouts" if self.times_own is None else "argo, tuned"

    def rollback_seconds(self, seen: Rollouts) -> FloatArray:
        measured = per_interval(seen, self.interval)
        errors, p99 = limits(seen, self.largest_error_rate, self.largest_p99, self.times_own)
        values = (measured.error_rate[CANARY], errors), (measured.quantile(0.99)[CANARY], p99)
        ended = np.zeros(measured.requests.shape[1:], dtype=bool)
        for value, limit in values:
            blind = np.isnan(value)
            ended |= np.cumsum(~blind & ~(value <= limit), axis=1) > self.failure_limit
            ended |= in_a_row(blind) > self.consecutive_error_limit
        return first_crossing(ended, measured.ends)


def in_a_row(happened: BoolArray) -> IntArray:
    """How many in a row up to each place, along the last axis."""
    total = np.cumsum(happened, axis=-1)
    return np.asarray(total - np.maximum.accumulate(np.where(happened, 0, total), axis=-1))


@dataclass(frozen=True)
class Kayenta:
    """Mann-Whitney on one point a minute, all points since the start judged again after each interval.

    Source: spinnaker.io, "How canary judgment works" and "Canary best practices"; spinnaker/kayenta,
    MannWhitneyClassifier: 98 % confidence interval of the shift, a metric is High when its lower end is above 0.25
    times the absolute estimate; NetflixACAJudge and WeightedSumScorer: the score is the share of metrics that pass, and
    metrics without data fail the judgement when they are half of all; a score under marginal (75) ends the analysis,
    the last needs pass (95). Minutes without requests are dropped (nanStrategy remove). The documents advise intervals
    of an hour and 50 points; a plan of 40 minutes has neither, so the interval is ten minutes here, which is to its
    advantage in time.
    """

    interval: float = 600.0
    point: float = 60.0
    confidence: float = 0.98
    tolerance: float = 0.25
    marginal: float = 75.0
    passing: float = 95.0
    name: str = "kayenta"

    def rollback_seconds(self, seen: Rollouts) -> FloatArray:
        measured = per_interval(seen, self.point)
        metrics = measured.error_rate, measured.quantile(0.95)
        points = round(self.interval / self.point)
        looks = range(points, measured.requests.shape[2] + 1, points)
        stopped = np.zeros((len(seen), len(looks)), dtype=bool)
        for place, upto in enumerate(looks):
            least = self.passing if place == len(looks) - 1 else self.marginal
            for rollout in range(len(seen)):
                pairs = [(metric[CANARY, rollout, :upto], metric[STABLE, rollout, :upto]) for metric in metrics]
                stopped[rollout, place] = self.score(pairs) < least
        return first_crossing(stopped, measured.ends[points - 1 :: points])

    def score(self, metrics: list[tuple[FloatArray, FloatArray]]) -> float:
        """0 to 100 for (canary points, stable points) of every metric."""
        classes = [self.classify(canary[~np.isnan(canary)], stable[~np.isnan(stable)]) for canary, stable in metrics]
        blind, passed = classes.count("nodata"), classes.count("pass")
        if 2 * blind >= len(classes):
            return 0.0
        return 100.0 * passed / (len(classes) - blind)

    def classify(self, canary: FloatArray, stable: FloatArray) -> str:
        if not len(canary) or not len(stable):
            return "nodata"
        if np.array_equal(canary, stable):
            return "pass"
        lower, estimate = shift_interval(canary, stable, self.confidence)
        return "high" if lower > self.tolerance * abs(estimate) else "pass"


def shift_interval(canary: FloatArray, stable: FloatArray, confidence: float) -> tuple[float, float]:
    """Lower end of the confidence interval of the shift, and its Hodges-Lehmann estimate (normal approximation)."""
    differences = np.sort((canary[:, None] - stable[None, :]).ravel())
    n, m = len(canary), len(stable)
    z = normal_quantile(0.5 + 0.5 * confidence)
    rank = math.floor(n * m / 2.0 - z * math.sqrt(n * m * (n + m + 1) / 12.0))
    return float(differences[max(rank, 0)]), float(np.median(differences))


@dataclass(frozen=True)
class PipeCD:
    """Mann-Whitney on the points of the last interval, two-sided at 0.05, again after every interval.

    Source: pipecd.dev, "Automated deployment analysis" (strategy CANARY_PRIMARY, interval 5m as in its examples,
    deviation EITHER by default); pipe-cd/pipecd, metrics_analyzer.go: alpha is fixed at 0.05, more failures than
    failureLimit (1 here) fail the stage, a side without points is a failure. One point a minute; each metric counts its
    own failures.
    """

    interval: float = 300.0
    point: float = 60.0
    alpha: float = 0.05
    failure_limit: int = 1
    name: str = "pipecd"

    def rollback_seconds(self, seen: Rollouts) -> FloatArray:
        measured = per_interval(seen, self.point)
        points = round(self.interval / self.point)
        looks = measured.requests.shape[2] // points
        ended = np.zeros((len(seen), looks), dtype=bool)
        for metric in (measured.error_rate, measured.quantile(0.95)):
            failed = np.zeros_like(ended)
            for look in range(looks):
                part = metric[:, :, look * points : (look + 1) * points]
                failed[:, look] = [self.differs(part[CANARY, at], part[STABLE, at]) for at in range(len(seen))]
            ended |= np.cumsum(failed, axis=1) > self.failure_limit
        return first_crossing(ended, measured.ends[points - 1 :: points])

    def differs(self, canary: FloatArray, stable: FloatArray) -> bool:
        canary, stable = canary[~np.isnan(canary)], stable[~np.isnan(stable)]
        if not len(canary) or not len(stable):
            return True
        return mann_whitney_p(canary, stable) <= self.alpha


def mann_whitney_p(one: FloatArray, other: FloatArray) -> float:
    """Two-sided p-value, normal approximation, corrected for ties and continuity; 1 when all tie."""
    n, m = len(one), len(other)
    together = np.concatenate([one, other])
    _, where, sizes = np.unique(together, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - 0.5 * (sizes - 1))[where]
    u = float(ranks[:n].sum()) - n * (n + 1) / 2.0
    ties = float((sizes**3 - sizes).sum()) / ((n + m) * (n + m - 1))
    variance = n * m / 12.0 * (n + m + 1 - ties)
    if variance <= 0:
        return 1.0
    away = max(0.0, abs(u - n * m / 2.0) - 0.5)
    return math.erfc(away / math.sqrt(2.0 * variance))


@dataclass(frozen=True)
class RepeatedZTest:
    """What is written first: totals since the start, a one-sided z-test of two proportions after every window.

    Errors, and requests slower than the bucket edge nearest to p95, each at 0.01; no correction for looking again.
    """

    alpha: float = 0.01
    name: str = "z-test"

    def rollback_seconds(self, seen: Rollouts) -> FloatArray:
        of = np.cumsum(seen.requests, axis=2)
        slow = seen.buckets[..., seen.service.slow_bucket :].sum(axis=-1)
        limit = normal_quantile(1.0 - self.alpha)
        worse = [z_of(np.cumsum(events, axis=2), of) > limit for events in (seen.errors, slow)]
        return first_crossing(worse[0] | worse[1], seen.plan.ends)


def z_of(events: IntArray, of: IntArray) -> FloatArray:
    """Pooled two-proportion z, (rollout, window), positive where the canary is worse; 0 where it is undefined."""
    pooled = events.sum(axis=0) / np.maximum(of.sum(axis=0), 1)
    variance = pooled * (1.0 - pooled) * (1.0 / np.maximum(of[CANARY], 1) + 1.0 / np.maximum(of[STABLE], 1))
    rates = events / np.maximum(of, 1)
    known = (variance > 0) & (of.min(axis=0) > 0)
    return np.where(known, (rates[CANARY] - rates[STABLE]) / np.sqrt(np.where(known, variance, 1.0)), 0.0)


def normal_quantile(probability: float) -> float:
    """Inverse of the standard normal distribution function."""
    return NormalDist().inv_cdf(probability)


PEERS: tuple[Rule, ...] = (
    Flagger(),
    Flagger(times_own=2.0),
    ArgoRollouts(),
    ArgoRollouts(times_own=2.0),
    Kayenta(),
    PipeCD(),
    RepeatedZTest(),
)

"""Simulated rollouts of a service: counts of both sides, window by window, with four kinds of noise.

Requests are Poisson; errors fall on requests independently or in clumps; latency is log-logistic, which has a heavy
tail and a distribution function in closed form. Many rollouts are drawn at once: arrays are (side, rollout, window),
side 0 is stable and side 1 the canary. Everything follows from the seed.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

FloatArray = np.ndarray[Any, np.dtype[np.float64]]
IntArray = np.ndarray[Any, np.dtype[np.int64]]

EDGES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
STABLE, CANARY = 0, 1
DAY = 86400.0
LARGEST_SHARE = 0.95


class NoiseKind(StrEnum):
    """What makes two identical versions look different."""

    IID = "iid"
    SHARED = "shared"
    CLUMPS = "clumps"
    INSTANCES = "instances"


@dataclass(frozen=True)
class Noise:
    """clump: mean size of geometric clumps of errors (Fano factor 2 m - 1), on top of shared noise.

    deviation, lasting: every instance's own AR(1) noise on the logarithm of its error rate and, independently, of its
    odds of a slow request: standard deviation, and seconds until its correlation has fallen to 1/e.
    """

    kind: NoiseKind = NoiseKind.IID
    clump: float = 1.0
    deviation: float = 0.0
    lasting: float = 600.0

    @property
    def name(self) -> str:
        if self.kind is NoiseKind.CLUMPS:
            return f"clumps of {self.clump:g}"
        if self.kind is NoiseKind.INSTANCES:
            return f"instances {self.lasting / 60:g} min, sd {self.deviation:g}"
        return str(self.kind)


@dataclass(frozen=True)
class SharedNoise:
    """What hits both sides alike.

    wave: relative swing of requests and errors over a day.  deviation, lasting: AR(1) noise of the log error rate.
    slow_deviation: the same for the log odds of a slow request.  incidents: how many a day; each lasts
    ``incident_seconds`` on average and multiplies errors by 3 to 10 and latency by up to 1.5.
    """

    wave: float = 0.3
    deviation: float = 0.3
    slow_deviation: float = 0.2
    lasting: float = 300.0
    incidents: float = 12.0
    incident_seconds: float = 120.0


SHARED = SharedNoise()


@dataclass(frozen=True)
class Service:
    """rate: requests a second.  errors: their share.  instances: of stable; the canary has a fifth, at least two.

    median: of the latency, in seconds.  tail: exponent of its log-logistic tail; p95 is median * 19^(1/tail).
    """

    rate: float = 1000.0
    errors: float = 0.005
    instances: int = 12
    noise: Noise = field(default_factory=Noise)
    median: float = 0.11
    tail: float = 4.0

    @property
    def canary_instances(self) -> int:
        return max(2, self.instances // 5)

    @property
    def slow_bucket(self) -> int:
        """The first bucket above the edge that is usually exceeded by nearest to 5 % (in logarithms)."""
        exceedance = 1.0 - np.cumsum(self.bucket_shares(np.array(1.0)))[:-1]
        return int(np.argmin(np.abs(np.log(np.maximum(exceedance, 1e-12) / 0.05)))) + 1

    def slow_share(self, stretch: FloatArray) -> FloatArray:
        """Share of requests in the buckets from ``slow_bucket`` on."""
        return np.asarray(self.bucket_shares(stretch)[..., self.slow_bucket :].sum(axis=-1))

    def bucket_shares(self, stretch: FloatArray) -> FloatArray:
        """Shares of the buckets (..., len(EDGES) + 1) of a latency that is ``stretch`` times the usual."""
        odds = (np.array(EDGES) / (self.median * stretch[..., None])) ** self.tail
        below = odds / (1.0 + odds)
        ends = np.zeros_like(below[..., :1])
        return np.diff(np.concatenate([ends, below, ends + 1.0], axis=-1), axis=-1)


@dataclass(frozen=True)
class Regression:
    """How much worse the canary is: its errors and its latency are so many times stable's.

    onset: seconds after the start of the rollout.  grows: seconds over which the effect grows evenly (a leak).
    """

    errors: float = 1.0
    latency: float = 1.0
    onset: float = 0.0
    grows: float = 0.0

    @property
    def harmless(self) -> bool:
        return self.errors == 1.0 and self.latency == 1.0

    def progress(self, middle: FloatArray) -> FloatArray:
        """0 before the onset, 1 with the whole effect, at so many seconds after the start."""
        since = middle - self.onset
        if self.grows > 0:
            return np.clip(since / self.grows, 0.0, 1.0)
        return (since > 0).astype(float)

    def error_factor(self, middle: FloatArray) -> FloatArray:
        return 1.0 + (self.errors - 1.0) * self.progress(middle)

    def latency_factor(self, middle: FloatArray) -> FloatArray:
        return 1.0 + (self.latency - 1.0) * self.progress(middle)


@dataclass(frozen=True)
class Plan:
    """Weights (0 to 1) of the steps, all equally long.  window, seconds: length of a window and of the rollout."""

    ladder: tuple[float, ...] = (0.01, 0.05, 0.25, 0.5)
    window: float = 30.0
    seconds: float = 2400.0

    @property
    def windows(self) -> int:
        return round(self.seconds / self.window)

    @property
    def bake(self) -> float:
        return self.seconds / len(self.ladder)

    @property
    def middle(self) -> FloatArray:
        return np.asarray((np.arange(self.windows) + 0.5) * self.window)

    @property
    def ends(self) -> FloatArray:
        return np.asarray((np.arange(self.windows) + 1.0) * self.window)

    @property
    def weights(self) -> FloatArray:
        steps = np.minimum((self.middle / self.bake).astype(int), len(self.ladder) - 1)
        return np.asarray(np.array(self.ladder)[steps])


@dataclass(frozen=True)
class Environment:
    """What goes on behind the counts; every array is (rollout, window) or (side, rollout, window).

    traffic: factor on the request rate.  errors: error share of stable without instance noise.  stretch: factor on
    stable's latency, likewise; the two that an oracle may know.  own_errors, own_odds: factors of a side's instances on
    its error rate and on its odds of a slow request, 1 on average.
    """

    traffic: FloatArray
    errors: FloatArray
    stretch: FloatArray
    own_errors: FloatArray
    own_odds: FloatArray


@dataclass(frozen=True)
class Rollouts:
    """Counts of many rollouts: requests, errors (side, rollout, window), buckets (side, rollout, window, bucket)."""

    service: Service
    plan: Plan
    weights: FloatArray
    environment: Environment
    requests: IntArray
    errors: IntArray
    buckets: IntArray

    def __len__(self) -> int:
        return int(self.requests.shape[1])

    def frame(self, rollout: int) -> pd.DataFrame:
        """One rollout as the table of windows that the judge reads."""
        windows = self.plan.windows
        sides = []
        instances = (self.service.instances, self.service.canary_instances)
        for side, name in ((CANARY, "canary"), (STABLE, "stable")):
            columns: dict[str, Any] = {
                "window": np.arange(windows),
                "start": np.arange(windows) * self.plan.window,
                "end": (np.arange(windows) + 1) * self.plan.window,
                "side": name,
                "weight": self.weights,
                "instances": instances[side],
                "requests": self.requests[side, rollout],
                "errors": self.errors[side, rollout],
            }
            columns |= _bucket_columns(self.buckets[side, rollout])
            sides.append(pd.DataFrame(columns))
        return pd.concat(sides, ignore_index=True)


def _bucket_columns(buckets: IntArray) -> dict[str, IntArray]:
    names = [f"le_{edge:g}" for edge in EDGES] + ["le_inf"]
    return {name: buckets[..., at] for at, name in enumerate(names)}


def simulate(service: Service, plan: Plan, regression: Regression, number: int, seed: int) -> Rollouts:
    """``number`` independent rollouts that follow the plan to its end."""
    of_environment, of_counts = np.random.SeedSequence(seed).spawn(2)
    around = environment(service, plan, number, np.random.default_rng(of_environment))
    return observe(service, plan, regression, around, plan.weights, np.random.default_rng(of_counts))


def environment(service: Service, plan: Plan, number: int, rng: np.random.Generator) -> Environment:
    """Everything that does not depend on the weights, for ``number`` rollouts at random times of the day."""
    shape = (number, plan.windows)
    traffic, errors, slow = np.ones(shape), np.ones(shape), np.ones(shape)
    stretch = np.ones(shape)
    noise = service.noise
    if noise.kind is not NoiseKind.IID:
        phase = rng.uniform(0.0, DAY, (number, 1))
        swing = 1.0 + SHARED.wave * np.sin(2.0 * np.pi * (phase + plan.middle) / DAY)
        traffic = swing
        errors = swing * _log_normal(rng, shape, SHARED.deviation, SHARED.lasting, plan.window)
        slow = _log_normal(rng, shape, SHARED.slow_deviation, SHARED.lasting, plan.window)
        worse, slower = _incidents(rng, shape, plan.window)
        errors, stretch = errors * worse, slower
    own = np.ones((2, *shape)), np.ones((2, *shape))
    if noise.kind is NoiseKind.INSTANCES:
        sizes = (service.instances, service.canary_instances)
        own_errors, own_odds = (
            np.stack([_mean_of_instances(rng, number, size, plan, noise) for size in sizes]) for _ in range(2)
        )
        own = own_errors, own_odds
    stretch = stretch * slow ** (1.0 / service.tail)
    return Environment(traffic, np.minimum(service.errors * errors, LARGEST_SHARE), stretch, *own)


def observe(
    service: Service,
    plan: Plan,
    regression: Regression,
    around: Environment,
    weights: FloatArray,
    rng: np.random.Generator,
) -> Rollouts:
    """Draw the counts of both sides at these weights (window,)."""
    middle = plan.middle
    requests, errors, buckets = [], [], []
    sides = (
        (1.0 - weights, np.ones(len(middle)), np.ones(len(middle))),
        (
            weights,
            regression.error_factor(middle),
            regression.latency_factor(middle),
        ),
    )
    for side, (share, times, slower) in enumerate(sides):
        came = rng.poisson(service.rate * plan.window * share * around.traffic)
        chance = np.minimum(around.errors * around.own_errors[side] * times, LARGEST_SHARE)
        stretch = around.stretch * around.own_odds[side] ** (1.0 / service.tail) * slower
        requests.append(came)
        errors.append(failures(rng, came, chance, service.noise.clump))
        buckets.append(rng.multinomial(came, service.bucket_shares(stretch)))
    return Rollouts(service, plan, weights, around, np.stack(requests), np.stack(errors), np.stack(buckets))


def failures(rng: np.random.Generator, requests: IntArray, chance: FloatArray, clump: float) -> IntArray:
    """Errors among the requests: independent, or in clumps of geometric size with mean ``clump``, never split."""
    if clump <= 1.0:
        return np.asarray(rng.binomial(requests, chance))
    clumps = rng.poisson(requests * chance / clump)
    # The sum of k geometric sizes is k plus a negative binomial number.
    more = np.where(clumps > 0, rng.negative_binomial(np.maximum(clumps, 1), 1.0 / clump), 0)
    return np.minimum(clumps + more, requests)


def history(service: Service, hours: float, window: float, seed: int) -> pd.DataFrame:
    """Stable alone, before the rollout: one row a window and instance, ending where the rollout begins (0 s)."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    plan = Plan(ladder=(0.0,), window=window, seconds=hours * 3600.0)
    shared = environment(replace_noise(service), plan, 1, rng)
    size, windows = service.instances, plan.windows
    own_errors, own_odds = np.ones((size, windows)), np.ones((size, windows))
    noise = service.noise
    if noise.kind is NoiseKind.INSTANCES:
        own_errors = _log_normal(rng, (size, windows), noise.deviation, noise.lasting, window)
        own_odds = _log_normal(rng, (size, windows), noise.deviation, noise.lasting, window)
    requests = rng.poisson(service.rate * window / size * np.broadcast_to(shared.traffic, (size, windows)))
    errors = failures(rng, requests, np.minimum(shared.errors * own_errors, LARGEST_SHARE), noise.clump)
    buckets = rng.multinomial(requests, service.bucket_shares(shared.stretch * own_odds ** (1.0 / service.tail)))
    names = np.array([f"i{place}" for place in range(size)])
    start = (np.arange(windows) - windows) * window
    columns: dict[str, Any] = {
        "window": np.repeat(np.arange(windows), size),
        "start": np.repeat(start, size),
        "end": np.repeat(start + window, size),
        "side": "stable",
        "weight": 0.0,
        "instance": np.tile(names, windows),
        "instances": 1,
        "requests": requests.T.ravel(),
        "errors": errors.T.ravel(),
    }
    flat = buckets.transpose(1, 0, 2).reshape(size * windows, -1)
    return pd.DataFrame(columns | _bucket_columns(flat))


def replace_noise(service: Service) -> Service:
    """The same service with only the noise that all of its instances share."""
    kind = NoiseKind.IID if service.noise.kind is NoiseKind.IID else NoiseKind.SHARED
    return Service(service.rate, service.errors, service.instances, Noise(kind), service.median, service.tail)


# --- noise ------------------------------------------------------------------------------------------------------------


def slow_noise(
    rng: np.random.Generator, shape: tuple[int, ...], deviation: float, lasting: float, window: float
) -> FloatArray:
    """Stationary AR(1) along the last axis, normal, correlation exp(-window / lasting) from one to the next."""
    keep = np.exp(-window / lasting)
    values = rng.normal(0.0, deviation, shape)
    fresh = np.sqrt(1.0 - keep * keep)
    for at in range(1, shape[-1]):
        values[..., at] = keep * values[..., at - 1] + fresh * values[..., at]
    return values


def _log_normal(
    rng: np.random.Generator, shape: tuple[int, ...], deviation: float, lasting: float, window: float
) -> FloatArray:
    """A slowly varying factor that is 1 on average."""
    return np.asarray(np.exp(slow_noise(rng, shape, deviation, lasting, window) - 0.5 * deviation * deviation))


def _mean_of_instances(rng: np.random.Generator, number: int, size: int, plan: Plan, noise: Noise) -> FloatArray:
    """The average over a side's instances, which share its requests evenly, (rollout, window)."""
    total = np.zeros((number, plan.windows))
    for _ in range(size):
        total += _log_normal(rng, total.shape, noise.deviation, noise.lasting, plan.window)
    return total / size


def _incidents(rng: np.random.Generator, shape: tuple[int, int], window: float) -> tuple[FloatArray, FloatArray]:
    """Factors on errors and latency of both sides, 1 outside of incidents."""
    number, windows = shape
    worse, slower = np.ones(shape), np.ones(shape)
    per_rollout = rng.poisson(SHARED.incidents * windows * window / DAY, number)
    for rollout in np.flatnonzero(per_rollout):
        for _ in range(int(per_rollout[rollout])):
            first = int(rng.integers(windows))
            last = first + 1 + int(rng.exponential(SHARED.incident_seconds) / window)
            worse[rollout, first:last] *= rng.uniform(3.0, 10.0)
            slower[rollout, first:last] *= rng.uniform(1.0, 1.5)
    return worse, slower

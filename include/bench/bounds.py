"""The time in which so much information comes in that a test can be certain, whatever the test is."""

import math
from functools import lru_cache

import numpy as np

from bench.oracle import ALPHA
from bench.traffic import FloatArray, NoiseKind, Plan, Regression, Service


def bound_seconds(service: Service, plan: Plan, regression: Regression, alpha: float = ALPHA) -> float:
    """Seconds after the onset in which log(1/alpha) of information comes in, on average and without noise.

    The mean time that a sequential test of these counts needs at least, if it hardly ever misses (Wald 1947); for
    errors, given how many there are; for latency, by the edge nearest p95 alone. Infinite when the plan ends before.
    """
    step = 1.0
    middle = np.arange(0.5 * step, plan.seconds, step)
    weight = np.array(plan.ladder)[np.minimum((middle / plan.bake).astype(int), len(plan.ladder) - 1)]
    information = _error_information(service, weight, regression.error_factor(middle))
    information += _latency_information(service, weight, regression.latency_factor(middle))
    reached = np.flatnonzero(np.cumsum(information * step) >= np.log(1.0 / alpha))
    return float(middle[reached[0]] + 0.5 * step - regression.onset) if len(reached) else float("inf")


def _error_information(service: Service, weight: FloatArray, times: FloatArray) -> FloatArray:
    """Kullback-Leibler divergence a second: which side an error falls on is a coin."""
    mixed = 1.0 + weight * (times - 1.0)
    coin = weight * times / mixed
    divergence = coin * np.log(coin / weight) + (1.0 - coin) * np.log((1.0 - coin) / (1.0 - weight))
    return np.asarray(service.rate * service.errors * mixed * divergence)


def _latency_information(service: Service, weight: FloatArray, stretch: FloatArray) -> FloatArray:
    worse, usual = service.slow_share(stretch), service.slow_share(np.ones_like(stretch))
    divergence = worse * np.log(worse / usual) + (1.0 - worse) * np.log((1.0 - worse) / (1.0 - usual))
    return np.asarray(service.rate * weight * divergence)


# --- with the service's noise -----------------------------------------------------------------------------------------

_MOST = 80.0  # events up to which chances are added up one by one


def noisy_bound_seconds(service: Service, plan: Plan, regression: Regression, alpha: float = ALPHA) -> float:
    """The same bound where clumps or instances hide a part of the information, from the counts of whole windows.

    Clumps: Kullback-Leibler divergence of the canary's count, whose clumps cannot be told apart, when stable's rate is
    known. Instances: normal noise of the logarithms of deviation s that lasts T leaves 1/(1 + V s^2/(1 + t/(2 T))) of
    the information, V = 2 information/effect^2. Without such noise it is ``bound_seconds``.
    """
    middle = plan.middle
    times, stretch = regression.error_factor(middle), regression.latency_factor(middle)
    errors = _error_information(service, plan.weights, times)
    if service.noise.kind is NoiseKind.CLUMPS:
        usual = service.rate * service.errors * plan.window * plan.weights
        errors = count_divergence(times * usual, usual, service.noise.clump) / plan.window
    latency = _latency_information(service, plan.weights, stretch)
    since = np.maximum(plan.ends - regression.onset, 0.0)
    total = np.zeros(plan.windows)
    for information, effect in ((errors, np.log(times)), (latency, service.tail * np.log(stretch))):
        total += _left_by_instances(service, np.cumsum(information * plan.window), effect, since)
    reached = np.flatnonzero(total >= np.log(1.0 / alpha))
    if not len(reached):
        return float("inf")
    if service.noise.kind in (NoiseKind.IID, NoiseKind.SHARED):
        return bound_seconds(service, plan, regression, alpha)
    return float(since[reached[0]])


def _left_by_instances(service: Service, information: FloatArray, effect: FloatArray, since: FloatArray) -> FloatArray:
    noise = service.noise
    if noise.kind is not NoiseKind.INSTANCES:
        return information
    variance = noise.deviation**2 * (1.0 / service.instances + 1.0 / service.canary_instances)
    precision = 2.0 * information / np.maximum(effect, 1e-9) ** 2
    return np.asarray(information / (1.0 + precision * variance / (1.0 + since / (2.0 * noise.lasting))))


def count_divergence(true: FloatArray, suspected: FloatArray, clump: float) -> FloatArray:
    """Kullback-Leibler divergence of counts with mean ``true`` from ones with mean ``suspected``, element by element.

    Poisson clumps of geometric size, which cannot be told apart; single events when ``clump`` is 1.
    """
    if clump <= 1.0:
        return np.asarray(true * np.log(true / suspected) - true + suspected)
    return np.array([_clumped(*means, clump) for means in zip(true.tolist(), suspected.tolist(), strict=True)])


@lru_cache(maxsize=4096)
def _clumped(true: float, suspected: float, clump: float) -> float:
    parts = math.ceil(max(true, suspected) / _MOST)  # as if counted in so many parts: never too little
    largest = max(true, suspected) / parts
    most = int(60 + 10 * largest + 12 * clump)
    as_true, as_suspected = (clumped_chances(mean / parts, clump, most) for mean in (true, suspected))
    return parts * float(np.sum(as_true * np.log(np.maximum(as_true, 1e-300) / np.maximum(as_suspected, 1e-300))))


def clumped_chances(mean: float, clump: float, most: int) -> FloatArray:
    """Chances of 0 ... most events, ``mean`` on average (Polya-Aeppli distribution, by its three-term recursion)."""
    stay, clumps = 1.0 - 1.0 / clump, mean / clump
    chances = [math.exp(-clumps), clumps * (1.0 - stay) * math.exp(-clumps)]
    for k in range(2, most + 1):
        one, two = clumps * (1.0 - stay) + 2.0 * stay * (k - 1), stay * stay * (k - 2)
        chances.append(max(0.0, (one * chances[-1] - two * chances[-2]) / k))
    return np.array(chances)

"""The time in which so much information comes in that a test can be certain, whatever the test is."""

from functools import lru_cache

import numpy as np

from bench.oracle import ALPHA
from bench.traffic import FloatArray, NoiseKind, Plan, Regression, Service


def bound_seconds(service: Service, plan: Plan, regression: Regression, alpha: float = ALPHA) -> float:
    """Seconds after the onset in which log(1/alpha) of information comes in, on average and without noise.

    The mean time that a sequential test of these counts needs at least, if it hardly ever misses (Wald 1947); for
    errors, given how many there are. Infinite when the plan ends before.
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

_FEW = 80.0  # events a window up to which what clumps hide is added up exactly


def noisy_bound_seconds(service: Service, plan: Plan, regression: Regression, alpha: float = ALPHA) -> float:
    """The same bound where clumps or instances hide a part of the information, from the counts of whole windows.

    Clumps: Kullback-Leibler divergence of the canary's count, whose clumps cannot be told apart, when stable's rate is
    known. Instances: normal noise of the logarithms of deviation s that lasts T leaves 1/(1 + V s^2/(1 + t/(2 T))) of
    the information, V = 2 information/effect^2. Without such noise it is ``bound_seconds``.
    """
    middle = plan.middle
    times, stretch = regression.error_factor(middle), regression.latency_factor(middle)
    if service.noise.kind is NoiseKind.CLUMPS:
        errors = (
            np.array([_clumped(service, plan.window, w, t) for w, t in zip(plan.weights, times, strict=True)])
            / plan.window
        )
    else:
        errors = _error_information(service, plan.weights, times)
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


@lru_cache(maxsize=4096)
def _clumped(service: Service, window: float, weight: float, times: float) -> float:
    """Kullback-Leibler divergence of one window's count on the canary, Poisson clumps of geometric size."""
    mean = service.rate * window * weight * service.errors
    clumps = mean / service.noise.clump
    if times * mean > _FEW:  # as if clumps could be told apart: never too little
        return float(clumps * (times * np.log(times) - times + 1.0))
    most = int(60 + 10 * times * mean + 12 * service.noise.clump)
    usual, worse = (_clumped_chances(rate, service.noise.clump, most) for rate in (clumps, times * clumps))
    return float(np.sum(worse * np.log(np.maximum(worse, 1e-300) / np.maximum(usual, 1e-300))))


def _clumped_chances(clumps: float, size: float, most: int) -> FloatArray:
    """Chances of 0 ... most events: Poisson clumps of geometric size (Panjer's recursion)."""
    stay = 1.0 - 1.0 / size
    weighted = np.arange(most + 1) * (1.0 - stay) * stay ** np.maximum(np.arange(most + 1) - 1.0, 0.0)
    chances = np.zeros(most + 1)
    chances[0] = np.exp(-clumps)
    for k in range(1, most + 1):
        chances[k] = clumps / k * (weighted[1 : k + 1] * chances[k - 1 :: -1]).sum()
    return chances

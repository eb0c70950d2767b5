"""What the best test of these counts could do, when it knows everything but which way the noise goes.

Normal model: on either side a window's count tells the logarithm of the rate with precision V, 2 KL/effect^2 of the
counts themselves; what hits both sides alike and what every instance does on its own are AR(1) noise of known deviation
and duration. The logarithm of the likelihood ratio is then normal with variance 2 K, K its mean in nats, and its
increments from window to window are independent. Daily waves and incidents are taken as known.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from bench.bounds import count_divergence
from bench.oracle import ALPHA
from bench.traffic import SHARED, FloatArray, NoiseKind, Plan, Regression, Service

NORMAL = NormalDist()
_SMALL = 1.05  # a factor by which precision is told where there is no effect


@dataclass(frozen=True)
class Signal:
    """What one check has to go by, window by window.

    effect: logarithm of the canary's factor.  canary, stable: precision of each side's counts.  shared: deviation of
    the noise that both sides have in common.
    """

    effect: FloatArray
    canary: FloatArray
    stable: FloatArray
    shared: float


def best_miss_share(service: Service, plan: Plan, regression: Regression, alpha: float = ALPHA) -> float:
    """Share of such canaries that the best test misses until the plan's end, if it rolls back ``alpha`` of good ones.

    Neyman and Pearson's likelihood-ratio test, one look at all windows. Latency counts with all of its buckets.
    """
    return NORMAL.cdf(NORMAL.inv_cdf(1.0 - alpha) - math.sqrt(2.0 * all_nats(service, plan, regression)))


def all_nats(service: Service, plan: Plan, regression: Regression) -> float:
    """What a whole rollout tells of the regression, on average."""
    signals = (error_signal(service, plan, regression), latency_signal(service, plan, regression))
    return sum(float(information(service, plan, signal)[-1]) for signal in signals)


def information(service: Service, plan: Plan, signal: Signal) -> FloatArray:
    """Nats by which all counts up to each window's end tell the effect from none, on average, (window,)."""
    count = len(signal.effect)
    in_time = np.arange(2 * count).reshape(2, count).T.ravel()
    covariance = covariance_of_logs(service, plan, signal)[np.ix_(in_time, in_time)]
    shift = np.concatenate([np.zeros(count), signal.effect])[in_time]
    surprises = np.linalg.solve(np.linalg.cholesky(covariance), shift)
    return np.asarray(0.5 * np.cumsum(np.square(surprises).reshape(count, 2).sum(axis=1)))


def covariance_of_logs(service: Service, plan: Plan, signal: Signal) -> FloatArray:
    """Of what stable's windows and then the canary's tell about the logarithm of their rates."""
    count, noise = len(signal.effect), service.noise
    own_deviation = noise.deviation if noise.kind is NoiseKind.INSTANCES else 0.0
    own = slow_covariance(plan, count, own_deviation, noise.lasting)
    shared = slow_covariance(plan, count, signal.shared, SHARED.lasting)
    canary = own / service.canary_instances + np.diag(1.0 / signal.canary)
    stable = own / service.instances + np.diag(1.0 / signal.stable)
    return np.block([[shared + stable, shared], [shared, shared + canary]])


def slow_covariance(plan: Plan, count: int, deviation: float, lasting: float) -> FloatArray:
    """Covariance of AR(1) noise in the first ``count`` windows."""
    at = plan.middle[:count]
    return np.asarray(deviation**2 * np.exp(-np.abs(at[:, None] - at) / lasting))


def _shared_deviation(service: Service, deviation: float) -> float:
    return 0.0 if service.noise.kind is NoiseKind.IID else deviation


def error_signal(service: Service, plan: Plan, regression: Regression) -> Signal:
    factor = regression.error_factor(plan.middle)
    usual = service.rate * service.errors * plan.window * plan.weights
    told = np.where(factor == 1.0, _SMALL, factor)
    canary = 2.0 * count_divergence(told * usual, usual, service.noise.clump) / np.log(told) ** 2
    return Signal(np.log(factor), canary, _stable_errors(service, plan), _shared_deviation(service, SHARED.deviation))


def _stable_errors(service: Service, plan: Plan) -> FloatArray:
    usual = service.rate * service.errors * plan.window * (1.0 - plan.weights)
    return np.asarray(2.0 * count_divergence(_SMALL * usual, usual, service.noise.clump) / np.log(_SMALL) ** 2)


def latency_signal(service: Service, plan: Plan, regression: Regression) -> Signal:
    """On the scale of the odds of a slow request, on which instances and what is shared wander."""
    stretch = regression.latency_factor(plan.middle)
    requests = service.rate * plan.window
    return Signal(
        service.tail * np.log(stretch),
        requests * plan.weights * _precision(service, np.where(stretch == 1.0, _SMALL, stretch)),
        requests * (1.0 - plan.weights) * _precision(service, np.full_like(stretch, _SMALL)),
        _shared_deviation(service, SHARED.slow_deviation),
    )


def _precision(service: Service, stretch: FloatArray) -> FloatArray:
    """Of one request about the logarithm of the odds."""
    worse, usual = service.bucket_shares(stretch), service.bucket_shares(np.ones_like(stretch))
    divergence = (worse * np.log(worse / usual)).sum(axis=-1)
    return np.asarray(2.0 * divergence / (service.tail * np.log(stretch)) ** 2)


# --- going on early ---------------------------------------------------------------------------------------------------

_GRID = np.linspace(-12.0, 12.0, 241)  # of the logarithm of the likelihood ratio, harmless against just unsafe
_LEAST_GAIN = 0.01  # as if a window told that much; less is finer than the grid
_PRICES = np.concatenate([[0.0], np.geomspace(0.1, 1e4, 80)])


def promotion_seconds(service: Service, plan: Plan, harm: float, unsafe: float, least_windows: int) -> float:
    """Mean seconds in which a good canary is promoted at the soonest.

    By a test that leaves a step before its time, and after ``least_windows`` at the earliest, in a share ``unsafe`` at
    most of canaries whose errors are just unsafe at the next weight: 1 + harm/weight times stable's. Such a step may
    follow on any others, as with a leak, so what the canary did in earlier steps tells nothing; stable's counts do.
    """
    upward = (*plan.ladder[1:], 1.0)
    steps = (step_information(service, plan, step, 1.0 + harm / onward) for step, onward in enumerate(upward))
    return sum(soonest_windows(np.diff(nats, prepend=0.0), unsafe, least_windows) * plan.window for nats in steps)


def step_information(service: Service, plan: Plan, step: int, times: float) -> FloatArray:
    """Nats by which a good canary's windows of this step speak against errors that are so many times stable's."""
    bake = round(plan.bake / plan.window)
    here = np.arange((step + 1) * bake) >= step * bake
    usual = (service.rate * service.errors * plan.window * plan.weights)[: len(here)]
    precision = 2.0 * count_divergence(usual, times * usual, service.noise.clump) / np.log(times) ** 2
    signal = Signal(
        np.where(here, np.log(times), 0.0),
        np.where(here, precision, 1e-9),
        _stable_errors(service, plan)[: len(here)],
        _shared_deviation(service, SHARED.deviation),
    )
    return information(service, plan, signal)[step * bake :]


def soonest_windows(gains: FloatArray, unsafe: float, least: int) -> float:
    """Windows until a step is left, on average when the canary is good, by the best rule. gains: nats a window.

    Optimal stopping with a price on leaving an unsafe step; whatever the price, what it costs less the price of what is
    allowed is no more than the mean time of any rule that keeps to it (Lagrange).
    """
    value = np.zeros((len(_GRID), len(_PRICES)))  # of windows and price to come; the end of the bake is free
    for done in reversed(range(len(gains))):
        value = 1.0 + _chances(max(float(gains[done]), _LEAST_GAIN)) @ value
        if done >= least:
            value = np.minimum(value, _PRICES * np.exp(-_GRID)[:, None])
    return float((value[len(_GRID) // 2] - _PRICES * unsafe).max())


def _chances(gain: float) -> FloatArray:
    """Of going from one place of the grid to another in a window; what leaves it counts as certain of harmlessness."""
    ahead = (_GRID - _GRID[:, None] - gain) / math.sqrt(2.0 * gain)
    chances = np.exp(-0.5 * ahead**2) * (_GRID[1] - _GRID[0]) / math.sqrt(4.0 * math.pi * gain)
    chances[:, -1] += np.maximum(1.0 - chances.sum(axis=1), 0.0)
    return np.asarray(chances)

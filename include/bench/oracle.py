"""A judge that cannot exist: it knows the true effect and when it begins, and looks after every window.

Wald's likelihood-ratio test with one hypothesis on either side. For errors the ratio is conditional on how many errors
a window has; for latency it knows stable's true share of requests slower than the edge nearest p95, and sees no other
edge, since that is what the check is about. By Ville's inequality an identical canary crosses 1/alpha
with probability alpha at most, where the noise is what it assumes: independent requests and anything that both sides
share. It knows nothing of clumps and of instances' own noise, so there its delays are out of reach for a valid test.
"""

from dataclasses import dataclass

import numpy as np

from bench.traffic import CANARY, STABLE, FloatArray, Regression, Rollouts

ALPHA = 0.01
SUSPECTED = Regression(errors=3.0)
"""What the oracle looks for when there is nothing to be found."""


@dataclass(frozen=True)
class Oracle:
    """regression: the truth; for a harmless one it looks for SUSPECTED."""

    regression: Regression
    alpha: float = ALPHA
    name: str = "oracle"

    def rollback_seconds(self, seen: Rollouts) -> FloatArray:
        """End of the window after which each rollout went back, in seconds; infinite where it did not."""
        return first_crossing(np.cumsum(self.log_ratio(seen), axis=1) >= np.log(1.0 / self.alpha), seen.plan.ends)

    def log_ratio(self, seen: Rollouts) -> FloatArray:
        """Of each window, (rollout, window)."""
        looked_for = SUSPECTED if self.regression.harmless else self.regression
        return _errors(seen, looked_for) + _latency(seen, looked_for)


def first_crossing(crossed: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], ends: FloatArray) -> FloatArray:
    """The end of the first window that is true, along the last axis; infinite where none is."""
    return np.where(crossed.any(axis=-1), ends[np.argmax(crossed, axis=-1)], np.inf)


def _errors(seen: Rollouts, regression: Regression) -> FloatArray:
    times = regression.error_factor(seen.plan.middle)
    share = seen.requests[CANARY] / np.maximum(seen.requests.sum(axis=0), 1)
    canary, stable = seen.errors[CANARY], seen.errors[STABLE]
    return np.asarray(canary * np.log(times) - (canary + stable) * np.log1p(share * (times - 1.0)))


def _latency(seen: Rollouts, regression: Regression) -> FloatArray:
    stretch = seen.environment.stretch
    usual = seen.service.slow_share(stretch)
    worse = seen.service.slow_share(stretch * regression.latency_factor(seen.plan.middle))
    slow = seen.buckets[CANARY][..., seen.service.slow_bucket :].sum(axis=-1)
    fast = seen.requests[CANARY] - slow
    return np.asarray(slow * np.log(worse / usual) + fast * np.log((1.0 - worse) / (1.0 - usual)))

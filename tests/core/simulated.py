"""Rollouts on simulated traffic: Poisson requests, 30-second windows, 1 % -> 5 % -> 25 % -> 50 %, ten minutes each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from canary_release.core.release import Check, CheckKind, Limit, LimitKind, Release, Step, Target
from canary_release.core.values import Counts, Window

EDGES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
PLAN = (0.01, 0.05, 0.25, 0.5)
NOWHERE = Target("nowhere", "none")

POINTS = Limit(LimitKind.POINTS, 0.005, "0.5pp")
TENTH = Limit(LimitKind.RELATIVE, 0.10, "10%")
ERRORS = Check("error_rate", CheckKind.PROPORTION, max_change=POINTS)
LATENCY = Check("page_load_time", CheckKind.LATENCY, quantile=0.95, max_change=TENTH)


def release_of(*checks: Check, plan: Sequence[float] = PLAN, bake: float = 600.0, **more: Any) -> Release:
    steps = tuple(Step(Decimal(str(round(100 * weight, 6))), bake) for weight in plan)
    return Release("shop", NOWHERE, ("blue", "green"), NOWHERE, steps, checks, **more)


@dataclass(frozen=True)
class Traffic:
    """rate: requests a second.  errors: their share.

    times, stretch: how much worse the canary's errors and latency are from window ``onset`` on.
    clump: mean size of geometric clumps of errors.  wave: relative swing of the error rate that both sides share.
    """

    rate: float = 1000.0
    errors: float = 0.005
    times: float = 1.0
    stretch: float = 1.0
    onset: int = 0
    clump: float = 1.0
    wave: float = 0.0
    seconds: float = 30.0
    windows: int = 80
    plan: Sequence[float] = field(default=PLAN)


def rollout(rng: np.random.Generator, traffic: Traffic) -> list[Window]:
    """Windows as a metric source and the control part would hand them over."""
    made = []
    per_step = traffic.windows // len(traffic.plan)
    for at in range(traffic.windows):
        step = min(at // per_step, len(traffic.plan) - 1)
        weight = traffic.plan[step]
        worse = at >= traffic.onset
        swing = math.exp(traffic.wave * math.sin(at / 7.0))
        stable = _side(rng, traffic, 1.0 - weight, swing, 1.0, 10)
        canary = _side(
            rng, traffic, weight, swing * (traffic.times if worse else 1.0), traffic.stretch if worse else 1.0, 2
        )
        start = at * traffic.seconds
        made.append(Window(start, start + traffic.seconds, stable, canary, EDGES, None, at, step, weight))
    return made


def _side(
    rng: np.random.Generator, traffic: Traffic, share: float, swing: float, stretch: float, instances: int
) -> Counts:
    requests = int(rng.poisson(traffic.rate * traffic.seconds * share))
    failed = int(events(rng, np.array(requests), traffic.errors * swing, traffic.clump))
    buckets = rng.multinomial(requests, latency_shares(stretch))
    return Counts(requests, failed, tuple(map(int, buckets)), instances)


def latency_shares(stretch: float, median: float = 0.12, spread: float = 0.6) -> np.ndarray:
    """Bucket shares of a log-normal latency, made slower by a factor."""
    edges = [(math.log(edge) - math.log(median * stretch)) / spread for edge in EDGES]
    below = [0.5 * (1.0 + math.erf(z / math.sqrt(2.0))) for z in edges]
    return np.diff([0.0, *below, 1.0])


def events(rng: np.random.Generator, of: np.ndarray, share: float, clump: float = 1.0) -> np.ndarray:
    """Events among ``of``: independent, or in geometric clumps of mean ``clump`` with the same overall share."""
    if clump <= 1.0:
        return rng.binomial(of, min(share, 1.0))
    clumps = rng.poisson(of * share / clump)
    # The sum of k geometric sizes is k plus a negative binomial number of extras.
    extra = np.where(clumps > 0, rng.negative_binomial(np.maximum(clumps, 1), 1.0 / clump), 0)
    return np.minimum(clumps + extra, of)


def many_rollouts(
    rng: np.random.Generator, traffic: Traffic, check: Check, number: int
) -> tuple[Release, list[Window]]:
    """``number`` independent rollouts side by side, each a named proportion that is judged by itself.

    They share the request counts, which the evidence is conditional upon.
    """
    per_step = traffic.windows // len(traffic.plan)
    weights = np.repeat(traffic.plan, per_step)
    swing = np.exp(traffic.wave * np.sin(np.arange(len(weights)) / 7.0))
    late = np.arange(len(weights)) >= traffic.onset
    names = [f"m{place}" for place in range(number)]
    sides = []
    for share, factor in ((weights, np.where(late, traffic.times, 1.0)), (1.0 - weights, np.ones(len(weights)))):
        of = rng.poisson(traffic.rate * traffic.seconds * share)
        failed = np.stack(
            [
                events(rng, np.full(number, n), traffic.errors * f, traffic.clump)
                for n, f in zip(of, swing * factor, strict=True)
            ]
        )
        sides.append((of.tolist(), failed.tolist()))
    made = []
    for at, weight in enumerate(weights.tolist()):
        canary, stable = (
            Counts(of[at], 0, (), instances, {name: (x, of[at]) for name, x in zip(names, failed[at], strict=True)})
            for (of, failed), instances in zip(sides, (2, 10), strict=True)
        )
        start = at * traffic.seconds
        made.append(Window(start, start + traffic.seconds, stable, canary, (), None, at, at // per_step, weight))
    checks = [
        Check(name, CheckKind.PROPORTION, None, check.max_change, check.absolute, check.direction, observe_only=True)
        for name in names
    ]
    return release_of(*checks, plan=traffic.plan), made


def most_by_chance(number: int, chance: float, doubt: float = 1e-3) -> int:
    """The smallest k with P(Binomial(number, chance) > k) <= doubt: more than k refutes "at most chance"."""
    term = (1.0 - chance) ** number
    total, k = term, 0
    while 1.0 - total > doubt:
        k += 1
        term *= (number - k + 1) / k * chance / (1.0 - chance)
        total += term
    return k

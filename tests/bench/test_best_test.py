"""What the best test can do, held against likelihood-ratio tests of simulated rollouts.

The noise's course is unknown to any test. What bounds them all is an easier question, which can be simulated exactly:
the noise is shown, but with a bad canary it is shown shifted, so that it explains a part of the effect away.
"""

import math
from functools import cache

import numpy as np
import pytest

from bench.best_test import (
    Signal,
    all_nats,
    best_miss_share,
    covariance_of_logs,
    error_signal,
    latency_signal,
    promotion_seconds,
    slow_covariance,
    soonest_windows,
    step_information,
)
from bench.bounds import clumped_chances
from bench.oracle import first_crossing
from bench.traffic import (
    CANARY,
    SHARED,
    STABLE,
    FloatArray,
    IntArray,
    Noise,
    NoiseKind,
    Plan,
    Regression,
    Service,
    failures,
    simulate,
    slow_noise,
)

GOOD = Regression()
NUMBER = 3_000
MOST = 600
CLUMPS = Noise(NoiseKind.CLUMPS, clump=3.0)
WANDERING = Noise(NoiseKind.INSTANCES, deviation=0.3, lasting=600.0)
TWICE = Regression(errors=2.0)
SLOWER = Regression(latency=1.1)


class Shown:
    """Logarithms of noise, each side's part of it, and the shifts that make a bad canary look most like a good one."""

    def __init__(self, service: Service, plan: Plan, signal: Signal, rng: np.random.Generator) -> None:
        self.service, self.plan, self.rng = service, plan, rng
        self.deviations = (signal.shared, service.noise.deviation)
        windows = plan.windows
        shift = np.concatenate([np.zeros(windows), signal.effect])
        stable, canary = np.linalg.solve(covariance_of_logs(service, plan, signal), shift).reshape(2, windows)
        self.together = slow_covariance(plan, windows, signal.shared, SHARED.lasting)
        self.own = slow_covariance(plan, windows, service.noise.deviation, service.noise.lasting)
        self.sizes = (service.instances, service.canary_instances)
        self.of_both = self.together @ (stable + canary)
        self.of_own = (self.own @ stable / self.sizes[STABLE], self.own @ canary / self.sizes[CANARY])

    def draw(self, bad: bool) -> tuple[FloatArray, list[FloatArray]]:
        """How much what is shown speaks for the shifts, (rollout,), and each side's log factor as it is."""
        shape = (NUMBER, self.plan.windows)
        both = slow_noise(self.rng, shape, self.deviations[0], SHARED.lasting, self.plan.window)
        evidence = spoken(both + bad * self.of_both, self.of_both, self.together)
        sides = []
        for side, size in enumerate(self.sizes):
            if self.deviations[1] == 0.0:
                sides.append(both)
                continue
            factor = np.zeros(shape)
            for _ in range(size):
                one = slow_noise(self.rng, shape, self.deviations[1], self.service.noise.lasting, self.plan.window)
                evidence += spoken(one + bad * self.of_own[side], self.of_own[side], self.own)
                factor += np.exp(one) / size
            sides.append(both + np.log(factor))
        return evidence, sides

    def hypotheses(self, side: int, log: FloatArray, effect: FloatArray, bad: bool) -> tuple[FloatArray, FloatArray]:
        """The log factor of the side's counts if good and if bad, given what is shown."""
        explained = self.of_both + self.of_own[side] if self.deviations[1] else self.of_both
        effect = effect if side == CANARY else np.zeros_like(effect)
        return (log + explained, log + effect) if bad else (log, log + effect - explained)


def spoken(values: FloatArray, shift: FloatArray, covariance: FloatArray) -> FloatArray:
    weights = np.linalg.solve(covariance, shift)
    return np.asarray(values @ weights - 0.5 * shift @ weights)


def simulated_miss(service: Service, plan: Plan, regression: Regression, seed: int) -> float:
    """Of Neyman and Pearson's test that rolls back one of a hundred good canaries, where the noise is shown shifted."""
    rng = np.random.default_rng(seed)
    in_errors = regression.errors != 1.0
    signal = (error_signal if in_errors else latency_signal)(service, plan, regression)
    shown = Shown(service, plan, signal, rng)
    evidence = []
    for bad in (False, True):
        ratio, sides = shown.draw(bad)
        for side, log in enumerate(sides):
            share = plan.weights if side == CANARY else 1.0 - plan.weights
            requests = np.broadcast_to(service.rate * plan.window * share, log.shape)
            pair = shown.hypotheses(side, log, signal.effect, bad)
            ratio += (of_errors if in_errors else of_latency)(service, requests, pair, bad, rng)
        evidence.append(ratio)
    good, worse = evidence
    return float((worse < np.quantile(good, 0.99)).mean())


def of_errors(
    service: Service, requests: FloatArray, pair: tuple[FloatArray, FloatArray], bad: bool, rng: np.random.Generator
) -> FloatArray:
    steps = [np.round(np.log(requests * service.errors) / 0.02 + log / 0.02).astype(int) for log in pair]
    means = [np.exp(0.02 * step) for step in steps]
    clump = service.noise.clump
    if clump == 1.0:
        counts = rng.poisson(means[bad])
        return np.asarray((counts * np.log(means[1] / means[0]) - means[1] + means[0]).sum(axis=1))
    many = np.full(requests.shape, 10**6)
    counts = failures(rng, many, means[bad] / many, clump)
    return np.asarray((log_chances(counts, steps[1], clump) - log_chances(counts, steps[0], clump)).sum(axis=1))


def log_chances(counts: IntArray, steps: IntArray, clump: float) -> FloatArray:
    known, place = np.unique(steps, return_inverse=True)
    table = np.array([log_chances_of(int(step), clump) for step in known])
    return np.asarray(table[place.reshape(steps.shape), counts])


@cache
def log_chances_of(step: int, clump: float) -> FloatArray:
    return np.log(np.maximum(clumped_chances(math.exp(0.02 * step), clump, MOST), 1e-300))


def of_latency(
    service: Service, requests: FloatArray, pair: tuple[FloatArray, FloatArray], bad: bool, rng: np.random.Generator
) -> FloatArray:
    shares = [service.bucket_shares(np.exp(log / service.tail)) for log in pair]
    counts = rng.multinomial(rng.poisson(requests), shares[bad])
    return np.asarray((counts * np.log(shares[1] / shares[0])).sum(axis=(1, 2)))


@pytest.mark.parametrize(
    ("service", "regression"),
    [
        (Service(rate=50.0, noise=CLUMPS), TWICE),
        (Service(rate=1000.0, instances=4, noise=WANDERING), TWICE),
        (Service(rate=1000.0, instances=4, noise=WANDERING), SLOWER),
    ],
    ids=["clumps", "instances", "instances, latency"],
)
def test_no_test_misses_less_than_the_best_and_the_best_not_much_more(service: Service, regression: Regression) -> None:
    said, found = best_miss_share(service, Plan(), regression), simulated_miss(service, Plan(), regression, 61)
    sampling = 4.0 * math.sqrt(max(said, 0.01) / NUMBER)
    assert said - sampling < found < 1.3 * said + sampling, (said, found)


def test_best_test_of_a_service_without_noise_is_the_likelihood_ratio_test_of_its_counts() -> None:
    service, plan, worse = Service(rate=40.0), Plan(ladder=(0.5,), seconds=600.0), Regression(errors=1.4)
    good, bad = (simulate(service, plan, truth, 20_000, 62) for truth in (GOOD, worse))
    known = [seen.errors[CANARY].sum(axis=1) for seen in (good, bad)]  # the ratio rises with their number
    found = float((known[1] <= np.quantile(known[0], 0.99)).mean())
    assert best_miss_share(service, plan, worse) == pytest.approx(found, abs=0.05)
    assert 0.1 < found < 0.9


@pytest.mark.parametrize("noise", [Noise(), CLUMPS, WANDERING], ids=["iid", "clumps", "instances"])
def test_best_test_tells_no_more_than_data_processing_allows(noise: Noise) -> None:
    """KL(bad, good) is at least the divergence of the test's own answers, whatever the test."""
    for times in (1.2, 1.5, 2.0, 3.0):
        service, worse = Service(rate=50.0, noise=noise), Regression(errors=times)
        missed = best_miss_share(service, Plan(), worse)
        answers = (1.0 - missed) * math.log((1.0 - missed) / 0.01) + missed * math.log(max(missed, 1e-300) / 0.99)
        assert answers <= all_nats(service, Plan(), worse)


def test_canary_that_is_the_same_is_found_by_chance_only() -> None:
    assert best_miss_share(Service(), Plan(), GOOD) == pytest.approx(0.99)


def test_regression_that_begins_late_is_missed_more_often() -> None:
    service = Service(rate=50.0, noise=CLUMPS)
    early, late = (best_miss_share(service, Plan(), Regression(errors=3.0, onset=at)) for at in (0.0, 2100.0))
    assert early < 0.01 < 0.1 < late


# --- going on early ---------------------------------------------------------------------------------------------------


def test_with_one_look_before_the_end_the_soonest_is_neyman_and_pearsons() -> None:
    """The share that one look lets through, at 5 % of the unsafe, has a window less to wait."""
    for nats in (0.5, 1.5, 3.0):
        power = 0.5 * (1.0 + math.erf((math.sqrt(2.0 * nats) - 1.6448536) / math.sqrt(2.0)))
        assert soonest_windows(np.array([nats, nats]), 0.05, 1) == pytest.approx(2.0 - power, abs=0.002)


def test_no_limit_on_the_evidence_leaves_after_20_to_1_before_the_soonest() -> None:
    """Wald's test keeps what is promised, so it is no sooner; and with small windows hardly later."""
    gains = np.full(40, 0.15)
    ratio = np.cumsum(np.random.default_rng(63).normal(gains, np.sqrt(2.0 * gains), (20_000, 40)), axis=1)
    crossed = ratio >= math.log(20.0)
    crossed[:, :1], crossed[:, -1] = False, True
    wald = first_crossing(crossed, np.arange(1.0, 41.0)).mean()
    soonest = soonest_windows(gains, 0.05, 2)
    assert soonest < wald < 1.25 * soonest


def test_evidence_of_a_step_is_that_of_poisson_counts_where_stable_is_known() -> None:
    nats = step_information(Service(), Plan(), 3, 1.25)
    assert nats == pytest.approx(np.arange(1, 21) * 75.0 * (0.25 - math.log(1.25)), rel=1e-6)


def test_evidence_of_a_step_is_that_of_coins_where_stable_is_not_known() -> None:
    """Which side an error falls on, given that there is one; a little more, as what is shared keeps within limits."""
    service = Service(noise=Noise(NoiseKind.SHARED))
    nats = step_information(service, Plan(), 3, 1.25)[-1]
    coin = 0.5 * math.log(0.5 * 2.25 / 1.25) + 0.5 * math.log(0.5 * 2.25)
    assert 1.0 < nats / (20 * 150.0 * coin) < 1.15


def test_likelihood_ratio_test_of_a_tiny_service_promotes_no_sooner_than_the_bound() -> None:
    service, plan = Service(rate=60.0), Plan(ladder=(0.1, 0.5), window=30.0, seconds=1200.0)
    seen = simulate(service, plan, GOOD, 4_000, 64)
    taken = np.zeros(4_000)
    for step, onward in enumerate((0.5, 1.0)):
        own, times = slice(20 * step, 20 * (step + 1)), 1.0 + 0.25 / onward
        usual = service.rate * service.errors * plan.window * plan.weights[own]
        ratio = np.cumsum((times - 1.0) * usual - seen.errors[CANARY][:, own] * math.log(times), axis=1)
        crossed = ratio >= math.log(20.0)
        crossed[:, :1], crossed[:, -1] = False, True
        taken += first_crossing(crossed, plan.ends[:20])
    bound = promotion_seconds(service, plan, 0.25, 0.05, 2)
    assert bound < taken.mean() < 1.25 * bound


@pytest.mark.parametrize("noise", [CLUMPS, WANDERING], ids=["clumps", "instances"])
def test_good_canary_of_a_noisy_service_waits_longer(noise: Noise) -> None:
    plain, noisy = (promotion_seconds(Service(noise=one), Plan(), 0.25, 0.05, 2) for one in (Noise(), noise))
    assert 240.0 <= plain < 300.0
    assert 600.0 < noisy < 2400.0

"""The bounds on the mean time say what counts can tell, no more and not much less."""

import math

import numpy as np
import pytest

from bench.bounds import bound_seconds, clumped_chances, count_divergence, noisy_bound_seconds
from bench.traffic import FloatArray, Noise, NoiseKind, Plan, Regression, Service, failures


def by_clumps(mean: float, clump: float, most: int) -> FloatArray:
    """Chances added up over how many clumps there are: Poisson times negative binomial."""
    found = np.zeros(most + 1)
    found[0] = math.exp(-mean / clump)
    for count in range(1, most + 1):
        found[count] = math.fsum(
            math.exp(-mean / clump + k * math.log(mean / clump) - math.lgamma(k + 1))
            * math.comb(count - 1, k - 1) * clump**-k * (1.0 - 1.0 / clump) ** (count - k)
            for k in range(1, count + 1)
        )  # fmt: skip
    return found


@pytest.mark.parametrize(("mean", "clump"), [(0.4, 6.0), (7.5, 3.0), (20.0, 1.5)])
def test_chances_of_clumps_are_those_of_every_number_of_them(mean: float, clump: float) -> None:
    assert clumped_chances(mean, clump, 80) == pytest.approx(by_clumps(mean, clump, 80), rel=1e-9, abs=1e-15)


def test_divergence_is_the_mean_evidence_of_simulated_clumps() -> None:
    true, suspected = 6.0, 3.0
    counts = failures(np.random.default_rng(71), np.full(60_000, 100_000), np.full(60_000, true / 1e5), 3.0)
    evidence = np.log(clumped_chances(true, 3.0, 200) / clumped_chances(suspected, 3.0, 200))[counts]
    (divergence,) = count_divergence(np.array([true]), np.array([suspected]), 3.0)
    assert divergence == pytest.approx(evidence.mean(), abs=5.0 * evidence.std() / math.sqrt(60_000))


def test_many_clumps_tell_what_a_normal_count_of_their_fano_factor_tells() -> None:
    """Above what is added up one by one; clumps that could be told apart would tell 11/6 times as much."""
    (divergence,) = count_divergence(np.array([6_060.0]), np.array([6_000.0]), 6.0)
    assert 1.0 < divergence / (60.0**2 / (2.0 * 6_000.0 * 11.0)) < 1.15


def test_single_events_diverge_as_poisson_counts() -> None:
    apart = count_divergence(np.array([6.0]), np.array([3.0]), 1.0)
    assert apart == pytest.approx(count_divergence(np.array([6.0]), np.array([3.0]), 1.0 + 1e-9), rel=1e-6)


@pytest.mark.parametrize(
    "noise",
    [Noise(NoiseKind.CLUMPS, clump=3.0), Noise(NoiseKind.INSTANCES, deviation=0.3, lasting=600.0)],
    ids=["clumps", "instances"],
)
def test_noise_of_the_service_takes_time(noise: Noise) -> None:
    plain, noisy = Service(), Service(noise=noise)
    regression = Regression(errors=2.0)
    assert noisy_bound_seconds(plain, Plan(), regression) == bound_seconds(plain, Plan(), regression)
    assert noisy_bound_seconds(noisy, Plan(), regression) > 1.3 * bound_seconds(noisy, Plan(), regression)

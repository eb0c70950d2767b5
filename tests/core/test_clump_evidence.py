"""Evidence from events that come in clumps: computed a second time, fair whatever was expected, and worth its while."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from canary_release.core import error_evidence
from canary_release.core.clump_counts import clumps_given, log_chance
from canary_release.core.clump_evidence import clump_log_evidence
from canary_release.core.clump_learning import least_by_small_counts
from canary_release.core.expected_window import Place, timeline
from canary_release.core.held_against import Parameters, Scene, harm_likelihoods
from canary_release.core.observations import Arms
from canary_release.core.service_traffic import ServiceTraffic
from core.counts import arms, clumped, one
from core.simulated import events


@pytest.mark.parametrize(("clump", "loose"), [(2.0, 0.5), (3.0, 1 / 3), (6.0, 1 / 6)])
@pytest.mark.parametrize("mean", [0.07, 1.5, 12.0])
@pytest.mark.parametrize("times", [1.5, 5.0, 20.0])
def test_likelihood_of_a_clumped_count_is_as_by_the_recursion(
    clump: float, loose: float, mean: float, times: float
) -> None:
    most = int(80 + 3 * mean * times)
    usual, harm, events = clumped(mean, clump, most), clumped(mean * times, clump, most), np.arange(most + 1.0)
    clumps, of = np.array(mean / clump), np.array(loose)
    ratio = log_chance(events, times * clumps, of) - log_chance(events, clumps, of)
    assert usual @ np.exp(ratio) == pytest.approx(1.0, abs=0.005)
    likely = harm > 1e-6
    assert np.abs(ratio - np.log(harm / np.maximum(usual, 1e-300)))[likely & (usual > 1e-250)].max() < 0.06
    assert usual[1:] @ clumps_given(events, clumps, of)[1:] == pytest.approx(mean / clump, rel=0.02)


@pytest.mark.parametrize("size", [2.5, 3.0, 4.0])
@pytest.mark.parametrize(("stable_rate", "delta"), [(0.0005, 0.0), (0.002, 0.0), (0.02, 0.0), (0.002, 0.001)])
@pytest.mark.parametrize(("n_c", "expected"), [(60, 0.002), (60, 0.02), (600, 0.002)])
def test_evidence_from_clumps_of_every_size_is_at_most_one_on_average_whatever_was_expected(
    size: float, stable_rate: float, delta: float, n_c: int, expected: float
) -> None:
    """Clumps anywhere between those that are surely there and the largest there may be: mean 2.5 to 4, phi 4 to 7."""
    n_b = 2000 - n_c
    canary, stable = clumped(n_c * (stable_rate + delta), size, 150), clumped(n_b * stable_rate, size, 300)
    x_c, x_b = (count.reshape(-1, 1) for count in np.meshgrid(np.arange(151.0), np.arange(301.0), indexing="ij"))
    known = np.ones(x_c.shape, dtype=bool)
    both = Arms(x_c, n_c * np.ones(x_c.shape), x_b, n_b * np.ones(x_c.shape), known, known)
    rate = np.full(x_c.shape, expected)
    null = error_evidence.orient(both, np.array([1.0]), np.array([delta]), rate, np.array([False]))
    found = clump_log_evidence(null, np.array([1.0, 1.5, 3.0, 9.0]), np.array([7.0]), np.array([4.0]))
    chance = np.outer(canary, stable).reshape(-1, 1)
    assert chance.sum() == pytest.approx(1.0, abs=1e-6)
    mean = (chance * np.exp(found[:, 0])).sum(axis=0)
    assert (mean <= 1.001).all(), "but for what the approximation leaves"
    assert mean.max() > 0.9, "a test that never gains is no test"


def growth(requests: int, times: float, size: float, found: Callable[[error_evidence.Comparison], np.ndarray]) -> float:
    """What one window is expected to say of a canary with 1 % of the requests and ``times`` stable's 0.5 % errors."""
    n_c, most = requests // 100, 250
    x_c, ones = np.arange(most + 1.0)[:, None], np.ones((most + 1, 1))
    n_b = requests - n_c
    both = Arms(x_c, n_c * ones, 0.005 * n_b * ones, n_b * ones, ones > 0, ones > 0)
    null = error_evidence.orient(both, np.array([1.0]), np.array([0.0]), 0.005 * ones, np.array([False]))
    return float(clumped(0.005 * n_c * times, size, most) @ found(null)[:, 0, 0])


@pytest.mark.parametrize(("requests", "size", "gain"), [(1500, 3.0, 1.9), (7500, 6.0, 1.6), (30_000, 6.0, 1.08)])
def test_clumps_say_more_than_their_events(requests: int, size: float, gain: float) -> None:
    """Most of all where a window has few clumps: 20 times the errors at 50, 250 and 1000 requests a second."""
    phi, factors = np.array([2.0 * size - 1.0]), np.array([20.0])

    def of_events(null: error_evidence.Comparison) -> np.ndarray:
        return error_evidence.comparison_log_evidence(null, error_evidence.tilts(null, factors, phi), phi)

    def of_clumps(null: error_evidence.Comparison) -> np.ndarray:
        return clump_log_evidence(null, factors, phi, phi)

    assert growth(requests, 20.0, size, of_clumps) > gain * growth(requests, 20.0, size, of_events) > 0


@pytest.mark.parametrize(("rate", "weight", "few"), [(50, 0.01, True), (50, 0.25, True), (1000, 0.25, False)])
def test_clumps_are_counted_only_where_windows_have_few(rate: int, weight: float, few: bool) -> None:
    """Of six errors each, 0.5 % of all requests in half a minute."""
    place = Place(ServiceTraffic(float(rate), {"error_rate": (1.0, 0.005)}), weight, 30.0)
    par = Parameters(*(np.array([value]) for value in (1.0, 0.0, False, 11.0, 0.0, 0.0, 9.0)))
    scene = Scene(timeline(place, 1), np.zeros(1), 0.25)
    requests = int(rate * 30)
    pair = arms((3, int(requests * weight)), (int(0.005 * requests), int(requests * (1 - weight))))
    found = harm_likelihoods(pair, one(0.005), par, scene)
    unsure = harm_likelihoods(pair, one(0.005), replace(par, least_phi=np.array([1.0])), scene)
    assert bool(np.abs(found - unsure).max() > 0.1) == few


def test_clumps_on_a_canary_with_nearly_all_traffic_are_left_to_other_evidence() -> None:
    """Stable's few requests cannot take back what such a bet may win."""
    null = error_evidence.orient(
        arms((9, 1900), (1, 100)), np.array([1.0]), np.array([0.0]), one(0.005), np.array([False])
    )
    phi = np.array([5.0])
    assert (clump_log_evidence(null, np.array([1e6]), phi, phi) < 0).all()


@pytest.mark.parametrize(("clump", "expected"), [(3.0, 0.4), (3.0, 2.0), (6.0, 1.2), (3.0, 20.0)])
def test_clumps_are_read_from_windows_with_few_events(clump: float, expected: float) -> None:
    """Six hours of twelve instances: never more clumped than they are, and not far from it."""
    rng, of = np.random.default_rng(8), np.full((360, 12), 4000.0)
    found = [least_by_small_counts(events(rng, of, expected / 4000.0, clump).astype(float), of) or 0 for _ in range(12)]
    phi = 2.0 * clump - 1.0
    assert np.mean(np.array(found) <= phi) >= 0.8
    assert np.mean(found) >= 0.82 * phi


def test_windows_that_are_never_empty_tell_nothing_of_clumps() -> None:
    of = np.full((360, 12), 4000.0)
    assert least_by_small_counts(np.full(of.shape, 30.0), of) is None

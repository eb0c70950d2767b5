"""Evidence from whether a window had any events: fair whatever clumps there are, and sharp for single ones."""

from collections.abc import Callable

import numpy as np
import pytest

from canary_release.core.any_events import any_log_evidence
from canary_release.core.error_evidence import Comparison, comparison_log_evidence, tilts

Draw = Callable[[np.random.Generator, float, int], np.ndarray]
LARGEST = np.array([6.0])
OF_CANARY, OF_STABLE = 300.0, 29_700.0


def geometric(size: float) -> Draw:
    def draw(rng: np.random.Generator, mean: float, number: int) -> np.ndarray:
        clumps = rng.poisson(mean / size, number)
        return clumps + np.where(clumps > 0, rng.negative_binomial(np.maximum(clumps, 1), 1.0 / size), 0)

    return draw


def single(rng: np.random.Generator, mean: float, number: int) -> np.ndarray:
    return rng.poisson(mean, number)


def mixed(rng: np.random.Generator, mean: float, number: int) -> np.ndarray:
    """Four single errors for each clump of three."""
    return single(rng, mean * 4.0 / 7.0, number) + 3 * rng.poisson(mean / 7.0, number)


def windows(draw: Draw, usual: float, harm: float = 1.0, believed: float = 1.0, number: int = 200_000) -> Comparison:
    """The canary's windows have ``usual`` events, times the harm; stable's rate was ``believed`` times what it is."""
    rng, rate = np.random.default_rng(3), usual / OF_CANARY
    canary, stable = draw(rng, usual * harm, number), draw(rng, rate * OF_STABLE, number)
    ones = np.ones((number, 1))
    none, tolerated = np.zeros(1), np.ones(1)
    return Comparison(
        canary[:, None], OF_CANARY * ones, stable[:, None], OF_STABLE * ones, tolerated, none, believed * rate * ones
    )


@pytest.mark.parametrize("draw", [single, geometric(1.5), geometric(3.5), mixed])
@pytest.mark.parametrize("usual", [0.02, 0.3, 1.5])
@pytest.mark.parametrize("believed", [0.5, 1.0, 2.0])
def test_evidence_is_fair_whatever_clumps_there_are_and_whatever_the_rate_was(
    draw: Draw, usual: float, believed: float
) -> None:
    found = np.exp(any_log_evidence(windows(draw, usual, believed=believed), np.array([1.3, 3.0, 20.0]), LARGEST))
    doubt = 4.0 * found.std(axis=0) / np.sqrt(len(found))
    assert (found.mean(axis=0) <= 1.0 + doubt).all()


def test_of_single_errors_hardly_anything_is_given_away() -> None:
    found = np.exp(any_log_evidence(windows(single, 0.1), np.array([3.0]), LARGEST))
    assert found.mean() == pytest.approx(1.0, abs=0.01)


def test_few_single_errors_say_far_more_than_if_they_might_be_one_clump() -> None:
    seen, harm = windows(single, 0.075, harm=20.0, number=20_000), np.array([20.0])
    counted = comparison_log_evidence(seen, tilts(seen, harm, LARGEST), LARGEST)
    asked = any_log_evidence(seen, harm, LARGEST)
    assert asked.mean() > 4.0 * counted.mean() > 0


def test_evidence_is_nothing_where_stable_has_too_little_traffic_to_know_the_rate_from() -> None:
    one = np.ones((1, 1))
    seen = Comparison(3.0 * one, 300.0 * one, 0.0 * one, one, np.ones(1), np.zeros(1), 0.0005 * one)
    assert any_log_evidence(seen, np.array([3.0]), LARGEST) == -np.inf

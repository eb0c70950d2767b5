"""What the demo promises to show, on its shop as numbers: the real one has Airflow's own pauses besides."""

import numpy as np
import pytest

from canary_release.control.learning import without_baseline
from canary_release.core.noise_learning import learn
from canary_release.core.noise_report import NoiseReport
from canary_release.core.release import Step
from canary_release.core.values import Window
from core.little_shop import FAILING, GOOD, SLOW, Version, past_rollout, released, shop_release

ROLLOUTS = 12


@pytest.fixture(scope="module")
def learned() -> NoiseReport:
    """What the ledger remembers of the good release before."""
    return without_baseline(learn(shop_release(), past_rollout()))


def many(version: Version, noise: NoiseReport | None, seed: int) -> list[tuple[str, list[Window]]]:
    return [released(np.random.default_rng(1000 * seed + at), version, noise=noise) for at in range(ROLLOUTS)]


def canary_errors(windows: list[Window]) -> int:
    return sum(window.canary.errors for window in windows if window.canary is not None)


@pytest.mark.parametrize("knows", [False, True], ids=["the first release", "a later one"])
def test_the_good_version_leaves_its_longest_step_early(learned: NoiseReport, knows: bool) -> None:
    bakes = [step.bake for step in shop_release().steps if isinstance(step, Step)]
    longest = bakes.index(max(bakes))
    ended = many(GOOD, learned if knows else None, seed=1)
    assert [how for how, _ in ended] == ["promote"] * ROLLOUTS
    spent = [sum(window.step == longest for window in windows) for _, windows in ended]
    assert np.mean([seconds < max(bakes) for seconds in spent]) >= 0.75
    assert np.mean(spent) <= 0.8 * max(bakes)


def test_the_failing_version_hurts_a_handful_of_people(learned: NoiseReport) -> None:
    ended = many(FAILING, learned, seed=2)
    assert [how for how, _ in ended] == ["roll_back"] * ROLLOUTS
    assert np.mean([len(windows) for _, windows in ended]) <= 19.0
    assert np.mean([canary_errors(windows) for _, windows in ended]) <= 20.0


def test_the_slow_version_is_caught_before_a_quarter_of_the_users_meet_it(learned: NoiseReport) -> None:
    ended = many(SLOW, learned, seed=3)
    assert [how for how, _ in ended] == ["roll_back"] * ROLLOUTS
    assert max(window.weight for _, windows in ended for window in windows) <= 0.05
    assert np.mean([len(windows) for _, windows in ended]) <= 18.0

"""The filter that follows instances' noise: computed a second time, and fair where instances do what it says."""

import numpy as np
import pytest

from canary_release.core.clumps_seen import ClumpsSeen
from canary_release.core.noise_filter import (
    NODES,
    PLACES,
    POSITIONS,
    REACH,
    STATIONARY,
    FilteredMixture,
    FilteredStep,
    of_harm,
)
from core.simulated import events

HARMS = np.log([1.5, 3.0])


def urn(persistence: float) -> np.ndarray:
    """Six coins, each turned with chance (1 - a)/2: from heads to heads, by counting."""
    turn = (1 - persistence) / 2
    flips = PLACES - 1

    def binomial(n: int, p: float) -> np.ndarray:
        found = np.ones(1)
        for _ in range(n):
            found = np.convolve(found, [1 - p, p])
        return found

    return np.array([np.convolve(binomial(heads, 1 - turn), binomial(flips - heads, turn)) for heads in range(PLACES)])


def parabola(ratio: np.ndarray, seen: float, information: float) -> np.ndarray:
    return -0.5 * information * (seen - ratio) ** 2


def likelihood(seen: np.ndarray, spread: float, information: float) -> np.ndarray:
    """Log likelihoods (W, 1, 1 + J, nodes) of a log ratio that was seen with a normal error."""
    ratio = np.concatenate(([0.0], HARMS))[:, None] + spread * NODES
    return parabola(ratio, seen[:, None, None], information)[:, None]


@pytest.mark.parametrize("persistence", [0.2, 0.95])
def test_filter_agrees_with_the_recursion_it_stands_for(persistence: float) -> None:
    rng, spread, information = np.random.default_rng(1), 0.3, 9.0
    seen, weights = rng.normal(0.1, 0.4, 30), np.full(30, 0.02)
    found = FilteredMixture().extend(likelihood(seen, spread, information), np.full((30, 1), persistence), weights)
    null, harms, moves = STATIONARY.copy(), np.zeros((2, PLACES)), urn(persistence)
    for at, one in enumerate(seen):
        harms = ((harms + weights[at] / 2 * null) @ moves) * np.exp(
            parabola(HARMS[:, None] + spread * POSITIONS, one, information)
        )
        null = (null @ moves) * np.exp(parabola(spread * POSITIONS, one, information))
        harms, null = harms / null.sum(), null / null.sum()
        assert np.exp(found[at, 0]) == pytest.approx(harms.sum() + 1 - weights[: at + 1].sum(), rel=1e-9)


def test_evidence_is_at_most_one_on_average_where_instances_wander_as_the_filter_says() -> None:
    """20,000 walks of the urn with normal errors; columns are walks."""
    rng, walks, windows, persistence, spread, information = np.random.default_rng(2), 20_000, 12, 0.9, 0.3, 12.0
    places = rng.choice(PLACES, walks, p=STATIONARY)
    moves = np.cumsum(urn(persistence), axis=1)
    rows = []
    for _ in range(windows):
        places = (rng.random(walks)[:, None] > moves[places]).sum(axis=1)
        seen = spread * POSITIONS[places] + rng.normal(0.0, information**-0.5, walks)
        rows.append(likelihood(seen, spread, information)[:, 0])
    weights = np.full(windows, 1.0 / windows)
    found = np.exp(FilteredMixture().extend(np.stack(rows), np.full((windows, walks), persistence), weights))
    for at in range(windows):
        assert found[at].mean() <= 1.0 + 4.0 * found[at].std() / walks**0.5
    assert (found.max(axis=0) >= 20.0).mean() <= 0.05
    assert found.max() > 5.0, "a test that never gains is no test"


def test_harm_beyond_what_instances_do_is_found_at_once_and_within_it_slowly() -> None:
    weights, stays = np.full(40, 0.025), np.full((40, 1), 0.95)

    def crossed(harm: float) -> int:
        found = FilteredMixture().extend(likelihood(np.full(40, harm), 0.2, 200.0), stays, weights)[:, 0]
        return int(np.argmax(found >= np.log(100.0))) if found.max() >= np.log(100.0) else 40

    assert crossed(float(np.log(4.0))) <= 3
    assert crossed(0.3) > 15, "half again as bad is what instances with a deviation of 0.2 do"


def test_no_window_says_more_than_the_cap() -> None:
    strong = np.zeros((6, 1, 3, len(NODES)))
    strong[:, :, 1:] = 1e6
    found = FilteredMixture().extend(strong, np.full((6, 1), 0.9), np.full(6, 0.01))[:, 0]
    assert np.exp(found[0]) == pytest.approx(REACH + 0.99), "although a small stake is no reason to wait for a third"
    assert np.exp(found[1]) == pytest.approx((REACH + 0.01) * np.exp(5.0), rel=0.01)
    assert (np.diff(found) <= 5.0 + 1e-9).all()
    large = FilteredMixture().extend(strong[:1], np.full((1, 1), 0.9), np.array([0.5]))[0, 0]
    assert np.exp(large) == pytest.approx(0.5 * np.exp(5.0) + 0.5)
    assert of_harm(strong).max() == 5.0


def test_extreme_counts_stay_numbers() -> None:
    rng = np.random.default_rng(3)
    wild = rng.choice([-1e9, -50.0, 0.0, 50.0, 1e9], (300, 4, 3, len(NODES)))
    found = FilteredMixture().extend(wild, rng.random((300, 4)), np.full(300, 0.003))
    assert np.isfinite(found).all()


def test_step_begins_anew_and_pieces_change_nothing() -> None:
    rng = np.random.default_rng(4)
    rows, stays = likelihood(rng.normal(0, 0.4, 24), 0.2, 20.0), np.full((24, 1), 0.9)
    began = np.repeat([1, 13], 12)
    whole = FilteredStep().extend(rows, stays, began)
    assert whole[12] == pytest.approx(FilteredStep().extend(rows[12:13], stays[:1], np.array([1]))[0])
    parts = FilteredStep()
    first = parts.extend(rows[:7], stays[:7], began[:7])
    assert (np.concatenate((first, parts.extend(rows[7:], stays[7:], np.repeat([0, 6], [5, 12])))) == whole).all()


@pytest.mark.parametrize(("clump", "phi"), [(1.0, 1.0), (3.0, 5.0), (8.0, 15.0)])
def test_clumps_are_learned_from_stable_during_the_rollout(clump: float, phi: float) -> None:
    rng, windows = np.random.default_rng(5), 200
    of = np.full((windows, 1), 20_000)
    failed = events(rng, of, 0.005, clump).astype(float)
    failed[100:104] = events(rng, of[:4], 0.03, clump)  # an incident is not a clump
    found = ClumpsSeen(np.array([6.0])).extend(failed, of.astype(float), 30.0 * np.arange(windows))[:, 0]
    assert found[0] == 6.0
    assert 0.75 * phi <= np.median(found[120:]) <= 1.6 * phi + 0.4  # the default and the incident fade slowly


def test_few_errors_a_window_are_known_to_be_single_within_the_first_step() -> None:
    rng = np.random.default_rng(8)
    of = np.full((21, 40), 1500.0)  # 50 requests a second, windows of 30 seconds
    found = ClumpsSeen(np.full(40, 6.0)).extend(rng.poisson(0.005 * of).astype(float), of, 30.0 * np.arange(21))
    assert np.median(found[10]) <= 3.0
    assert np.median(found[20]) <= 2.5


def test_clumps_are_learned_the_same_in_pieces() -> None:
    rng = np.random.default_rng(9)
    of = np.full((60, 2), 1500)
    failed = events(rng, of, 0.005, 3.0).astype(float)
    whole, parts = ClumpsSeen(np.array([6.0, 2.0])), ClumpsSeen(np.array([6.0, 2.0]))
    start = 30.0 * np.arange(60)
    pieces = [parts.extend(failed[a:b], of[a:b].astype(float), start[a:b]) for a, b in ((0, 1), (1, 17), (17, 60))]
    assert (whole.extend(failed, of.astype(float), start) == np.concatenate(pieces)).all()

"""Some seconds of overload that hit both versions alike: they neither hide a bad version nor blame a good one."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from canary_release.core.judge_state import JudgeState
from canary_release.core.noise_learning import learn
from canary_release.core.noise_report import Baseline, NoiseReport
from canary_release.core.usual_state import UsualState, unusual
from core.little_shop import GOOD, SLOW, Burst, Version, past_rollout, released, second, shop_release, stretched
from core.simulated import most_by_chance

ROLLOUTS = 12


def endings(version: Version, burst: Burst | None, seed: int, noise: NoiseReport | None = None) -> Counter[str]:
    bursts = [] if burst is None else [burst]
    rngs = (np.random.default_rng(1000 * seed + at) for at in range(ROLLOUTS))
    return Counter(released(rng, version, bursts, noise)[0] for rng in rngs)


@pytest.mark.parametrize("start", [0.0, 3.0, 8.0, 15.0])
@pytest.mark.parametrize("uneven", [0.0, 0.5], ids=["alike", "uneven"])
def test_a_version_that_is_60_per_cent_slower_is_never_promoted_because_of_a_burst(start: float, uneven: float) -> None:
    assert endings(SLOW, Burst(start, uneven=uneven), seed=1) == {"roll_back": ROLLOUTS}


@pytest.mark.parametrize("burst", [Burst(12.0, 20.0, 15.0, 0.3), Burst(12.0, 15.0, 40.0, 0.3)], ids=["x15", "x40"])
def test_nothing_is_raised_while_stable_itself_is_much_slower_than_usual(burst: Burst) -> None:
    """The bakes of two steps would pass in such a burst, with nothing to be seen in it."""
    assert endings(SLOW, burst, seed=2) == {"roll_back": ROLLOUTS}


@pytest.mark.parametrize("start", [0.0, 3.0, 8.0, 15.0, 25.0])
def test_a_good_version_survives_a_burst(start: float) -> None:
    ends = endings(GOOD, Burst(start), seed=3)
    assert ends["roll_back"] <= most_by_chance(ROLLOUTS, 0.01)
    assert ends["promote"] >= ROLLOUTS - 1


@pytest.mark.parametrize("bursts", [[Burst(5.0)], [Burst(0.0)], [Burst(5.0), Burst(20.0)]], ids=["one", "first", "two"])
def test_a_burst_in_an_earlier_rollout_is_not_learned_as_noise(bursts: list[Burst]) -> None:
    learned = learn(shop_release(), past_rollout(bursts))
    calm = learn(shop_release(), past_rollout([]))
    assert learned.checks["page_load_time p95"].phi <= 2.0 * calm.checks["page_load_time p95"].phi
    edges = learned.baseline.edges
    lasting = replace(learned, baseline=Baseline(edges=edges, slower=(0.0,) * len(edges)))
    assert endings(SLOW, Burst(3.0), seed=4, noise=lasting) == {"roll_back": ROLLOUTS}
    assert endings(GOOD, None, seed=5, noise=lasting)["roll_back"] == 0


def test_an_outage_in_a_service_s_own_history_is_not_learned_as_clumps() -> None:
    rng = np.random.default_rng(6)
    requests = rng.poisson(400, 60)
    share = np.where((np.arange(60) >= 20) & (np.arange(60) < 24), 0.5, 0.005)
    rows = {"window": np.arange(60), "start": np.arange(60.0), "end": np.arange(60.0) + 1.0, "side": "stable"}
    table = pd.DataFrame(rows | {"weight": 0.0, "requests": requests, "errors": rng.binomial(requests, share)})
    assert learn(shop_release(), table).checks["error_rate"].phi < 4.0


def test_hold_says_that_stable_itself_is_slow() -> None:
    rng, state = np.random.default_rng(7), JudgeState(shop_release())
    slowness = stretched(rng, [Burst(5.0)])
    said = state.fold([second(rng, at, 0, 0.01, slowness(float(at)), GOOD) for at in range(7)])
    assert any("stable itself is suddenly much slower" in sentence for sentence in said[-1].holds)
    assert not said[3].holds


def test_the_usual_state_is_the_one_that_lasts() -> None:
    usual, burst = np.array([20.0, 400.0]), np.array([380.0, 400.0])
    counts = np.array([burst] * 3 + [usual] * 20 + [burst] * 5 + [usual] * 5 + [burst] * 300)
    before, other = UsualState().before(counts, np.arange(len(counts), dtype=float))
    share = before[:, 0] / np.maximum(before[:, 1], 1.0)
    assert share[10:33].max() < 0.06, "the first seconds were no rule"
    assert other[23:28].all()
    assert not other[28:33].any()
    assert share[-1] > 0.9, "five minutes are"


def test_the_usual_state_is_the_same_in_pieces() -> None:
    rng = np.random.default_rng(8)
    share = np.where(rng.random((200, 1)) < 0.2, 0.9, 0.05)
    counts = np.concatenate((rng.binomial(400, share).astype(float), np.full((200, 1), 400.0)), axis=1)
    start = np.arange(200.0)
    whole, jumps = UsualState().before(counts, start)
    pieces, state = [], UsualState()
    for cut in np.split(np.arange(200), [1, 2, 17, 40, 41, 120]):
        pieces.append(state.before(counts[cut], start[cut]))
    np.testing.assert_array_equal(np.concatenate([sums for sums, _ in pieces]), whole)
    np.testing.assert_array_equal(np.concatenate([some for _, some in pieces]), jumps)


def test_few_requests_are_not_taken_for_another_state() -> None:
    rng = np.random.default_rng(9)
    counts = np.stack((rng.binomial(20, 0.05, 2000), np.full(2000, 20)), axis=1).astype(float)
    assert unusual(counts, np.arange(2000.0))[0].mean() < 0.002

"""The simulator makes the noise that it claims."""

import numpy as np
import pytest

from bench.traffic import (
    CANARY,
    EDGES,
    STABLE,
    Noise,
    NoiseKind,
    Plan,
    Regression,
    Service,
    failures,
    history,
    simulate,
    slow_noise,
)
from canary_release.core.frames import windows_from_frame

GOOD = Regression()


@pytest.mark.parametrize("clump", [1.0, 3.0, 6.0])
def test_clumps_of_mean_m_have_a_fano_factor_of_2m_minus_1(clump: float) -> None:
    requests = np.full(40_000, 100_000)
    counts = failures(np.random.default_rng(11), requests, np.full(40_000, 0.002), clump)
    assert counts.mean() == pytest.approx(200.0, rel=0.01)
    assert counts.var() / counts.mean() == pytest.approx(2.0 * clump - 1.0, rel=0.05)


def test_there_are_never_more_errors_than_requests_however_large_the_clumps() -> None:
    requests = np.full(5_000, 3)
    assert (failures(np.random.default_rng(12), requests, np.full(5_000, 0.9), 6.0) <= 3).all()


def test_slow_noise_has_the_deviation_and_the_correlation_asked_for() -> None:
    noise = slow_noise(np.random.default_rng(13), (4_000, 40), 0.3, 600.0, 30.0)
    assert noise[:, 0].std() == pytest.approx(0.3, rel=0.05)
    assert noise[:, -1].std() == pytest.approx(0.3, rel=0.05)
    for lag in (1, 20):
        found = np.corrcoef(noise[:, 0], noise[:, lag])[0, 1]
        assert found == pytest.approx(np.exp(-lag * 30.0 / 600.0), abs=0.05)


def test_each_step_sends_its_weight_to_the_canary() -> None:
    seen = simulate(Service(rate=1000.0), Plan(), GOOD, 20, 14)
    canary, total = seen.requests[CANARY].sum(axis=0), seen.requests.sum(axis=(0, 1))
    for step, weight in enumerate(seen.plan.ladder):
        own = slice(20 * step, 20 * (step + 1))
        assert canary[own].sum() / total[own].sum() == pytest.approx(weight, rel=0.02)


def test_independent_noise_leaves_counts_poisson() -> None:
    seen = simulate(Service(), Plan(), GOOD, 2_000, 15)
    stable = seen.errors[STABLE, :, 0]
    assert stable.var() / stable.mean() == pytest.approx(1.0, abs=0.12)


def test_shared_noise_moves_both_sides_together() -> None:
    service = Service(noise=Noise(NoiseKind.SHARED))
    seen = simulate(service, Plan(ladder=(0.5,)), GOOD, 400, 16)
    rates = np.log((seen.errors + 0.5) / seen.requests)
    assert np.corrcoef(rates[STABLE].ravel(), rates[CANARY].ravel())[0, 1] > 0.7


def test_instance_noise_makes_identical_sides_differ_for_as_long_as_it_lasts() -> None:
    plan = Plan(ladder=(0.5,))
    quiet = simulate(Service(rate=20_000.0, noise=Noise(NoiseKind.SHARED)), plan, GOOD, 300, 17)
    noise = Noise(NoiseKind.INSTANCES, deviation=0.3, lasting=600.0)
    noisy = simulate(Service(rate=20_000.0, noise=noise), plan, GOOD, 300, 17)

    def gap(seen):  # type: ignore[no-untyped-def]
        rates = np.log(seen.errors / seen.requests)
        return rates[CANARY] - rates[STABLE]

    # Two canary instances and twelve stable ones: variance 0.09 / 2 + 0.09 / 12.
    assert gap(noisy).std() == pytest.approx(np.sqrt(0.09 / 2 + 0.09 / 12), rel=0.1)
    assert gap(quiet).std() < 0.06
    assert np.corrcoef(gap(noisy)[:, 0], gap(noisy)[:, 20])[0, 1] == pytest.approx(np.exp(-1.0), abs=0.12)


def test_a_late_regression_begins_at_its_onset() -> None:
    seen = simulate(Service(), Plan(ladder=(0.5,)), Regression(errors=5.0, onset=1200.0), 50, 18)
    ratio = seen.errors[CANARY].sum(axis=0) / seen.errors[STABLE].sum(axis=0)
    assert ratio[:40].mean() == pytest.approx(1.0, abs=0.05)
    assert ratio[40:].mean() == pytest.approx(5.0, abs=0.2)


def test_a_leak_grows_evenly() -> None:
    leak = Regression(errors=5.0, grows=1200.0)
    assert leak.error_factor(np.array([0.0, 600.0, 1200.0, 2400.0])) == pytest.approx([1.0, 3.0, 5.0, 5.0])


def test_a_slower_canary_has_its_p95_that_much_later() -> None:
    service = Service(median=0.25, tail=np.log(19.0) / np.log(2.0))  # p95 at the edge of 0.5 s
    seen = simulate(service, Plan(ladder=(0.5,)), Regression(latency=2.0), 50, 19)
    place = EDGES.index(0.5) + 1
    slow = seen.buckets[..., place:].sum(axis=(1, 2, 3)) / seen.requests.sum(axis=(1, 2))
    assert slow[STABLE] == pytest.approx(0.05, rel=0.03)
    place = EDGES.index(1.0) + 1
    assert seen.buckets[CANARY][..., place:].sum() / seen.requests[CANARY].sum() == pytest.approx(0.05, rel=0.03)


def test_the_same_seed_gives_the_same_rollouts_and_another_one_does_not() -> None:
    one, again, other = (simulate(Service(), Plan(), GOOD, 3, seed) for seed in (20, 20, 21))
    assert one.frame(2).equals(again.frame(2))
    assert not one.frame(2).equals(other.frame(2))


def test_a_frame_is_what_the_judge_reads_and_loses_no_request() -> None:
    seen = simulate(Service(rate=50.0), Plan(window=60.0), GOOD, 2, 22)
    windows = windows_from_frame(seen.frame(1))
    assert len(windows) == 40
    for at, window in enumerate(windows):
        assert window.canary is not None
        assert window.stable is not None
        assert window.canary.requests == seen.requests[CANARY, 1, at] == sum(window.canary.buckets)
        assert window.stable.errors == seen.errors[STABLE, 1, at]
    assert [window.step for window in windows[::10]] == [0, 1, 2, 3]


def test_history_has_a_row_for_each_instance_and_ends_where_the_rollout_begins() -> None:
    service = Service(rate=600.0, instances=4, noise=Noise(NoiseKind.INSTANCES, deviation=0.3))
    frame = history(service, hours=2.0, window=60.0, seed=23)
    assert len(frame) == 4 * 120
    assert frame["end"].max() == 0.0
    assert set(frame["instance"]) == {"i0", "i1", "i2", "i3"}
    buckets = [name for name in frame.columns if name.startswith("le_")]
    assert (frame[buckets].sum(axis=1) == frame["requests"]).all()
    assert frame["requests"].sum() / 7200.0 == pytest.approx(600.0, rel=0.35)

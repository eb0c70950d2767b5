"""The oracle keeps its bound where its assumptions hold, and is as fast as information allows."""

import numpy as np
import pytest

from bench.bounds import bound_seconds
from bench.chance import chance_of_as_many
from bench.oracle import Oracle, first_crossing
from bench.traffic import Noise, NoiseKind, Plan, Regression, Service, simulate

ERRORS = Regression(errors=3.0)
GOOD = Regression()


@pytest.mark.parametrize("noise", [Noise(), Noise(NoiseKind.SHARED)], ids=["iid", "shared"])
@pytest.mark.parametrize("suspected", [ERRORS, Regression(latency=1.1)], ids=["errors", "latency"])
def test_oracle_rolls_back_at_most_one_in_a_hundred_good_canaries(noise: Noise, suspected: Regression) -> None:
    seen = simulate(Service(noise=noise), Plan(), GOOD, 2_000, 31)
    false = int(np.isfinite(Oracle(suspected).rollback_seconds(seen)).sum())
    assert chance_of_as_many(false, 2_000, 0.01) > 1e-3, f"{false} of 2000"


def test_oracle_that_knows_nothing_of_clumps_breaks_its_bound_under_them() -> None:
    seen = simulate(Service(noise=Noise(NoiseKind.CLUMPS, clump=6.0)), Plan(), GOOD, 500, 32)
    assert np.isfinite(Oracle(ERRORS).rollback_seconds(seen)).mean() > 0.05


def test_evidence_of_the_oracle_is_1_on_average_when_nothing_is_wrong() -> None:
    plan = Plan(ladder=(0.05,), seconds=300.0)
    seen = simulate(Service(rate=50.0), plan, GOOD, 40_000, 33)
    evidence = np.exp(Oracle(Regression(errors=1.5)).log_ratio(seen).sum(axis=1))
    assert evidence.mean() == pytest.approx(1.0, abs=5.0 * evidence.std() / 200.0)


def test_mean_time_is_the_bound_and_less_than_a_window_more_when_windows_are_short() -> None:
    service, plan = Service(), Plan(ladder=(0.05,), window=10.0)
    seen = simulate(service, plan, ERRORS, 500, 34)
    times = Oracle(ERRORS).rollback_seconds(seen)
    bound = bound_seconds(service, plan, ERRORS)
    assert np.isfinite(times).all()
    assert 0.9 * bound < times.mean() < 1.5 * bound + 10.0


def test_bound_is_shorter_for_a_larger_effect_and_endless_without_one() -> None:
    service, plan = Service(), Plan()
    slow, fast = (bound_seconds(service, plan, Regression(errors=times)) for times in (2.0, 20.0))
    assert fast < slow < plan.seconds
    assert bound_seconds(service, plan, GOOD) == np.inf


def test_bound_counts_from_the_onset() -> None:
    late = Regression(errors=5.0, onset=900.0)
    assert 0.0 < bound_seconds(Service(), Plan(), late) < 60.0


def test_first_crossing_is_the_end_of_its_window() -> None:
    crossed = np.array([[False, True, True], [False, False, False]])
    assert first_crossing(crossed, np.array([10.0, 20.0, 30.0])).tolist() == [20.0, np.inf]

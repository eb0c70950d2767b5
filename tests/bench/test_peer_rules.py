"""The rules of other tools do what their documentation says, on cases small enough to follow by hand."""

import numpy as np
import pytest

from bench.peers import (
    ArgoRollouts,
    Flagger,
    Kayenta,
    PipeCD,
    RepeatedZTest,
    histogram_quantile,
    in_a_row,
    mann_whitney_p,
    shift_interval,
)
from bench.traffic import CANARY, EDGES, Environment, FloatArray, Plan, Rollouts, Service

MINUTES = 40


def rollout(canary_errors: list[int], canary_requests: int | list[int] = 1000, slow: int = 0) -> Rollouts:
    """One rollout of minutes; stable has 10 errors in 100,000, the canary's latency is fine but for ``slow``."""
    plan = Plan(window=60.0)
    came = np.broadcast_to(np.array(canary_requests), (MINUTES,))
    errors = np.zeros(MINUTES, dtype=int)
    errors[: len(canary_errors)] = canary_errors
    requests = np.stack([np.full(MINUTES, 100_000), came])[:, None, :]
    buckets = np.zeros((2, 1, MINUTES, len(EDGES) + 1), dtype=int)
    buckets[..., 1] = requests
    buckets[CANARY, ..., 1] -= np.minimum(slow, requests[CANARY])
    buckets[CANARY, ..., 5] += np.minimum(slow, requests[CANARY])
    ones = np.ones((1, MINUTES))
    around = Environment(ones, 0.0001 * ones, ones, np.ones((2, 1, MINUTES)), np.ones((2, 1, MINUTES)))
    both = np.stack([np.full(MINUTES, 10), errors])[:, None, :]
    return Rollouts(Service(), plan, plan.weights, around, requests, both, buckets)


def seconds(found: FloatArray) -> float:
    assert found.shape == (1,)
    return float(found[0])


# --- Flagger ----------------------------------------------------------------------------------------------------------


def test_flagger_goes_back_at_the_tick_after_the_threshold_was_reached() -> None:
    assert seconds(Flagger(threshold=3).rollback_seconds(rollout([20] * 10))) == 240.0


def test_flagger_lets_one_failed_check_less_pass() -> None:
    assert seconds(Flagger(threshold=3).rollback_seconds(rollout([20] * 2))) == np.inf


def test_flagger_adds_up_failed_checks_that_lie_far_apart() -> None:
    errors = [0] * MINUTES
    errors[0] = errors[15] = errors[30] = 20
    assert seconds(Flagger(threshold=3).rollback_seconds(rollout(errors))) == 32 * 60.0


def test_flagger_takes_a_minute_without_requests_for_a_failed_check() -> None:
    assert seconds(Flagger(threshold=3).rollback_seconds(rollout([], canary_requests=0))) == 240.0


def test_flagger_goes_back_for_a_slow_p99() -> None:
    assert seconds(Flagger(threshold=1).rollback_seconds(rollout([], slow=50))) == 120.0
    assert seconds(Flagger(threshold=1).rollback_seconds(rollout([], slow=2))) == np.inf


def test_flagger_tuned_notices_what_its_fixed_limit_does_not() -> None:
    calm, tuned = Flagger(threshold=3), Flagger(threshold=3, largest_error_rate=0.5, times_own=1.0)
    errors = [6] * 10  # 0.6 % where 0.5 % is usual
    assert seconds(calm.rollback_seconds(rollout(errors))) == np.inf
    assert seconds(tuned.rollback_seconds(rollout(errors))) == 240.0


# --- Argo Rollouts ----------------------------------------------------------------------------------------------------


def test_argo_fails_with_more_failures_than_its_limit() -> None:
    assert seconds(ArgoRollouts().rollback_seconds(rollout([100] * 20))) == 4 * 300.0
    assert seconds(ArgoRollouts().rollback_seconds(rollout([100] * 15))) == np.inf


def test_argo_ends_after_five_measurements_in_a_row_without_a_value() -> None:
    assert seconds(ArgoRollouts().rollback_seconds(rollout([], canary_requests=0))) == 5 * 300.0


def test_argo_forgives_four_without_a_value() -> None:
    came = [0] * 20 + [1000] * 20
    assert seconds(ArgoRollouts().rollback_seconds(rollout([], canary_requests=came))) == np.inf


def test_counting_in_a_row_starts_again_after_a_gap() -> None:
    assert in_a_row(np.array([1, 1, 0, 1, 1, 1, 0], dtype=bool)).tolist() == [1, 2, 0, 1, 2, 3, 0]


# --- Kayenta ----------------------------------------------------------------------------------------------------------


def test_kayenta_stops_after_the_first_interval_when_a_metric_is_high() -> None:
    worse = rollout([30 + minute % 7 for minute in range(MINUTES)])
    assert seconds(Kayenta().rollback_seconds(worse)) == 600.0


def test_kayenta_passes_equal_series() -> None:
    assert Kayenta().classify(np.arange(10.0), np.arange(10.0)) == "pass"


def test_kayenta_calls_a_shift_of_any_size_high_when_it_is_certain() -> None:
    stable = np.linspace(1.0, 1.001, 40)
    assert Kayenta().classify(stable + 0.01, stable) == "high"
    assert Kayenta().classify(stable - 0.01, stable) == "pass"


def test_kayenta_scores_what_passes_and_fails_without_data() -> None:
    few, many = np.zeros(10), np.linspace(1.0, 2.0, 10)
    nothing = np.array([np.nan] * 10)
    kayenta = Kayenta()
    assert kayenta.score([(few, few), (few, few)]) == 100.0
    assert kayenta.score([(many, few), (few, few)]) == 50.0
    assert kayenta.score([(nothing, few), (few, few)]) == 0.0


def test_shift_interval_is_around_the_shift() -> None:
    stable = np.linspace(0.0, 1.0, 30)
    lower, estimate = shift_interval(stable + 2.0, stable, 0.98)
    assert estimate == pytest.approx(2.0)
    assert 1.6 < lower < 2.0


# --- PipeCD -----------------------------------------------------------------------------------------------------------


def test_pipecd_fails_at_the_second_interval_that_differs() -> None:
    worse = rollout([30 + minute % 7 for minute in range(MINUTES)])
    assert seconds(PipeCD().rollback_seconds(worse)) == 600.0


def test_pipecd_takes_an_improvement_for_a_failure_too() -> None:
    better = rollout([0] * MINUTES)
    assert seconds(PipeCD().rollback_seconds(better)) == 600.0


def test_pipecd_takes_a_side_without_points_for_a_failure() -> None:
    assert PipeCD().differs(np.array([]), np.arange(5.0))


def test_mann_whitney_agrees_with_published_values() -> None:
    # R: wilcox.test(c(1.1, 2.2, 3.3, 4.4, 5.5), c(6.1, 7.2, 8.3, 9.4, 10.5), exact = FALSE) gives p = 0.01219.
    one, other = np.array([1.1, 2.2, 3.3, 4.4, 5.5]), np.array([6.1, 7.2, 8.3, 9.4, 10.5])
    assert mann_whitney_p(one, other) == pytest.approx(0.01219, abs=1e-5)
    assert mann_whitney_p(one, one) == 1.0
    assert mann_whitney_p(np.ones(5), np.ones(5)) == 1.0


# --- z-test and quantiles ---------------------------------------------------------------------------------------------


def test_z_test_goes_back_at_the_first_look_that_is_significant() -> None:
    assert seconds(RepeatedZTest().rollback_seconds(rollout([0, 0, 20]))) == 180.0
    assert seconds(RepeatedZTest().rollback_seconds(rollout([0] * MINUTES))) == np.inf


def test_quantile_is_linear_inside_its_bucket() -> None:
    buckets = np.array([0, 100, 0, 0, 0, 0, 0])
    assert float(histogram_quantile(buckets, 0.5)) == pytest.approx(0.075)


def test_quantile_beyond_all_edges_is_the_last_edge_and_without_requests_no_number() -> None:
    assert float(histogram_quantile(np.array([0, 0, 0, 0, 0, 0, 7]), 0.99)) == EDGES[-1]
    assert np.isnan(histogram_quantile(np.zeros(7, dtype=int), 0.99))

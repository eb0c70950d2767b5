"""What a plan says it can see, against what the real judge sees on simulated traffic."""

import math
from bisect import bisect_left
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from canary_release.core.detection import _stakes, detection
from canary_release.core.detection_words import CLUMP, PlanDetection, StepDetection
from canary_release.core.judge import judge
from canary_release.core.mixture import restart_weights
from canary_release.core.noise import Noise
from canary_release.core.plan import make_plan, render_plan
from canary_release.core.problems import FrameError, UnitError
from canary_release.core.release import Check, CheckKind, Direction, Limit, LimitKind, Step
from canary_release.core.service_traffic import ServiceTraffic, read_rate, traffic_of
from canary_release.core.weigh import label
from core.simulated import (
    EDGES,
    ERRORS,
    LATENCY,
    TENTH,
    Traffic,
    latency_shares,
    many_rollouts,
    release_of,
    rollout,
)

CALM = Noise(1.0, 0.0)
CLUMPS_OF_THREE = Noise(5.0, 0.0)
PLAIN = Check("plain", CheckKind.PROPORTION)
RELATIVE = Check("relative", CheckKind.PROPORTION, max_change=TENTH)
ABSOLUTE = Check("absolute", CheckKind.PROPORTION, absolute=Limit(LimitKind.POINTS, 0.008, "0.8%"))
SLOWER = tuple((1.0 - np.cumsum(latency_shares(1.0))[:-1]).tolist())

# Predictions come from means and variances; what is seen differs by up to this factor, and one window.
FACTOR = 1.5


def shop_traffic(rate: float = 1000.0, errors: float = 0.005) -> ServiceTraffic:
    return ServiceTraffic(rate, {"error_rate": (1.0, errors)}, EDGES, SLOWER, instances=10)


def seen(*checks: Check, traffic: ServiceTraffic, noise: Noise | None = CALM, **release: object) -> PlanDetection:
    made = release_of(*checks, **({"poll": 30.0} | release))  # type: ignore[arg-type]
    return detection(made, make_plan(made), traffic, noise)


# --- against the judge ------------------------------------------------------------------------------------------------


def windows_foretold(check: Check, traffic: Traffic, known: ServiceTraffic, noise: Noise, effect: float) -> int:
    """The shortest bake, in windows, whose one step claims to see ``effect``."""

    def claims(windows: int) -> bool:
        (step,) = release_of(check, plan=traffic.plan, bake=windows * traffic.seconds).steps
        release = replace(release_of(check, plan=traffic.plan, poll=traffic.seconds), steps=(step,))
        smallest = detection(release, make_plan(release), known, noise).steps[0].checks[0].smallest
        return smallest is not None and smallest <= effect

    return bisect_left(range(1, traffic.windows + 1), True, key=claims) + 1


@pytest.mark.parametrize(
    ("check", "traffic", "noise"),
    [
        pytest.param(PLAIN, Traffic(100, times=4), CALM, id="no tolerance, few requests"),
        pytest.param(RELATIVE, Traffic(50, 0.02, times=3), CALM, id="10 %, few requests"),
        pytest.param(ERRORS, Traffic(1000, times=3), CALM, id="0.5pp"),
        pytest.param(RELATIVE, Traffic(1000, times=3, clump=3.0), CLUMPS_OF_THREE, id="10 %, clumps of three"),
        pytest.param(ABSOLUTE, Traffic(1000, times=3), CALM, id="an absolute limit"),
    ],
)
def test_judge_finds_nine_of_ten_bad_canaries_about_when_the_plan_said(
    check: Check, traffic: Traffic, noise: Noise
) -> None:
    traffic = replace(traffic, plan=(0.05,), windows=80)
    known = ServiceTraffic(traffic.rate, {"error_rate": (1.0, traffic.errors)}, instances=10, canary_instances=2)
    named = replace(check, metric="error_rate")
    foretold = windows_foretold(named, traffic, known, noise, traffic.errors * (traffic.times - 1.0))
    taken = windows_taken(check, traffic, noise)
    assert foretold / FACTOR - 1 <= after(taken, 0.9) <= foretold * FACTOR + 1


def test_instances_that_were_seen_to_wander_are_expected_to() -> None:
    """So that a calm rollout is over sooner than nine of ten were said to be, and none of these is late."""
    traffic = Traffic(1000, times=4, plan=(0.05,), windows=80)
    known = replace(shop_traffic(), canary_instances=2)
    noise, calm = Noise(3.0, 0.1), Noise(3.0, 0.0)
    noisy, still = (windows_foretold(ERRORS, traffic, known, one, 0.015) for one in (noise, calm))
    assert after(windows_taken(ERRORS, traffic, noise), 0.9) <= noisy
    assert noisy > 1.2 * still


def windows_taken(check: Check, traffic: Traffic, noise: Noise | None, number: int = 100) -> np.ndarray:
    """How many windows the judge takes to roll back each of so many rollouts, infinite where it does not."""
    release, windows = many_rollouts(np.random.default_rng(5), traffic, check, number)
    checks = tuple(replace(one, observe_only=False, critical=False) for one in release.checks)
    per_step = traffic.windows // len(traffic.plan) * traffic.seconds
    steps = tuple(Step(Decimal(str(100 * weight)), per_step) for weight in traffic.plan)
    said = judge(replace(release, poll=traffic.seconds, steps=steps, checks=checks), windows, noise=noise)
    taken = dict.fromkeys((label(one) for one in checks), np.inf)
    for at in range(len(said) - 1, -1, -1):
        taken |= dict.fromkeys(said.failing(at), at + 1.0)
    return np.array(list(taken.values()))


def after(taken: np.ndarray, share: float) -> float:
    return float(np.quantile(taken, share, method="inverted_cdf"))


def test_judge_finds_a_slower_canary_about_when_the_plan_said() -> None:
    traffic = Traffic(100, stretch=1.6, plan=(0.05,), windows=80)
    known = replace(shop_traffic(100), canary_instances=2)
    foretold = windows_foretold(LATENCY, traffic, known, CALM, 0.6)
    release = replace(release_of(LATENCY, plan=traffic.plan, bake=80 * 30.0), poll=30.0)
    rng = np.random.default_rng(6)
    crossed = [judge(release, rollout(rng, traffic), noise=CALM).crossed for _ in range(60)]
    taken = np.array([np.inf if at is None else at + 1 for at in crossed])
    assert foretold / FACTOR - 1 <= after(taken, 0.9) <= FACTOR * foretold + 1


# --- where nothing was learned before ---------------------------------------------------------------------------------


def harm_of(times: float) -> Check:
    """A check of which twice the limit is an error rate that is so many times the usual 0.5 %."""
    points = 0.005 * (times - 1.0) / 2.0
    return Check("error_rate", CheckKind.PROPORTION, max_change=Limit(LimitKind.POINTS, points, f"{100 * points:g}pp"))


def told(rate: float) -> ServiceTraffic:
    return replace(ServiceTraffic.told(rate, 0.005), instances=10, canary_instances=2)


@pytest.mark.parametrize("clump", [1.0, CLUMP])
@pytest.mark.parametrize(
    ("rate", "weight", "times", "windows"),
    [
        (50, 0.01, 20, 120),
        (50, 0.05, 8, 120),
        (50, 0.25, 5, 120),
        (50, 0.5, 4, 200),
        (1000, 0.01, 5, 240),
        (1000, 0.05, 4, 200),
        (1000, 0.25, 5, 60),
        (1000, 0.5, 20, 10),
    ],
)
def test_judge_without_a_past_takes_about_as_long_as_the_plan_said(
    rate: int, weight: float, times: float, windows: int, clump: float
) -> None:
    """Half of the rollouts, and nine of ten; with single errors, and with the clumps that the plan speaks of."""
    check, traffic = harm_of(times), Traffic(rate, times=times, clump=clump, plan=(weight,), windows=windows)
    said = seen(
        check,
        traffic=told(rate),
        noise=None,
        plan=(weight,),
        bake=windows * 30.0,
    )
    (foretold,) = said.whole if clump == 1.0 else said.clumped
    taken = windows_taken(check, traffic, None)
    for seconds, share in ((foretold.usual_seconds, 0.5), (foretold.seconds, 0.9)):
        least, most = sorted((min(seconds / 30.0, 1.5 * windows), min(after(taken, share), 1.5 * windows)))
        assert most <= FACTOR * least + 1, (seconds / 30.0, after(taken, share))


@pytest.mark.parametrize(("rate", "weight"), [(50, 0.05), (50, 0.5), (1000, 0.01), (1000, 0.25)])
def test_step_without_a_past_promises_no_more_than_the_judge_keeps(rate: int, weight: float) -> None:
    """The least that it claims to see is seen in most rollouts; half as far beyond the limit is not."""
    known = told(rate)
    claimed = seen(ERRORS, traffic=known, noise=None, plan=(weight,)).steps[0].checks[0].smallest
    assert claimed is not None

    def caught(effect: float) -> float:
        traffic = Traffic(rate, times=1.0 + effect / 0.005, plan=(weight,), windows=20)
        return float(np.isfinite(windows_taken(ERRORS, traffic, None)).mean())

    assert caught(claimed) >= 0.8
    assert caught(0.5 * (claimed + 0.005)) < 0.8


def test_without_a_past_the_plan_counts_on_learning_that_errors_come_one_by_one() -> None:
    """Noise that is the default but stands for something learned is believed throughout."""
    known = ServiceTraffic.told(50, 0.005)
    learning, believed = (seen(harm_of(5), traffic=known, noise=one, plan=(0.05,)) for one in (None, Noise()))
    assert learning.steps[0].checks[0].usual_seconds < 0.7 * believed.steps[0].checks[0].usual_seconds
    assert "assumes errors that come one by one" in learning.sentences[1]
    assert not believed.clumped
    assert not any("assumes" in line for line in believed.sentences)


def test_plan_says_how_much_longer_clumps_would_take() -> None:
    said = seen(replace(PLAIN, metric="error_rate"), traffic=told(50), noise=None, plan=(0.05,), bake=36_000.0)
    assert said.clumped[0].usual_seconds > 1.5 * said.whole[0].usual_seconds
    assert "where errors come in clumps of 3, error_rate +0.5 pp is usually seen after" in said.sentences[1]


def test_plan_always_says_the_same() -> None:
    first, again = (seen(ERRORS, LATENCY, traffic=shop_traffic(), noise=None) for _ in range(2))
    assert (first.column, first.sentences) == (again.column, again.sentences)


# --- what it says -----------------------------------------------------------------------------------------------------


def test_more_traffic_and_more_weight_see_smaller_harm() -> None:
    few, many = (seen(ERRORS, traffic=shop_traffic(rate)) for rate in (40, 1000))
    leasts = [[step.checks[0].smallest or 1.0 for step in one.steps] for one in (few, many)]
    assert all(low < high for low, high in zip(leasts[1], leasts[0], strict=True))
    assert leasts[0] == sorted(leasts[0], reverse=True)


def test_no_step_claims_to_see_what_the_check_allows() -> None:
    said = seen(ERRORS, LATENCY, traffic=shop_traffic(1e6))
    for step in said.steps:
        assert (step.checks[0].smallest or 1.0) > 0.005
        assert (step.checks[1].smallest or 1.0) > 0.10


def test_step_that_cannot_do_its_job_is_told_with_the_time_it_would_take() -> None:
    said = seen(ERRORS, traffic=shop_traffic(40), plan=(0.01, 1.0))
    (warning,) = said.warnings
    assert warning.startswith(
        "step 1: at 1 % and 40 requests/s this step sees +1 pp of error_rate (twice its limit) in "
    )
    assert "its 10 min cannot (they see +" in warning
    assert said.steps[0].checks[0].seconds > 600


def test_step_that_can_do_its_job_gets_no_warning() -> None:
    assert seen(ERRORS, traffic=shop_traffic(1e5)).warnings == ()


def test_step_whose_requests_cannot_come_in_time_is_told() -> None:
    release = release_of(ERRORS, plan=(0.01,), poll=30.0)
    release = replace(release, steps=(Step(Decimal(1), 600.0, min_requests=500),))
    warnings = detection(release, make_plan(release), shop_traffic(40), CALM).warnings
    assert warnings[0].endswith("the 500 requests it needs take 21 min; its 10 min cannot")


def test_noisier_service_needs_longer() -> None:
    calm, noisy = (seen(ERRORS, traffic=shop_traffic(), noise=noise) for noise in (CALM, Noise(5.0, 0.3)))
    assert noisy.steps[0].checks[0].seconds > 1.5 * calm.steps[0].checks[0].seconds


@pytest.mark.parametrize("weight", [0.05, 0.25, 0.5])
def test_with_so_many_requests_that_instances_alone_decide_the_plan_says_what_the_judge_does(weight: float) -> None:
    known = replace(shop_traffic(20_000), canary_instances=2)
    said, taken = {}, {}
    for wander in (0.22, 0.3):
        noise = Noise(1.5, 40.0 * wander**2, wander)
        said[wander] = seen(harm_of(5), traffic=known, noise=noise, plan=(weight,)).steps[0].checks[0].usual_seconds
        found = windows_taken(harm_of(5), Traffic(20_000, times=5, plan=(weight,), windows=60), noise, 20)
        taken[wander] = after(found, 0.5)
    assert taken[0.22] / FACTOR - 1 <= said[0.22] / 30.0 <= FACTOR * taken[0.22] + 1
    assert taken[0.3] == math.inf, "two standard deviations of what instances do, for half an hour"
    assert said[0.3] / 30.0 > 60


def test_harm_far_beyond_what_instances_do_is_seen_at_once_and_harm_within_it_is_not() -> None:
    calm, noisy = (
        seen(ERRORS, LATENCY, traffic=shop_traffic(20_000), noise=noise) for noise in (CALM, Noise(1.5, 3.6, 0.1))
    )
    for place in range(2):
        smallest = [one.steps[1].checks[place].smallest or math.inf for one in (calm, noisy)]
        assert smallest[0] < smallest[1] < math.inf


def test_whole_plan_costs_what_its_weights_send_to_a_bad_canary() -> None:
    """+1 pp of 4 requests/s for 10 minutes at each of 1, 5 and 25 %, unseen: 24 requests x 0.31."""
    said = seen(ERRORS, traffic=shop_traffic(4), plan=(0.01, 0.05, 0.25))
    assert said.whole[0].seconds == float("inf")
    assert said.whole[0].bad_requests == pytest.approx(4 * 600 * 0.31 * 0.01)
    assert any("gets through the whole plan unseen, with 7 more bad requests" in line for line in said.sentences)


def test_stake_on_each_step_is_the_judges_own() -> None:
    release = release_of(ERRORS, poll=30.0)
    steps = make_plan(release).weight_steps
    own = restart_weights(np.repeat([0, 20, 40, 60], 20), 4, 80)
    assert _stakes(release, steps) == pytest.approx(own[[0, 20, 40, 60]].tolist())


def test_plan_of_months_is_foretold_as_quickly_and_as_well_as_one_of_minutes() -> None:
    """A canary that nobody sees costs the same for every second it has."""
    short, long = (
        seen(ERRORS, traffic=shop_traffic(1e-5), plan=(0.01, 0.05), bake=bake, poll=1.0).whole[0]
        for bake in (1000.0, 100 * 86400.0)
    )
    assert long.bad_requests / short.bad_requests == pytest.approx(8640, rel=1e-3)


def test_plan_that_sees_a_bad_canary_stops_counting_there() -> None:
    said = seen(ERRORS, traffic=shop_traffic(1e4)).whole[0]
    first = seen(ERRORS, traffic=shop_traffic(1e4)).steps[0].checks[0]
    assert said.seconds <= first.seconds
    assert said.bad_requests == pytest.approx(1e4 * 0.01 * 0.01 * said.seconds)


def test_last_step_has_nothing_to_compare_with_but_keeps_an_absolute_limit() -> None:
    relative = replace(RELATIVE, metric="conversions")
    traffic = replace(shop_traffic(), proportions={"error_rate": (1.0, 0.005), "conversions": (0.1, 0.2)})
    last: StepDetection = seen(relative, traffic=traffic, plan=(0.05, 1.0)).steps[-1]
    assert last.text == "all traffic on the canary: nothing to compare with"
    limited = replace(ABSOLUTE, metric="error_rate")
    assert (seen(limited, traffic=traffic, plan=(1.0,)).steps[0].checks[0].smallest or 1.0) < 0.01


def test_gross_errors_are_seen_by_the_breaker_even_without_a_stable_side() -> None:
    assert seen(ERRORS, traffic=shop_traffic(), plan=(1.0,)).steps[0].checks[0].smallest == pytest.approx(0.3, rel=0.05)


def test_fewer_conversions_are_a_harm_and_carry_their_sign() -> None:
    check = Check("conversions", CheckKind.PROPORTION, max_change=TENTH, direction=Direction.HIGHER_IS_BETTER)
    traffic = ServiceTraffic(1000, {"error_rate": (1.0, 0.005), "conversions": (0.1, 0.3)})
    said = seen(check, traffic=traffic, plan=(0.25,)).steps[0]
    assert said.text.startswith("conversions -")
    assert 0.03 < (said.checks[0].smallest or 1.0) < 0.3


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (Check("cpu", CheckKind.VALUE), "its source gives no counts"),
        (LATENCY, "needs latency buckets from a history"),
        (Check("conversions", CheckKind.PROPORTION), "no history of conversions"),
    ],
)
def test_check_that_cannot_be_foretold_is_called_unknown_with_the_reason(check: Check, why: str) -> None:
    said = seen(check, ERRORS, traffic=ServiceTraffic.told(1000, 0.005))
    assert said.steps[0].text.split(", ")[0].endswith(" unknown")
    assert any(line.endswith(f"unknown, {why}") for line in said.sentences)


def test_latency_without_a_quantile_or_with_seconds_is_foretold_too() -> None:
    anywhere = replace(LATENCY, quantile=None)
    in_seconds = replace(LATENCY, max_change=Limit(LimitKind.SECONDS, 0.05, "50ms"))
    below = Check("page_load_time", CheckKind.LATENCY, 0.95, absolute=Limit(LimitKind.SECONDS, 0.5, "500ms"))
    for check, unit in ((anywhere, "%"), (in_seconds, "s"), (below, "%")):
        said = seen(check, traffic=shop_traffic(1e4)).steps[1].checks[0]
        assert said.unit == unit
        assert said.smallest is not None
        assert said.bad_requests > 0


def test_perfect_service_is_foretold_without_dividing_by_nothing() -> None:
    for errors in (0.0, 1.0):
        said = seen(ERRORS, traffic=ServiceTraffic.told(1000, errors))
        assert len(said.column) == 4


def test_table_and_sentences_are_made_for_people() -> None:
    release = release_of(ERRORS, LATENCY, poll=30.0)
    said = detection(release, make_plan(release), shop_traffic(40), None)
    table = render_plan(release, make_plan(release), detects=said.column)
    assert "detects" in table.splitlines()[1]
    assert "error_rate +" in table.splitlines()[2]
    assert said.sentences[0].startswith("detects: for 40 requests/s with 0.5 % errors")


# --- the service's traffic --------------------------------------------------------------------------------------------


def test_traffic_is_read_from_windows_of_both_sides() -> None:
    made = traffic_of(rollout(np.random.default_rng(3), Traffic(200, 0.01)), (ERRORS, LATENCY))
    assert made.rate == pytest.approx(200, rel=0.02)
    assert made.error_rate == pytest.approx(0.01, rel=0.1)
    assert made.slower == pytest.approx(SLOWER, abs=0.01)
    assert (made.instances, made.seconds, made.edges) == (10, 2400.0, EDGES)


def test_broken_windows_and_windows_of_one_side_do_not_count() -> None:
    windows = rollout(np.random.default_rng(3), Traffic(200, 0.01))
    spoilt = [replace(window, broken="a counter fell") for window in windows[:40]]
    blind = [replace(window, stable=None) for window in windows[40:50]]
    assert traffic_of([*spoilt, *blind, *windows[50:]], (ERRORS,)) == traffic_of(windows[50:], (ERRORS,))


def test_history_without_requests_is_refused_in_words() -> None:
    with pytest.raises(FrameError, match="no window with requests"):
        traffic_of([], (ERRORS,))


@pytest.mark.parametrize(("text", "rate"), [("40/s", 40.0), ("2400/min", 40.0), ("3600 / h", 1.0), ("0.5/s", 0.5)])
def test_rates_are_read(text: str, rate: float) -> None:
    assert read_rate(text) == rate


@pytest.mark.parametrize("text", ["40", "0/s", "-1/s", "nan/s", "1e9/s", "", "40/day", "40/s\n\x1b[31m"])
def test_rates_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UnitError, match="is no rate of requests"):
        read_rate(text)

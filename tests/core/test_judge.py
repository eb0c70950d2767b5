"""What the judge says in one situation after the other."""

import json
import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary_release.core.judge import judge
from canary_release.core.noise import Noise
from canary_release.core.problems import ReleaseFileError
from canary_release.core.release import Check, CheckKind, Direction, Limit, LimitKind
from canary_release.core.values import Counts, Verdict, Window
from canary_release.core.wording import odds, percent, table
from core.simulated import EDGES, ERRORS, LATENCY, POINTS, TENTH, Traffic, release_of, rollout

CALM = Noise(1.0, 0.0)


def counted(
    canary: tuple[int, int],
    stable: tuple[int, int],
    number: int = 40,
    weight: float = 0.1,
    **proportions: tuple[int, int],
) -> list[Window]:
    """The same (errors, requests) in every window of ten seconds."""
    c, b = (Counts(requests, errors) for errors, requests in (canary, stable))
    return [Window(10.0 * i, 10.0 * i + 10, b, c, (), None, i, 0, weight) for i in range(number)]


def verdicts(windows: list[Window], *checks: Check, **more: object) -> list[Verdict]:
    return [said.verdict for said in judge(release_of(*checks, plan=(0.1, 1.0)), windows, **more)]  # type: ignore[arg-type]


def test_canary_with_ten_times_the_errors_is_failed_for_good() -> None:
    windows = rollout(np.random.default_rng(1), Traffic(times=20))
    bad, good = windows[:10], rollout(np.random.default_rng(2), Traffic())[10:]
    found = verdicts(bad + good, ERRORS, LATENCY)
    assert found[0] is Verdict.UNDECIDED, "no single window decides"
    assert Verdict.FAIL in found[:4]
    assert set(found[4:]) == {Verdict.FAIL}, "sticky, whatever follows"


def test_failure_names_the_check_the_counts_and_the_evidence() -> None:
    said = judge(release_of(ERRORS, LATENCY), rollout(np.random.default_rng(1), Traffic(times=20)))[-1]
    assert said.blamed == "error_rate"
    for words in (
        "error_rate: canary",
        " vs stable ",
        "× worse",
        "limit +0.5 pp",
        "Certain enough to roll back",
        "needed 200 : 1",
    ):
        assert words in said.sentence
    assert said.p_value < 0.01


def test_counts_of_a_late_failure_start_where_the_harm_began() -> None:
    windows = rollout(np.random.default_rng(3), Traffic(times=8, onset=35))
    said = judge(release_of(ERRORS), windows, noise=Noise(1.3, 0.002))
    crossed = said.crossed
    assert crossed is not None
    assert 35 <= crossed <= 41
    assert "since window 3" in said[crossed].sentence
    change = said[crossed].checks[0].change
    assert change is not None
    assert change > 4


def test_good_canary_passes_when_the_evidence_for_it_is_there() -> None:
    found = judge(release_of(ERRORS, LATENCY), rollout(np.random.default_rng(4), Traffic()), noise=CALM)
    assert found[0].verdict is Verdict.UNDECIDED
    assert found[19].verdict is Verdict.PASS
    assert "passed" in found[19].sentence


def test_canary_with_too_little_traffic_is_undecided_not_passed() -> None:
    assert set(verdicts(counted((0, 1), (3, 100)), ERRORS)) == {Verdict.UNDECIDED}


def test_canary_with_no_traffic_is_no_data() -> None:
    windows = counted((0, 0), (3, 100))
    said = judge(release_of(ERRORS), windows)[-1]
    assert said.verdict is Verdict.NO_DATA
    assert "the canary has had no traffic in this step" in said.checks[0].sentence


def test_canary_that_goes_silent_is_no_data_although_its_step_has_counts() -> None:
    windows = counted((1, 100), (9, 900), 20) + [
        replace(w, canary=Counts(0)) for w in counted((0, 0), (9, 900), 22)[20:]
    ]
    said = judge(release_of(ERRORS), windows)[-1]
    assert said.verdict is Verdict.NO_DATA
    assert "the canary has gone silent" in said.checks[0].sentence


def test_rare_requests_are_not_silence() -> None:
    windows = [replace(w, canary=Counts(1 if w.index % 3 == 0 else 0)) for w in counted((0, 0), (0, 20), 30)]
    assert Verdict.NO_DATA not in verdicts(windows, ERRORS)


@pytest.mark.parametrize("side", ["canary", "stable"])
def test_side_that_could_not_be_read_is_no_data_and_harms_nobody(side: str) -> None:
    windows = [replace(w, **{side: None}) for w in counted((50, 100), (0, 900))]
    said = judge(release_of(ERRORS), windows)[-1]
    assert said.verdict is Verdict.NO_DATA
    assert said.evidence == pytest.approx(1.0)
    assert f"{side} could not be read" in said.checks[0].sentence


def test_broken_windows_are_skipped_and_say_why() -> None:
    windows = [replace(w, broken="a counter went backwards") for w in counted((50, 100), (0, 900))]
    said = judge(release_of(ERRORS), windows)[-1]
    assert said.verdict is Verdict.NO_DATA
    assert "a counter went backwards" in said.checks[0].sentence


def test_missing_latency_alone_keeps_the_rollout_from_passing() -> None:
    windows = [
        replace(w, canary=replace(w.canary, buckets=()), stable=replace(w.stable, buckets=()))  # type: ignore[type-var]
        for w in rollout(np.random.default_rng(4), Traffic())
    ]
    said = judge(release_of(ERRORS, LATENCY), windows, noise=CALM)
    assert {one.verdict for one in said} == {Verdict.NO_DATA}
    assert "page_load_time p95" in said[-1].sentence
    assert (
        "the metric source gives no" in said[-1].checks[1].sentence or "no usable counts" in said[-1].checks[1].sentence
    )


def test_incident_that_hits_both_sides_is_not_blamed_on_the_canary() -> None:
    calm = counted((1, 1000), (9, 9000), 20)
    storm = [replace(w, canary=Counts(1000, 300), stable=Counts(9000, 2700)) for w in counted((0, 1), (0, 1), 60)[20:]]
    assert Verdict.FAIL not in verdicts(calm + storm, ERRORS, noise=CALM)


def test_better_canary_never_fails() -> None:
    assert Verdict.FAIL not in verdicts(counted((0, 1000), (300, 9000), 100), ERRORS, noise=CALM)


def test_breaker_takes_a_canary_off_that_fails_a_quarter_of_its_requests_even_without_an_error_check() -> None:
    slow = replace(LATENCY, observe_only=True)
    said = judge(release_of(slow), counted((60, 100), (1, 900)))
    assert said[0].verdict is not Verdict.FAIL, "60 errors may be ten clumps"
    assert said[1].verdict is Verdict.FAIL
    assert said[1].blamed == "error_rate"
    assert "a quarter or more" in said[1].sentence
    both = verdicts(counted((60, 100), (500, 900)), slow)
    assert Verdict.FAIL not in both, "stable fails as often"


def test_fewer_conversions_fail_and_more_do_not() -> None:
    fewer = Check(
        "sales",
        CheckKind.PROPORTION,
        max_change=Limit(LimitKind.RELATIVE, 0.05, "5%"),
        direction=Direction.HIGHER_IS_BETTER,
    )
    for sold, expected in ((10, Verdict.FAIL), (30, None), (90, None)):
        windows = [
            replace(
                w,
                canary=Counts(1000, 0, proportions={"sales": (sold, 1000)}),
                stable=Counts(9000, 0, proportions={"sales": (270, 9000)}),
            )
            for w in counted((0, 1), (0, 1), 60)
        ]
        found = verdicts(windows, fewer, noise=CALM)
        assert (Verdict.FAIL in found) is (expected is Verdict.FAIL)


def test_success_rate_is_judged_on_its_failures() -> None:
    success = Check("success", CheckKind.PROPORTION, max_change=POINTS, direction=Direction.HIGHER_IS_BETTER)
    windows = [
        replace(
            w,
            canary=Counts(1000, 0, proportions={"success": (970, 1000)}),
            stable=Counts(9000, 0, proportions={"success": (8955, 9000)}),
        )
        for w in counted((0, 1), (0, 1), 20)
    ]
    said = judge(release_of(success), windows, noise=CALM)
    assert said.crossed is not None
    assert said.crossed <= 6


@pytest.mark.parametrize(
    ("canary", "stable", "fails"),
    [((30, 1000), (9, 9000), True), ((8, 1000), (1, 9000), False), ((30, 1000), (270, 9000), False)],
)
def test_absolute_limit_fails_a_canary_beyond_it_unless_stable_is_there_too(
    canary: tuple[int, int], stable: tuple[int, int], fails: bool
) -> None:
    limit = Check("error_rate", CheckKind.PROPORTION, absolute=Limit(LimitKind.RELATIVE, 0.01, "1%"))
    assert (Verdict.FAIL in verdicts(counted(canary, stable, 80), limit, noise=CALM)) is fails


def test_absolute_limit_still_holds_when_all_traffic_is_on_the_canary() -> None:
    limit = Check("error_rate", CheckKind.PROPORTION, absolute=Limit(LimitKind.RELATIVE, 0.01, "1%"))
    bad = [replace(w, stable=Counts(0)) for w in counted((50, 1000), (0, 0), weight=1.0)]
    good = [replace(w, stable=None) for w in counted((1, 1000), (0, 0), weight=1.0)]
    assert Verdict.FAIL in verdicts(bad, limit, noise=CALM)
    assert verdicts(good, limit, noise=CALM)[-1] is Verdict.PASS


def test_comparison_is_undecided_not_blind_when_all_traffic_is_on_the_canary() -> None:
    windows = [replace(w, stable=Counts(0)) for w in counted((5, 1000), (0, 0), weight=1.0)]
    said = judge(release_of(ERRORS), windows)[-1]
    assert said.verdict is Verdict.UNDECIDED
    assert "no stable to compare with" in said.checks[0].sentence


def test_absolute_latency_limit_is_read_at_the_next_bucket_edge_above_it() -> None:
    limit = Check("page_load_time", CheckKind.LATENCY, quantile=0.95, absolute=Limit(LimitKind.SECONDS, 0.4, "400ms"))
    slow = rollout(np.random.default_rng(5), Traffic(stretch=2.0))
    fine = rollout(np.random.default_rng(5), Traffic())
    assert Verdict.FAIL in verdicts(slow, limit, noise=CALM)
    assert Verdict.FAIL not in verdicts(fine, limit, noise=CALM)
    beyond = replace(limit, absolute=Limit(LimitKind.SECONDS, 10.0, "10s"))
    unseen = judge(release_of(beyond), fine)[-1]
    assert unseen.verdict is Verdict.NO_DATA
    assert "no latency bucket reaches up to the limit of 10s" in unseen.checks[0].sentence


def test_few_requests_say_how_slow_the_canary_is_at_the_least_but_not_at_the_most() -> None:
    """Its 95th percentile may lie beyond the slowest of forty requests, and nobody knows how far."""
    fast = (0, 30, 10, 0, 0, 0, 0)
    stable, canary = Counts(4000, 0, tuple(100 * of for of in fast)), Counts(40, 0, fast)
    few = judge(release_of(LATENCY), [Window(0.0, 30.0, stable, canary, EDGES, None, 0, 0, 0.01)], noise=CALM)[-1]
    (said,) = few.checks
    assert said.high == math.inf
    assert "(95 % interval -20 % or more)" in said.sentence
    assert "-20 % or more" in table(few).splitlines()[4]
    assert few.to_json()["checks"][0]["high"] is None
    many = replace(canary, requests=4000, buckets=stable.buckets)
    assert "(95 % interval -4 % to +4 %)" in judge(
        release_of(LATENCY), [Window(0.0, 30.0, stable, many, EDGES, None, 0, 0, 0.5)], noise=CALM
    )[-1].checks[0].sentence  # fmt: skip


def test_single_values_fail_after_enough_windows_and_not_before() -> None:
    check = Check("p99", CheckKind.VALUE, max_change=TENTH)
    windows = [
        replace(w, canary=Counts(10, values={"p99": 0.9}), stable=Counts(90, values={"p99": 0.5}))
        for w in counted((0, 1), (0, 1), 30)
    ]
    said = judge(release_of(check), windows)
    assert said.crossed is not None
    assert said.crossed >= 7, "100 : 1 is more than six fair coins"
    level = [replace(w, canary=Counts(10, values={"p99": 0.51})) for w in windows]
    assert verdicts(level, check)[-1] is Verdict.PASS


def test_observed_check_is_shown_and_never_acts() -> None:
    watched = replace(ERRORS, observe_only=True)
    said = judge(release_of(watched, LATENCY), rollout(np.random.default_rng(1), Traffic(times=20)))
    assert said.crossed is None
    assert said[-1].checks[0].verdict is Verdict.FAIL
    assert said[-1].checks[0].needed == pytest.approx(100.0), "it takes no part of alpha"
    assert said[-1].checks[1].needed == pytest.approx(100.0)
    assert "only observed" in said[-1].checks[0].sentence


def test_check_that_is_not_critical_holds_without_rolling_back() -> None:
    tame = replace(ERRORS, critical=False)
    said = judge(release_of(tame, LATENCY), rollout(np.random.default_rng(1), Traffic(times=20)))
    assert said.crossed is None
    assert said[-1].verdict is Verdict.UNDECIDED
    assert said.failing(79) == ("error_rate",)


def test_order_of_the_checks_changes_nothing() -> None:
    checks = (ERRORS, LATENCY, replace(LATENCY, quantile=0.5, share=3.0))
    windows = rollout(np.random.default_rng(6), Traffic(times=3, stretch=1.2))
    expected = judge(release_of(*checks), windows)
    for order in permutations(range(3)):
        found = judge(release_of(*(checks[place] for place in order)), windows)
        assert found.evidence == pytest.approx(expected.evidence, rel=1e-9)
        assert [found.verdict(at) for at in range(80)] == [expected.verdict(at) for at in range(80)]
        assert [found[-1].checks[order.index(place)] for place in range(3)] == list(expected[-1].checks)


def test_judgement_does_not_depend_on_what_comes_later() -> None:
    windows = rollout(np.random.default_rng(7), Traffic(times=3, onset=20))
    whole = judge(release_of(ERRORS, LATENCY), windows)
    for length in (1, 2, 17, 45):
        until = judge(release_of(ERRORS, LATENCY), windows[:length])[-1]
        assert until.evidence == pytest.approx(whole[length - 1].evidence, rel=1e-9)
        assert until.verdict is whole[length - 1].verdict
        assert until.sentence == whole[length - 1].sentence


def test_no_windows_give_no_judgements() -> None:
    assert list(judge(release_of(ERRORS), [])) == []


def test_limit_that_a_check_cannot_have_is_refused_with_a_sentence() -> None:
    wrong = replace(ERRORS, max_change=Limit(LimitKind.SECONDS, 0.05, "50ms"))
    with pytest.raises(ReleaseFileError, match=r"error_rate: '50ms' is no change of a proportion: write 10% or 0\.5pp"):
        judge(release_of(wrong), counted((1, 100), (1, 900)))


WILD = st.one_of(
    st.integers(-(10**20), -1), st.just(math.nan), st.just(math.inf), st.integers(10**13, 10**30), st.just(0.5)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WILD, WILD, st.integers(0, 5)), min_size=1, max_size=6), st.booleans())
def test_impossible_counts_never_pass_and_never_fail(cells: list[tuple[float, float, int]], on_canary: bool) -> None:
    windows = []
    for at, (requests, errors, edge) in enumerate(cells):
        wild = Counts(requests, errors, tuple(errors if place == edge else 3 for place in range(7)))  # type: ignore[arg-type]
        sound = Counts(1000, 5, (0, 300, 500, 150, 40, 8, 2))
        canary, stable = (wild, sound) if on_canary else (sound, wild)
        windows.append(Window(at * 10.0, at * 10.0 + 10, stable, canary, EDGES, None, at, 0, 0.1))
    for said in judge(release_of(ERRORS, LATENCY), windows):
        assert said.verdict is Verdict.NO_DATA
        assert "Infinity" not in json.dumps(said.to_json(), allow_nan=False)


@pytest.mark.parametrize("side", ["canary", "stable", "both"])
def test_errors_and_requests_exchanged_are_no_data_never_a_verdict(side: str) -> None:
    sound, exchanged = Counts(1000, 5, ()), Counts(5, 1000, ())
    canary = exchanged if side != "stable" else sound
    stable = exchanged if side != "canary" else sound
    windows = [Window(10.0 * at, 10.0 * at + 10, stable, canary, (), None, at, 0, 0.1) for at in range(30)]
    for said in judge(release_of(ERRORS), windows):
        assert said.verdict is Verdict.NO_DATA


def test_judgement_is_json_with_finite_numbers() -> None:
    windows = rollout(np.random.default_rng(1), Traffic(times=60))
    value = judge(release_of(ERRORS, LATENCY), windows)[-1].to_json()
    again = json.loads(json.dumps(value, allow_nan=False))
    assert again["verdict"] == "fail"
    assert again["checks"][0]["kind"] == "proportion"


def test_table_is_aligned_and_fits_a_log() -> None:
    text = table(judge(release_of(ERRORS, LATENCY), rollout(np.random.default_rng(1), Traffic(times=20)))[-1])
    lines = text.splitlines()
    body = [line for line in lines if "│" in line]
    assert len(body) == 3
    assert len({line.index("│") for line in body}) == 1
    assert len({len(line) for line in body}) == 1
    assert len(body[0]) <= 140
    assert "FAIL" in lines[0]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.039, "3.90 %"), (0.0041, "0.410 %"), (0.412, "41.2 %"), (1.0, "100 %"), (0.0, "0 %"), (4.12e-6, "0.000412 %")],
)
def test_shares_are_written_with_three_figures(share: float, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(
    ("evidence", "text"),
    [(4123, "4,100 : 1"), (0.34, "0.34 : 1"), (1e9, "over 1,000,000 : 1"), (0.0, "under 0.01 : 1"), (100, "100 : 1")],
)
def test_evidence_is_written_as_odds(evidence: float, text: str) -> None:
    assert odds(evidence) == text


def test_nothing_passes_while_evidence_of_harm_is_growing() -> None:
    """Half as slow again is little harm at 5 %, so it may count as safe enough there; that is no reason to go on."""
    said = judge(release_of(LATENCY), rollout(np.random.default_rng(1), Traffic(stretch=1.5)))
    assert said.crossed is not None
    doubted = [one.checks[0] for one in said[: said.crossed] if one.checks[0].evidence >= 5]
    assert doubted
    assert all(check.verdict is Verdict.UNDECIDED for check in doubted)

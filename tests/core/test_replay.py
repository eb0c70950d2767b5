"""Decisions, one by one and over a whole recorded rollout."""

import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from canary_release.core.decide import Facts, decide, decide_on
from canary_release.core.frames import frame_from_windows
from canary_release.core.judge import judge
from canary_release.core.noise import Noise
from canary_release.core.release import Step, WhenUndecided
from canary_release.core.replay import COLUMNS, replay
from canary_release.core.values import Decision, Verdict
from core.simulated import ERRORS, LATENCY, Traffic, release_of, rollout

STEP = Step(Decimal(5), bake=600.0)
LAST = Step(Decimal(50), bake=600.0)


def decided(verdict: Verdict, *, step: Step = STEP, at: int | None = 0, release: Any = None, **facts: Any) -> Decision:
    known = Facts(**({"verdict": verdict, "sentence": "so it is.", "baked": 600.0, "requests": 1000} | facts))
    ruling = decide_on(release or release_of(ERRORS), [step, LAST], at, known)
    assert ruling.reason.endswith((".", "needed"))
    assert "so it is" in ruling.reason
    return ruling.decision


@pytest.mark.parametrize("at", [0, 1, None])
def test_fail_rolls_back_before_anything_else(at: int | None) -> None:
    assert decided(Verdict.FAIL, at=at, baked=1.0, requests=0, blind=1e6) is Decision.ROLL_BACK


def test_pass_after_the_bake_advances_and_on_the_last_step_promotes() -> None:
    assert decided(Verdict.PASS) is Decision.ADVANCE
    assert decided(Verdict.PASS, at=1) is Decision.PROMOTE


@pytest.mark.parametrize(
    ("policy", "decision"),
    [
        (WhenUndecided.ADVANCE, Decision.ADVANCE),
        (WhenUndecided.HOLD, Decision.HOLD),
        (WhenUndecided.EXTEND, Decision.HOLD),
        (WhenUndecided.ROLL_BACK, Decision.ROLL_BACK),
    ],
)
def test_undecided_after_the_bake_follows_the_step(policy: WhenUndecided, decision: Decision) -> None:
    step = replace(STEP, when_undecided=policy, extend_up_to=300.0)
    assert decided(Verdict.UNDECIDED, step=step) is decision
    assert decided(Verdict.UNDECIDED, step=step, baked=599.0) is Decision.HOLD


def test_extension_that_is_over_waits_for_a_person() -> None:
    step = replace(STEP, when_undecided=WhenUndecided.EXTEND, extend_up_to=300.0)
    facts = Facts(Verdict.UNDECIDED, "", 900.0, 1000)
    assert "a person decides" in decide_on(release_of(ERRORS), [step, LAST], 0, facts).reason


def test_undecided_step_that_leans_towards_harm_bakes_once_more_and_then_waits_for_a_person() -> None:
    leaning = Facts(Verdict.UNDECIDED, "so it is.", 600.0, 1000, leaning=("error_rate",))
    for policy, longest in ((WhenUndecided.ADVANCE, 1200.0), (WhenUndecided.EXTEND, 900.0)):
        step = replace(STEP, when_undecided=policy, extend_up_to=900.0)
        rulings = [
            decide_on(release_of(ERRORS), [step, LAST], 0, replace(leaning, baked=baked))
            for baked in (600.0, longest - 1.0, longest)
        ]
        assert {ruling.decision for ruling in rulings} == {Decision.HOLD}
        assert f"extended from 600 up to {longest:g} s: error_rate leans towards harm (5 : 1" in rulings[1].reason
        assert "a person decides" in rulings[2].reason


@pytest.mark.parametrize("baked", [700.0, 1200.0, 5000.0])
def test_undecided_step_advances_as_soon_as_it_no_longer_leans(baked: float) -> None:
    assert decided(Verdict.UNDECIDED, baked=baked) is Decision.ADVANCE


def test_lean_that_passes_within_the_bake_costs_no_time() -> None:
    assert decided(Verdict.PASS, baked=60.0) is Decision.ADVANCE


@pytest.mark.parametrize("policy", list(WhenUndecided))
def test_check_that_is_not_critical_holds_whatever_the_policy_and_how_long(policy: WhenUndecided) -> None:
    step = replace(STEP, when_undecided=policy, extend_up_to=900.0)
    assert decided(Verdict.UNDECIDED, step=step, baked=1e5, failing=("error_rate",)) is Decision.HOLD


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.UNDECIDED])
def test_reason_to_hold_is_stronger_than_any_policy(verdict: Verdict) -> None:
    step = replace(STEP, when_undecided=WhenUndecided.ROLL_BACK)
    assert decided(verdict, step=step, holds=("so it is.",)) is Decision.HOLD


def test_slightly_worse_canary_is_not_advanced_over_an_unfinished_doubt() -> None:
    """Half as many errors again: at some bake's end the evidence leans, and the step must not go on then."""
    release = release_of(ERRORS, plan=(0.25, 1.0), bake=300.0)
    leant = 0
    for seed in range(12):
        windows = rollout(np.random.default_rng(seed), Traffic(rate=150.0, times=2.6, windows=30, plan=(0.25,)))
        judgements = judge(release, windows, noise=Noise(1.2, 0.01))
        steps = [step for step in release.steps if isinstance(step, Step)]
        for at in range(9, 20):
            if judgements.leaning(at) and judgements.verdict(at) is Verdict.UNDECIDED:
                leant += 1
                assert decide(release, steps, 0, windows[: at + 1], judgements[: at + 1]).decision is Decision.HOLD
    assert leant > 0, "the story needs a doubt"


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.UNDECIDED])
def test_too_few_requests_hold_however_long_it_was_baked(verdict: Verdict) -> None:
    step = replace(STEP, min_requests=1001)
    assert decided(verdict, step=step, baked=1e5) is Decision.HOLD
    assert decided(verdict, step=step, requests=1001) is Decision.ADVANCE


def test_pass_ends_a_bake_early_unless_the_plan_says_otherwise() -> None:
    assert decided(Verdict.PASS, baked=60.0) is Decision.ADVANCE
    assert decided(Verdict.PASS, baked=60.0, step=replace(STEP, min_bake=61.0)) is Decision.HOLD
    assert decided(Verdict.PASS, baked=60.0, step=replace(STEP, min_requests=1001)) is Decision.HOLD
    assert decided(Verdict.PASS, baked=60.0, release=release_of(ERRORS, early_promotion=False)) is Decision.HOLD


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("baked", [0.0, 600.0, 1e7])
def test_no_data_never_promotes(at: int, baked: float) -> None:
    assert decided(Verdict.NO_DATA, at=at, baked=baked, blind=599.0) is Decision.HOLD
    assert decided(Verdict.NO_DATA, at=at, baked=baked, blind=600.0) is Decision.ROLL_BACK
    patient = release_of(ERRORS, on_no_data="hold")
    assert decided(Verdict.NO_DATA, at=at, baked=baked, blind=1e6, release=patient) is Decision.HOLD


def test_weight_that_is_none_of_the_plans_is_never_raised() -> None:
    assert decided(Verdict.PASS, at=None) is Decision.HOLD


def test_failed_check_that_is_not_critical_waits_for_a_person() -> None:
    assert decided(Verdict.UNDECIDED, failing=("error_rate",)) is Decision.HOLD


def test_step_without_windows_holds() -> None:
    release, windows = release_of(ERRORS), rollout(np.random.default_rng(1), Traffic())[:5]
    steps = [step for step in release.steps if isinstance(step, Step)]
    assert decide(release, steps, 2, windows, judge(release, windows)).decision is Decision.HOLD


def test_decisions_of_a_replay_are_those_of_the_rollout() -> None:
    release = release_of(ERRORS, LATENCY)
    windows = rollout(np.random.default_rng(2), Traffic(times=6, onset=50))
    windows[22:25] = [replace(window, canary=None) for window in windows[22:25]]
    said = replay(release, frame_from_windows(windows))
    steps = [step for step in release.steps if isinstance(step, Step)]
    judgements = judge(release, windows)
    assert list(said.columns) == COLUMNS
    for at in range(0, 80, 3):
        ruling = decide(release, steps, windows[at].step, windows[: at + 1], judgements[: at + 1])
        row = said.iloc[at]
        assert (row.decision, row.reason) == (ruling.decision, ruling.reason)
        assert row.verdict == judgements[at].verdict
        assert row.evidence == pytest.approx(judgements[at].evidence)
    assert said.decision.iloc[-1] == "roll_back"
    assert (said.verdict.iloc[22:25] == "no_data").all()


def test_replaying_twice_gives_the_same_answer() -> None:
    table = frame_from_windows(rollout(np.random.default_rng(3), Traffic(times=3)))
    first, second = (replay(release_of(ERRORS, LATENCY), table) for _ in range(2))
    assert first.equals(second)


def test_other_weights_are_judged_but_never_raised() -> None:
    good, bad = (
        frame_from_windows(rollout(np.random.default_rng(4), Traffic(times=t, plan=(0.02, 0.07)))) for t in (1, 20)
    )
    assert set(replay(release_of(ERRORS, LATENCY), good).decision) == {"hold"}
    assert set(replay(release_of(ERRORS, LATENCY), bad).decision) == {"hold", "roll_back"}


def test_empty_record_replays_to_nothing() -> None:
    assert replay(release_of(ERRORS), frame_from_windows([])).empty


def test_page_about_the_python_function_does_what_it_says(tmp_path: Path) -> None:
    root, said = Path(__file__).parents[2], tmp_path / "said.csv"
    code = (root / "docs" / "judge-from-python.md").read_text().split("```python\n")[1].split("```")[0]
    code += f"\nsaid.to_csv({str(said)!r}, index=False)\n"
    run = [sys.executable, "-c", code]
    ended = subprocess.run(run, env={"PYTHONPATH": str(root / "plugins")}, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "error_rate" in ended.stdout
    table = pd.read_csv(said)
    assert list(table.columns) == ["window", "decision", "verdict", "evidence", "reason"]
    assert len(table) == 40
    assert table["decision"].eq("roll_back").idxmax() < 10


def test_tables_are_left_as_they_were_and_calls_know_nothing_of_each_other() -> None:
    """An independent simulation may call it in any order, with its own tables."""
    rng = np.random.default_rng(5)
    good, bad = (frame_from_windows(rollout(rng, Traffic(times=times, windows=24))) for times in (1.0, 8.0))
    before = good.copy(deep=True)
    release = release_of(ERRORS, LATENCY)
    first = replay(release, good)
    replay(release, bad)
    shuffled = good.sample(frac=1.0, random_state=1)
    pd.testing.assert_frame_equal(replay(release, shuffled), first)
    pd.testing.assert_frame_equal(good, before)

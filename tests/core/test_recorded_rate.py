"""Once the canary has all of the traffic it is held against the rate that stable had before, with allowances."""

from collections.abc import Sequence

import numpy as np
import pytest

from canary_release.core.judge_state import JudgeState
from canary_release.core.judgement import Judgement
from canary_release.core.release import Check, CheckKind, Limit, LimitKind
from canary_release.core.values import Counts, Verdict, Window
from control.world import a_release

CHECK = Check("error_rate", CheckKind.PROPORTION, max_change=Limit(LimitKind.POINTS, 0.005, "0.5pp"))
RELEASE = a_release(50, 100, bake=300.0, checks=(CHECK,))
SECONDS, RATE = 10.0, 200.0
BEFORE, AFTER = 30, 60  # windows at one half of the traffic, and with all of it


def windows(rates: Sequence[float], seed: int) -> list[Window]:
    """Half of the traffic each, then all on the canary. rates: errors of the service, window by window."""
    rng = np.random.default_rng(seed)
    made = []
    for index, rate in enumerate(rates):
        step = int(index >= BEFORE)
        share = 1.0 if step else 0.5
        sides = [rng.poisson(RATE * SECONDS * of) for of in (1.0 - share, share)]
        stable, canary = (Counts(int(n), int(rng.binomial(n, rate)), instances=4) for n in sides)
        start = index * SECONDS
        made.append(Window(start, start + SECONDS, stable, canary, index=index, step=step, weight=share))
    return made


def last(rates: Sequence[float], seed: int = 1) -> Judgement:
    return list(JudgeState(RELEASE).fold(windows(rates, seed)))[-1]


def test_errors_that_begin_with_all_the_traffic_take_the_canary_back() -> None:
    said = last([0.002] * BEFORE + [0.06] * 6)
    assert said.verdict is Verdict.FAIL
    assert said.step == 1
    assert "no stable to compare with but what it had before" in said.sentence


@pytest.mark.parametrize("worse", [1.0, 1.5, 2.0])
def test_service_that_gets_somewhat_worse_by_itself_is_not_taken_back(worse: float) -> None:
    rates = [0.01] * BEFORE + [0.01 * worse] * AFTER
    failed = [seed for seed in range(60) if last(rates, seed).verdict is Verdict.FAIL]
    assert failed == []


def test_daily_wave_over_the_last_step_is_not_taken_for_harm() -> None:
    wave = [0.01 * (1.0 + 0.5 * np.sin(2 * np.pi * index / (BEFORE + AFTER))) for index in range(BEFORE + AFTER)]
    failed = [seed for seed in range(60) if last(wave, seed).verdict is Verdict.FAIL]
    assert failed == []


def test_folding_one_by_one_gives_the_same_as_all_at_once() -> None:
    rates = [0.002] * BEFORE + [0.004] * 5 + [0.05] * 4
    made = windows(rates, 3)
    at_once, one_by_one = JudgeState(RELEASE), JudgeState(RELEASE)
    whole = list(at_once.fold(made))
    for window in made:
        piece = one_by_one.fold([window])
    assert list(piece) == whole


def test_version_that_was_never_beside_stable_is_held_against_nothing_but_the_breaker() -> None:
    alone = [
        window.placed(index=place, step=1, weight=1.0) for place, window in enumerate(windows([0.05] * 40, 5)[30:])
    ]
    assert list(JudgeState(RELEASE).fold(alone))[-1].verdict is not Verdict.FAIL

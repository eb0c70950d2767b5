"""A day at one weight: a canary that stays as it is must not be rolled back by what the filter's places leave out."""

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pytest

from canary_release.core.judge import judge
from canary_release.core.judge_state import JudgeState
from canary_release.core.noise import Noise
from canary_release.core.release import Check, CheckKind, Limit, LimitKind, Release, Step
from canary_release.core.values import Counts, Window
from core.simulated import EDGES, NOWHERE

DAY = 86_400.0
BUCKETS = np.array([0.04, 0.36, 0.55, 0.04, 0.008, 0.001, 0.001])
INSTANCES = [(None, None), (2, 4), (2, 12), (8, 40)]


def limited(kind: LimitKind, amounts: Sequence[float]) -> list[Limit]:
    unit = "pp" if kind is LimitKind.POINTS else "%"
    return [Limit(kind, float(amount), f"{100 * amount:.3g}{unit}") for amount in amounts]


CHECKS = (
    *(Check("error_rate", CheckKind.PROPORTION, max_change=each)
      for each in (*limited(LimitKind.RELATIVE, np.linspace(0.0, 1.2, 25)),
                   *limited(LimitKind.POINTS, np.linspace(0.0, 0.006, 13)))),
    *(Check("page_load_time", CheckKind.LATENCY, 0.95, each)
      for each in limited(LimitKind.RELATIVE, np.linspace(0.0, 0.3, 13))),
)  # fmt: skip


def constant(rate: float, instances: tuple[int | None, int | None], seconds: float, number: int) -> list[Window]:
    """Windows at 50 % in which both sides have exactly 0.5 % errors and the same latency; no chance at all."""

    def side(k: int | None) -> Counts:
        of = round(rate * seconds / 2)
        buckets = np.round(BUCKETS / BUCKETS.sum() * of).astype(int)
        buckets[2] += of - buckets.sum()
        return Counts(of, round(of * 0.005), tuple(buckets.tolist()), k)

    canary, stable = (side(k) for k in instances)
    return [Window(seconds * at, seconds * (at + 1), stable, canary, EDGES, None, at, 0, 0.5) for at in range(number)]


def day_release(checks: Sequence[Check], seconds: float) -> Release:
    steps = (Step(Decimal(50), DAY), Step(Decimal(100), 600.0))
    return Release("shop", NOWHERE, ("blue", "green"), NOWHERE, steps, tuple(checks), poll=seconds)


def growth(windows: list[Window], seconds: float, noise: Noise | None) -> np.ndarray:
    """By how much the evidence of each check grows a window, once it is as it stays, (C,)."""
    state = JudgeState(day_release(CHECKS, seconds), noise)
    halves = [state.fold(windows[: len(windows) // 2])[-1], state.fold(windows[len(windows) // 2 :])[-1]]
    before, after = (np.log([check.evidence for check in half.checks]) for half in halves)
    return np.asarray((after - before) / (len(windows) // 2))


@pytest.mark.parametrize("instances", INSTANCES, ids=str)
@pytest.mark.parametrize("rate", [1_000.0, 30_000.0])
@pytest.mark.parametrize("deviation", [None, 0.1, 0.3], ids=["nothing known", "wander 10 %", "wander 30 %"])
def test_evidence_against_a_canary_that_is_the_same_never_grows(
    rate: float, instances: tuple[int | None, int | None], deviation: float | None
) -> None:
    noise = None if deviation is None else Noise(1.05, 40.0 * deviation**2, deviation)
    seconds = 10.0 if deviation is None else 30.0
    assert growth(constant(rate, instances, seconds, 400), seconds, noise).max() < 0.001


@pytest.mark.parametrize("at_the_limit", [False, True], ids=["the same as stable", "at its limit"])
def test_canary_within_its_limit_outlives_half_a_day_of_dense_traffic(at_the_limit: bool) -> None:
    """All of forty that were the same were once rolled back within 12 h, and half of those exactly at the limit."""
    limit = Limit(LimitKind.POINTS, 0.005, "0.5pp") if at_the_limit else Limit(LimitKind.RELATIVE, 0.1, "10%")
    check = Check("error_rate", CheckKind.PROPORTION, max_change=limit)
    rate, sizes = (1_000.0, (None, None)) if at_the_limit else (10_000.0, (2, 12))
    rng = np.random.default_rng(7)
    for _ in range(4):
        canary, stable = (
            [Counts(int(of), int(rng.binomial(of, chance)), (), size) for of in rng.poisson(15.0 * rate, 1440)]
            for chance, size in zip((0.01 if at_the_limit else 0.005, 0.005), sizes, strict=True)
        )
        windows = [
            Window(30.0 * at, 30.0 * (at + 1), b, c, (), None, at, 0, 0.5)
            for at, (c, b) in enumerate(zip(canary, stable, strict=True))
        ]
        assert judge(day_release([check], 30.0), windows).crossed is None

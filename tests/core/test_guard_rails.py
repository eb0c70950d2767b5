"""What holds a rollout without blaming the canary, and what ends it without statistics."""

from dataclasses import replace

import numpy as np
import pytest

from canary_release.core.decide import decide
from canary_release.core.judge import judge
from canary_release.core.noise import Noise
from canary_release.core.release import Check, CheckKind, Limit, LimitKind, Step, WhenUndecided
from canary_release.core.values import Counts, Decision, Verdict, Window
from core.simulated import ERRORS, release_of

CALM = Noise(1.0, 0.0)
PLAN = (0.05, 0.25, 1.0)
LIMIT = Check("error_rate", CheckKind.PROPORTION, absolute=Limit(LimitKind.RELATIVE, 0.01, "1%"))


def traffic(
    shares: list[float], weight: float = 0.05, errors: tuple[float, float] = (0.002, 0.002), rate: int = 6000
) -> list[Window]:
    """Windows of ten seconds in which the canary gets these shares; errors: of canary and stable."""
    made = []
    for at, share in enumerate(shares):
        canary = round(rate * share)
        sides = [Counts(of, round(of * bad)) for of, bad in ((canary, errors[0]), (rate - canary, errors[1]))]
        made.append(Window(10.0 * at, 10.0 * at + 10, sides[1], sides[0], (), None, at, 0, weight))
    return made


def decision(windows: list[Window], *checks: Check, **changes: object) -> tuple[Decision, str]:
    release = release_of(*checks, plan=PLAN, bake=200.0)
    steps = [replace(step, **changes) for step in release.steps if isinstance(step, Step)]  # type: ignore[arg-type]
    ruling = decide(release, steps, 0, windows, judge(release, windows, noise=CALM))
    return ruling.decision, ruling.reason


@pytest.mark.parametrize("share", [0.10, 0.02, 0.0])
def test_balancer_that_splits_otherwise_than_asked_holds_the_rollout_and_says_so(share: float) -> None:
    windows = traffic([share or 0.0001] * 30)
    held, why = decision(windows, ERRORS)
    assert held is Decision.HOLD
    assert "the load balancer does not split as configured" in why
    said = judge(release_of(ERRORS, plan=PLAN), windows, noise=CALM)[-1]
    assert said.verdict is Verdict.UNDECIDED
    assert said.holds


def test_wrong_split_never_rolls_back_whatever_the_policy() -> None:
    for policy in WhenUndecided:
        held, _ = decision(traffic([0.15] * 60), ERRORS, when_undecided=policy)
        assert held is Decision.HOLD


@pytest.mark.parametrize("share", [0.05, 0.058, 0.042])
def test_split_within_a_fifth_of_the_weight_is_as_configured(share: float) -> None:
    held, why = decision(traffic([share] * 200), ERRORS)
    assert held is Decision.ADVANCE
    assert "split" not in why


def test_split_that_is_repaired_lets_the_rollout_go_on() -> None:
    held, why = decision(traffic([0.10] * 20 + [0.05] * 20), ERRORS)
    assert held is Decision.ADVANCE
    assert "split" not in why


def test_first_window_of_a_step_may_still_drain() -> None:
    assert decision(traffic([0.9] + [0.05] * 25), ERRORS)[0] is Decision.ADVANCE


def test_split_by_chance_is_held_in_at_most_one_rollout_of_a_thousand() -> None:
    rng, held = np.random.default_rng(31), 0
    for _ in range(300):
        shares = (rng.binomial(400, 0.05, 40) / 400).tolist()
        said = judge(release_of(ERRORS, plan=PLAN), traffic(shares, rate=400), noise=CALM)
        held += any(said.holds(at) for at in range(40))
    assert held <= 3, "P(Binomial(300, 1/1000) > 3) < 0.001"


def test_limit_that_both_versions_break_holds_and_blames_nobody() -> None:
    windows = traffic([0.05] * 60, errors=(0.05, 0.05))
    held, why = decision(windows, LIMIT)
    assert held is Decision.HOLD
    assert "both versions are beyond the limit of error_rate (max 1 %)" in why
    said = judge(release_of(LIMIT, plan=PLAN), windows, noise=CALM)
    assert said.crossed is None


def test_limit_that_both_broke_for_a_while_lets_the_rollout_go_on_afterwards() -> None:
    storm, calm = traffic([0.05] * 5, errors=(0.03, 0.03)), traffic([0.05] * 200, errors=(0.0, 0.001))[5:]
    assert decision(storm, LIMIT)[0] is Decision.HOLD
    assert decision(storm + calm, LIMIT)[0] is Decision.ADVANCE


def test_one_sticky_client_with_clumps_of_errors_does_not_trip_the_breaker() -> None:
    clump = traffic([0.05] * 10, rate=400)
    clump[4] = replace(clump[4], canary=Counts(20, 20))
    for noise, tripped in ((Noise(1.0, 0.0), True), (Noise(11.0, 0.0), False)):
        said = judge(release_of(replace(ERRORS, observe_only=True), plan=PLAN), clump, noise=noise)
        assert (said.crossed is not None) is tripped

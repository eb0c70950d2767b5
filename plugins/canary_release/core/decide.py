"""What follows from a verdict: advance, hold, promote or roll back, and the sentence that says why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from canary_release.core.judgement import Judgement
from canary_release.core.release import Release, Step, WhenUndecided
from canary_release.core.values import Decision, Verdict, Window

LEAN = 5  # evidence of harm with which a step is not left on "undecided: advance"; the judge passes nothing then


@dataclass(frozen=True)
class Ruling:
    decision: Decision
    reason: str


# No single window decides, so one long one after a blind spell must not end a bake undecided.
FEWEST_LOOKS = 3
# A canary that should have had so many requests in a window and had none was not seen.
DUE = 5.0


@dataclass(frozen=True)
class Facts:
    """What a decision is made from.

    sentence: the judge's.  baked: seconds from the step's first window to the end of the last.  requests: on the canary
    in this step.  blind: seconds without usable data, up to now.  failing: checks that are not critical and failed.
    leaning: checks whose evidence leans towards harm.  holds: sentences that forbid to go on.
    """

    verdict: Verdict
    sentence: str
    baked: float
    requests: int
    blind: float = 0.0
    failing: tuple[str, ...] = ()
    leaning: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    looks: int = FEWEST_LOOKS


def decide(
    release: Release, steps: Sequence[Step], step_index: int, windows: Sequence[Window], judgements: Sequence[Judgement]
) -> Ruling:
    """The decision after the last window.

    steps: the weight steps of the plan, without approvals.  windows, judgements: of the whole rollout, in the same
    order, windows placed in their steps.
    """
    if len(windows) != len(judgements):
        raise ValueError(f"{len(windows)} windows need as many judgements, not {len(judgements)}.")
    own = [window for window in windows if window.step == step_index]
    if not own and not (judgements and judgements[-1].verdict is Verdict.FAIL):
        return Ruling(Decision.HOLD, "no window of this step has been recorded yet")
    last = judgements[-1]
    facts = Facts(
        verdict=last.verdict,
        sentence=last.sentence,
        baked=sum(window.seconds for window in own if _usable(window)),
        looks=sum(_usable(window) for window in own),
        requests=sum(canary_requests(window) for window in own),
        blind=_blind_seconds(windows, judgements),
        failing=failing(release, last),
        leaning=last.leaning,
        holds=last.holds,
    )
    return decide_on(release, steps, step_index, facts)


def _usable(window: Window) -> bool:
    """Time in which nothing could be seen is no bake."""
    if window.broken is not None or window.stable is None or window.canary is None:
        return False
    total = window.stable.requests + window.canary.requests
    due = total * (0.0 if math.isnan(window.weight) else window.weight)
    return total > 0 and (window.canary.requests > 0 or due < DUE)


def canary_requests(window: Window) -> int:
    return window.canary.requests if window.canary is not None and window.broken is None else 0


def failing(release: Release, judgement: Judgement) -> tuple[str, ...]:
    """Checks that failed and may not roll back by themselves."""
    pairs = zip(release.checks, judgement.checks, strict=True)
    return tuple(
        said.check
        for check, said in pairs
        if said.verdict is Verdict.FAIL and not check.critical and not check.observe_only
    )


def _blind_seconds(windows: Sequence[Window], judgements: Sequence[Judgement]) -> float:
    first = len(windows)
    while first > 0 and judgements[first - 1].verdict is Verdict.NO_DATA:
        first -= 1
    return windows[-1].end - windows[first].start if first < len(windows) else 0.0


def decide_on(release: Release, steps: Sequence[Step], step_index: int | None, facts: Facts) -> Ruling:
    """The decision from its facts; ``step_index`` None when the weight is none of the plan's: never raised then."""
    if facts.verdict is Verdict.FAIL:
        return Ruling(Decision.ROLL_BACK, facts.sentence)
    if facts.verdict is Verdict.NO_DATA:
        return _without_data(release, facts)
    if facts.holds:
        return Ruling(Decision.HOLD, facts.sentence)
    if facts.failing:
        names = ", ".join(facts.failing)
        return Ruling(Decision.HOLD, f"{names} failed and is not critical: a person decides. {facts.sentence}")
    if step_index is None:
        return Ruling(Decision.HOLD, f"the weight is none of the plan's steps, so it stays. {facts.sentence}")
    step = steps[step_index]
    onward = Decision.PROMOTE if step_index == len(steps) - 1 else Decision.ADVANCE
    missing = step.min_requests - facts.requests
    if facts.baked < step.bake:
        return _while_baking(release, step, onward, facts, missing)
    if missing > 0:
        return Ruling(
            Decision.HOLD,
            f"the bake is over, but the canary had {facts.requests:,} requests of {step.min_requests:,} needed; "
            f"{missing:,} are missing. {facts.sentence}",
        )
    if facts.verdict is Verdict.PASS:
        return Ruling(onward, f"the bake is over. {facts.sentence}")
    return _undecided(step, onward, facts)


def _without_data(release: Release, facts: Facts) -> Ruling:
    if facts.blind < release.max_no_data:
        return Ruling(
            Decision.HOLD,
            f"{facts.sentence} Without data for {facts.blind:.0f} s of at most {release.max_no_data:g} s.",
        )
    decision = Decision.ROLL_BACK if release.on_no_data == "roll_back" else Decision.HOLD
    return Ruling(
        decision,
        f"without usable data for {facts.blind:.0f} s, at most {release.max_no_data:g} s allowed. {facts.sentence}",
    )


def _while_baking(release: Release, step: Step, onward: Decision, facts: Facts, missing: int) -> Ruling:
    left = f"baked for {facts.baked:.0f} of {step.bake:g} s"
    if facts.verdict is not Verdict.PASS or not release.early_promotion:
        return Ruling(Decision.HOLD, f"{left}. {facts.sentence}")
    if facts.baked < step.min_bake:
        return Ruling(Decision.HOLD, f"{left}, of which at least {step.min_bake:g} s must pass. {facts.sentence}")
    if missing > 0:
        return Ruling(Decision.HOLD, f"{left}, {missing:,} requests on the canary are missing. {facts.sentence}")
    return Ruling(onward, f"{left}, and that is enough. {facts.sentence}")


def _undecided(step: Step, onward: Decision, facts: Facts) -> Ruling:
    if facts.looks < FEWEST_LOOKS:
        few = f"the bake is over, but only {facts.looks} of at least {FEWEST_LOOKS} windows could be used"
        return Ruling(Decision.HOLD, f"{few}. {facts.sentence}")
    if step.when_undecided is WhenUndecided.ROLL_BACK:
        return Ruling(Decision.ROLL_BACK, f"the bake is over; undecided steps roll back. {facts.sentence}")
    if step.when_undecided is WhenUndecided.HOLD:
        return Ruling(Decision.HOLD, f"the bake is over; undecided steps wait for a person. {facts.sentence}")
    if step.when_undecided is WhenUndecided.ADVANCE and not facts.leaning:
        return Ruling(onward, f"the bake is over without harm shown; undecided steps advance. {facts.sentence}")
    longest = _longest(step)
    why = f"{', '.join(facts.leaning)} leans towards harm ({LEAN} : 1 or more)" if facts.leaning else "undecided"
    if facts.baked < longest:
        left = f"baked for {facts.baked:.0f} s, extended from {step.bake:g} up to {longest:g} s"
        return Ruling(Decision.HOLD, f"{left}: {why}. {facts.sentence}")
    return Ruling(
        Decision.HOLD, f"{why} even after {facts.baked:.0f} s, at most {longest:g}: a person decides. {facts.sentence}"
    )


def _longest(step: Step) -> float:
    """The longest bake: as the release file says, or once more where the evidence leans towards harm."""
    return step.extend_up_to if step.when_undecided is WhenUndecided.EXTEND else 2.0 * step.bake

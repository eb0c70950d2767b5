"""What each step of a plan can see before it is over, how long its limits take, and what that costs.

The evidence E of a check rolls back by itself at 1/alpha_i; how far it climbs is followed in `expected_climb.py`. A
check with several limits, or a latency without a quantile, has the mean of their evidence.
Where nothing was learned of a service the judge learns during the rollout how large clumps of errors are. The forecast
then assumes that errors come singly, and says what clumps of three would make of it.
What cannot be known before is left out: that other checks help, that stable's instances may wander where it is only
guessed, and what all of a service goes through.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from canary_release.core.detection_words import CLUMP, CheckDetection, PlanDetection, StepDetection, warnings_of
from canary_release.core.expected_climb import CHANCES, ROLLOUTS, Leg, share_of, windows_to_see
from canary_release.core.expected_growth import Situation, guesses, quantile_of, situation, unknown
from canary_release.core.expected_window import Place
from canary_release.core.guard_rails import BREAKER_ERRORS, BREAKER_RATE, BREAKER_RATIO
from canary_release.core.mixture import NEEDED, shares_of_alpha
from canary_release.core.observations import LATER, ON_FIRST, ON_STEPS, ON_TIME
from canary_release.core.plan import Plan
from canary_release.core.record import FloatArray
from canary_release.core.release import Check, CheckKind, Direction, LimitKind, Release, Step
from canary_release.core.service_traffic import ERROR_RATE, ServiceTraffic
from canary_release.core.weigh import NoiseOf, label, noise_of

DEVIATIONS = np.array([0.0, 1.2816])  # of a normal distribution, at CHANCES
_GRID = 8  # effects that are tried at a time, until neighbours are close
_CLOSE = 1.15
_BEYOND = 1.02  # times what is allowed, from which on effects are tried
_TIMES_LIMIT = 2.0  # a canary exactly at its limit is allowed, for ever; this many times the limit is what must be seen


@dataclass(frozen=True)
class _Question:
    """One check of a release. share: its part of the evidence budget; needed: what it alone needs to roll back.

    each: what is staked on harm that begins with any one window.  clump: see Place.
    """

    check: Check
    share: float
    noise: NoiseOf
    traffic: ServiceTraffic
    poll: float
    each: float
    clump: float = 1.0

    def at(self, step: Step, effects: FloatArray) -> Situation:
        place = Place(self.traffic, float(step.weight) / 100.0, self.poll, self.clump)
        return situation(self.check, place, self.noise, effects)

    def seconds(self, met: Sequence[Situation], windows: Sequence[float], stakes: Sequence[float]) -> FloatArray:
        """Until the check rolls back by itself in CHANCES of the rollouts, (Z, D), in situations that follow each other
        for so many windows.
        """
        needed = math.log(NEEDED / (self.share or 1.0)) + math.log(max(len(met[0].ways), 1))
        soonest = np.full((ROLLOUTS, len(met[0].bad)), np.inf)
        for ways in zip(*(one.ways for one in met), strict=True):
            latest = np.zeros_like(soonest)
            for growths in zip(*ways, strict=False):  # alone, a canary is held against its limit only
                legs = [
                    Leg(*leg) for leg in zip(growths, windows, (stake - self.each for stake in stakes), strict=True)
                ]
                latest = np.maximum(latest, windows_to_see(legs, self.poll, needed, self.each))
            soonest = np.minimum(soonest, latest)
        return np.array([share_of(soonest, chance) for chance in CHANCES]) * self.poll


def detection(release: Release, plan: Plan, traffic: ServiceTraffic, noise: NoiseOf = None) -> PlanDetection:
    """What each weight step of ``plan`` detects with 90 % power, for a service with this traffic and noise.

    Each step is taken by itself and for its whole bake: a harm that begins with the step, and no early promotion.
    """
    steps = plan.weight_steps
    stakes, questions = _stakes(release, steps), _questions(release, steps, traffic, noise)
    found = tuple(
        StepDetection(step, float(step.weight) >= 100.0, tuple(_in_step(one, step, stake) for one in questions))
        for step, stake in zip(steps, stakes, strict=True)
    )
    whole = tuple(_in_plan(one, steps, stakes) for one in questions)
    guessed = [one for one in questions if guesses(one.check, noise) and not unknown(one.check, traffic)]
    clumped = tuple(_in_plan(replace(one, clump=CLUMP), steps, stakes) for one in guessed)
    warnings = tuple(text for place, one in enumerate(found) for text in warnings_of(place, one, traffic))
    return PlanDetection(traffic, found, whole, warnings, clumped)


def seen_in_plan(
    release: Release, plan: Plan, traffic: ServiceTraffic, effect: float, noise: NoiseOf = None, clump: float = 1.0
) -> tuple[CheckDetection, ...]:
    """When the whole plan sees a canary that is worse by ``effect`` from its first request on, by each check that acts.

    effect: in the check's own measure (see CheckDetection).  clump: how many errors come together on average, where the
    judge has to learn that.
    """
    steps = plan.weight_steps
    asked = (replace(one, clump=clump) for one in _questions(release, steps, traffic, noise))
    return tuple(_in_plan(one, steps, _stakes(release, steps), effect) for one in asked)


def _questions(release: Release, steps: Sequence[Step], traffic: ServiceTraffic, noise: NoiseOf) -> list[_Question]:
    each = _stake_on_any(release, steps)
    return [
        _Question(check, float(share), noise, traffic, release.poll, each)
        for check, share in zip(release.checks, shares_of_alpha(release.checks), strict=True)
        if not check.observe_only
    ]


# --- one step ---------------------------------------------------------------------------------------------------------


def _in_step(asked: _Question, step: Step, stake: float) -> CheckDetection:
    check, traffic = asked.check, asked.traffic
    why = unknown(check, traffic)
    target = math.nan if why else _target(check, traffic)
    named = _named(check, target, why)
    if why:
        return named
    situated = asked.at(step, np.array([target]))
    usual, until = _first(asked, step, stake, situated, math.inf, np.array([target]))[:, 0].tolist()
    a_second = float(situated.bad[0]) / asked.poll
    return replace(
        named,
        smallest=_smallest(asked, step, stake),
        seconds=until,
        bad_requests=a_second * until if math.isfinite(until) else math.inf,
        usual_seconds=usual,
        usual_bad=a_second * usual if math.isfinite(usual) else math.inf,
    )


def _smallest(asked: _Question, step: Step, stake: float) -> float | None:
    """The least effect from which on all are seen within the longest bake with POWER: first roughly, then between two.

    Never one that the check allows.
    """
    longest = max(step.bake, step.extend_up_to)
    effects = _effects(asked.check, asked.traffic)
    while True:
        seconds = _first(asked, step, stake, asked.at(step, effects), longest / asked.poll, effects)[-1]
        unseen = np.flatnonzero(seconds > longest)
        least = int(unseen[-1]) + 1 if len(unseen) else 0
        if least == len(effects):
            return None
        if least == 0 or effects[1] < _CLOSE * effects[0]:
            return float(effects[least])
        effects = np.geomspace(effects[least - 1], effects[least], _GRID)


def _first(
    asked: _Question, step: Step, stake: float, situated: Situation, windows: float, effects: FloatArray
) -> FloatArray:
    """By evidence or by the breaker, (Z, D) seconds."""
    seconds = asked.seconds([situated], [max(1.0, math.ceil(windows) if math.isfinite(windows) else windows)], [stake])
    return np.minimum(seconds, _breaker_seconds(asked, step, effects))


def _named(check: Check, target: float, why: str) -> CheckDetection:
    lower = check.direction is Direction.HIGHER_IS_BETTER
    if check.kind is CheckKind.LATENCY:
        in_seconds = check.max_change is not None and check.max_change.kind is LimitKind.SECONDS
        return CheckDetection(label(check), "s" if in_seconds else "%", target=target, unknown=why)
    return CheckDetection(label(check), "pp", target=target, unknown=why, lower=lower)


def _effects(check: Check, traffic: ServiceTraffic) -> FloatArray:
    """From what is allowed, or too small to matter, to as bad as can be."""
    if check.kind is CheckKind.LATENCY:
        in_seconds = check.max_change is not None and check.max_change.kind is LimitKind.SECONDS
        longest = traffic.edges[-1] if in_seconds else 100.0
    else:
        share = traffic.proportions[check.metric][1]
        longest = share if check.direction is Direction.HIGHER_IS_BETTER else 1.0 - share
    least = _BEYOND * _target(check, traffic, times=1.0) if check.max_change is not None else 0.0
    return np.geomspace(max(1e-6 * longest, min(least, 0.5 * longest)), longest, _GRID)


def _target(check: Check, traffic: ServiceTraffic, times: float = _TIMES_LIMIT) -> float:
    """So many times the limit; for a check that tolerates nothing twice stable's share, half of it where higher is
    better.
    """
    change, absolute = check.max_change, check.absolute
    if check.kind is CheckKind.LATENCY:
        if change is not None:
            return times * change.amount
        own = quantile_of(traffic, 1.0 - (check.quantile or 0.5))
        return max(times * absolute.amount / own - 1.0, 0.0) if absolute is not None else 1.0
    share = traffic.proportions[check.metric][1]
    higher = check.direction is Direction.HIGHER_IS_BETTER
    room = share if higher else 1.0 - share
    if change is not None and change.amount > 0:
        wanted = times * change.amount * (1.0 if change.kind is LimitKind.POINTS else share)
    elif absolute is not None:
        wanted = share - absolute.amount / times if higher else times * absolute.amount - share
    else:
        wanted = share / _TIMES_LIMIT if higher else share
    return min(max(wanted, 0.0), room)


def _breaker_seconds(asked: _Question, step: Step, effects: FloatArray) -> FloatArray:
    """When the judge's breaker for gross errors trips, (Z, D)."""
    if asked.check.metric != ERROR_RATE or asked.check.kind is not CheckKind.PROPORTION:
        return np.full((len(DEVIATIONS), len(effects)), np.inf)
    own, phi = asked.traffic.proportions[ERROR_RATE][1], noise_of(asked.check, asked.noise).phi
    rate = own + effects
    gross = (rate >= 1.2 * BREAKER_RATE) & (rate >= 1.2 * BREAKER_RATIO * own)
    errors = asked.traffic.rate * asked.poll * float(step.weight) / 100.0 * np.minimum(rate, 1.0)
    root = 0.5 * math.sqrt(phi) * (DEVIATIONS + np.sqrt(DEVIATIONS**2 + 4.0 * BREAKER_ERRORS))
    return np.where(gross, np.ceil(root[:, None] ** 2 / np.maximum(errors, 1e-300)) * asked.poll, np.inf)


def _stakes(release: Release, steps: Sequence[Step]) -> list[float]:
    """The restart weight of each step's first window, when every bake takes its time (see RestartWeights)."""
    each = ON_STEPS / len(steps) + _stake_on_any(release, steps)
    return [ON_FIRST * (place == 0) + each for place in range(len(steps))]


def _stake_on_any(release: Release, steps: Sequence[Step]) -> float:
    """Of any other window."""
    return ON_TIME * (1.0 - LATER) / max(20, math.ceil(sum(step.bake for step in steps) / release.poll))


# --- the whole plan ---------------------------------------------------------------------------------------------------


def _in_plan(
    asked: _Question, steps: Sequence[Step], stakes: Sequence[float], effect: float | None = None
) -> CheckDetection:
    """When a canary at the target from the first window on is seen, over all steps, and what it costs until then.

    effect: instead of the check's own target.
    """
    why = unknown(asked.check, asked.traffic)
    target = math.nan if why else _target(asked.check, asked.traffic) if effect is None else effect
    named = _named(asked.check, target, why)
    if why:
        return named
    windows = [max(1, math.ceil(step.bake / asked.poll)) for step in steps]
    met = [asked.at(step, np.array([target])) for step in steps]
    usual, until = asked.seconds(met, windows, stakes)[:, 0].tolist()
    bad = [float(one.bad[0]) for one in met]
    return replace(
        named,
        seconds=until,
        bad_requests=_cost_until(until / asked.poll, windows, bad),
        usual_seconds=usual,
        usual_bad=_cost_until(usual / asked.poll, windows, bad),
    )


def _cost_until(end: float, windows: Sequence[int], bad: Sequence[float]) -> float:
    """Bad requests in so many windows of steps that take ``windows`` and have ``bad`` in each."""
    cost, left = 0.0, end
    for number, of_each in zip(windows, bad, strict=True):
        cost += of_each * min(left, number)
        left = max(left - number, 0.0)
    return cost

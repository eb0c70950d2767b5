"""What each step of a plan can see before it is over, how long its limits take, and what that costs.

The evidence E of a check rolls back by itself at 1/alpha_i. With the stake w on the window where the harm begins and J
alternatives, E >= w/J sum_j exp(sum of l_j). Neighbouring alternatives climb alike, about sqrt(J) of them together, so
the best one is certain once the sum of its log e-values has climbed
    B = ln(1/alpha_i) + ln(sqrt(J)/w).
The sum after n windows has mean m n f and variance s^2 n f, where f is what the noise of instances leaves of it
(`expected_growth.py`), so it is over the line with probability 0.9 when m n f - 1.2816 s sqrt(n f) >= B. Against the
judge on simulated traffic that n is right within a factor of 1.5.
What cannot be known before is left out: that other checks help, and that the stake is put on later windows too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from canary_release.core.expected_growth import (
    FloatArray,
    Growth,
    Place,
    Situation,
    capped,
    quantile_of,
    situation,
    unknown,
)
from canary_release.core.guard_rails import BREAKER_ERRORS, BREAKER_RATE, BREAKER_RATIO
from canary_release.core.mixture import NEEDED, shares_of_alpha
from canary_release.core.observations import LATER, ON_FIRST, ON_STEPS, ON_TIME
from canary_release.core.plan import Plan
from canary_release.core.record import BoolArray
from canary_release.core.release import Check, CheckKind, Direction, LimitKind, Release, Step
from canary_release.core.service_traffic import ERROR_RATE, ServiceTraffic
from canary_release.core.values import plain
from canary_release.core.weigh import NoiseOf, label, noise_of

POWER = 0.9
_Z = 1.2816  # the 90 % point of the normal distribution
_GRID = 200
_WINDOWS = np.unique(np.round(np.geomspace(1.0, 1e7, 300)))  # how many windows are tried
_FINEST = 5000  # windows of a plan that are added up one by one; of longer plans so many strides
_TIMES_LIMIT = 2.0  # a canary exactly at its limit is allowed, for ever; this many times the limit is what must be seen


@dataclass(frozen=True)
class CheckDetection:
    """One check in one step.

    smallest: the least effect that is seen within the bake with 90 % power, None when none is.  target: twice the
    check's limit.  seconds: until the target is seen with 90 % power, infinite when never.  bad_requests: extra bad
    requests on the canary until then.  unknown: why nothing can be said, else empty.
    Effects are shares (0.005 is 0.5 pp), relative (0.1 is 10 %) or seconds, as ``unit`` says: ``pp``, ``%`` or ``s``.
    """

    check: str
    unit: str
    smallest: float | None = None
    target: float = math.nan
    seconds: float = math.inf
    bad_requests: float = math.inf
    unknown: str = ""
    lower: bool = False

    def shown(self, effect: float) -> str:
        """``+0.5 pp``, ``-2 pp`` where higher is better, ``+12 %``, ``+50 ms``."""
        sign = "-" if self.lower else "+"
        if self.unit == "s":
            return f"{sign}{effect:.2g} s" if effect >= 1 else f"{sign}{1000 * effect:.2g} ms"
        if self.unit == "%" and effect >= 10:
            return f"{effect + 1:.0f} times"
        return f"{sign}{float(f'{100 * effect:.2g}'):g} {self.unit}"


@dataclass(frozen=True)
class StepDetection:
    """A step with its checks, in the order of the release file. alone: it has nothing to compare with."""

    step: Step
    alone: bool
    checks: tuple[CheckDetection, ...]

    @property
    def text(self) -> str:
        """For the table's column ``detects``."""
        if self.alone and all(one.smallest is None for one in self.checks):
            return "all traffic on the canary: nothing to compare with"
        return ", ".join(self._said(one) for one in self.checks) or "no check"

    def _said(self, one: CheckDetection) -> str:
        if one.unknown:
            return f"{one.check} unknown"
        return f"{one.check} {'nothing' if one.smallest is None else one.shown(one.smallest)}"


@dataclass(frozen=True)
class PlanDetection:
    """What a plan can see. whole: the plan as one, its evidence added up over the steps, one entry a check."""

    traffic: ServiceTraffic
    steps: tuple[StepDetection, ...]
    whole: tuple[CheckDetection, ...]
    warnings: tuple[str, ...]

    @property
    def column(self) -> list[str]:
        return [step.text for step in self.steps]

    @property
    def sentences(self) -> list[str]:
        """What is assumed, the warnings, the cost of a bad version, and what is unknown and why."""
        rate = self.traffic.error_rate
        errors = "" if rate is None else f" with {_figures(100 * rate)} % errors"
        power = f"seen within the bake in {100 * POWER:.0f} of 100 rollouts"
        said = [f"detects: for {_figures(self.traffic.rate)} requests/s{errors}; {power}"]
        said += [f"warning: {one}" for one in self.warnings]
        said += [_cost(one) for one in self.whole if not one.unknown]
        return said + [f"{one.check}: unknown, {one.unknown}" for one in self.whole if one.unknown]


@dataclass(frozen=True)
class _Question:
    """One check of a release. share: its part of the evidence budget; needed: what it alone needs to roll back."""

    check: Check
    share: float
    noise: NoiseOf
    traffic: ServiceTraffic
    poll: float

    def at(self, step: Step, effects: FloatArray) -> Situation:
        place = Place(self.traffic, float(step.weight) / 100.0, self.poll)
        return situation(self.check, place, self.noise, effects)

    def barrier(self, situated: Situation, stake: float) -> float:
        """How far ln of one way's evidence must climb, its alternatives apart."""
        return math.log(NEEDED / (self.share or 1.0)) + math.log(max(len(situated.ways), 1)) - math.log(stake)


def detection(release: Release, plan: Plan, traffic: ServiceTraffic, noise: NoiseOf = None) -> PlanDetection:
    """What each weight step of ``plan`` detects with 90 % power, for a service with this traffic and noise.

    Each step is taken by itself and for its whole bake: a harm that begins with the step, and no early promotion.
    """
    steps = plan.weight_steps
    questions = [
        _Question(check, float(share), noise, traffic, release.poll)
        for check, share in zip(release.checks, shares_of_alpha(release.checks), strict=True)
        if not check.observe_only
    ]
    stakes = _stakes(release, steps)
    found = tuple(
        StepDetection(step, float(step.weight) >= 100.0, tuple(_in_step(one, step, stake) for one in questions))
        for step, stake in zip(steps, stakes, strict=True)
    )
    whole = tuple(_in_plan(one, steps, stakes[0]) for one in questions)
    warnings = tuple(text for place, one in enumerate(found) for text in _warnings(place, one, traffic))
    return PlanDetection(traffic, found, whole, warnings)


# --- one step ---------------------------------------------------------------------------------------------------------


def _in_step(asked: _Question, step: Step, stake: float) -> CheckDetection:
    check, traffic = asked.check, asked.traffic
    why = unknown(check, traffic)
    target = math.nan if why else _target(check, traffic)
    named = _named(check, target, why)
    if why:
        return named
    effects = np.append(_effects(check, traffic), target)
    situated = asked.at(step, effects)
    barrier = asked.barrier(situated, stake)
    ways = [np.max([_windows_to_see(one, barrier) for one in way], axis=0) for way in situated.ways]
    seconds = np.min([np.full(len(effects), np.inf), *ways], axis=0) * asked.poll
    seconds = np.minimum(seconds, _breaker_seconds(asked, step, effects))
    seen = np.flatnonzero(seconds[:-1] <= max(step.bake, step.extend_up_to))
    until = float(seconds[-1])
    return replace(
        named,
        smallest=float(effects[seen[0]]) if len(seen) else None,
        seconds=until,
        bad_requests=float(situated.bad[-1]) * until / asked.poll if math.isfinite(until) else math.inf,
    )


def _named(check: Check, target: float, why: str) -> CheckDetection:
    lower = check.direction is Direction.HIGHER_IS_BETTER
    if check.kind is CheckKind.LATENCY:
        in_seconds = check.max_change is not None and check.max_change.kind is LimitKind.SECONDS
        return CheckDetection(label(check), "s" if in_seconds else "%", target=target, unknown=why)
    return CheckDetection(label(check), "pp", target=target, unknown=why, lower=lower)


def _effects(check: Check, traffic: ServiceTraffic) -> FloatArray:
    """From too small to matter to as bad as can be."""
    if check.kind is CheckKind.LATENCY:
        in_seconds = check.max_change is not None and check.max_change.kind is LimitKind.SECONDS
        longest = traffic.edges[-1] if in_seconds else 100.0
        return np.geomspace(longest / 1e5, longest, _GRID)
    share = traffic.proportions[check.metric][1]
    room = share if check.direction is Direction.HIGHER_IS_BETTER else 1.0 - share
    return np.geomspace(1e-6, 1.0, _GRID) * room


def _target(check: Check, traffic: ServiceTraffic) -> float:
    """Twice the limit; twice stable's share (half of it where higher is better) for a check that tolerates nothing."""
    change, absolute = check.max_change, check.absolute
    if check.kind is CheckKind.LATENCY:
        if change is not None:
            return _TIMES_LIMIT * change.amount
        own = quantile_of(traffic, 1.0 - (check.quantile or 0.5))
        return max(_TIMES_LIMIT * absolute.amount / own - 1.0, 0.0) if absolute is not None else 1.0
    share = traffic.proportions[check.metric][1]
    higher = check.direction is Direction.HIGHER_IS_BETTER
    room = share if higher else 1.0 - share
    if change is not None and change.amount > 0:
        wanted = _TIMES_LIMIT * change.amount * (1.0 if change.kind is LimitKind.POINTS else share)
    elif absolute is not None:
        wanted = share - absolute.amount / _TIMES_LIMIT if higher else _TIMES_LIMIT * absolute.amount - share
    else:
        wanted = share / _TIMES_LIMIT if higher else share
    return min(max(wanted, 0.0), room)


def _windows_to_see(growth: Growth, barrier: float) -> FloatArray:
    """The first n with m n f - z s sqrt(n f) >= B, f what instances leave of it, for the quickest alternative, (D,)."""
    height = barrier + 0.5 * math.log(growth.mean.shape[1])
    mean, variance = growth.after(_WINDOWS)
    spread = _Z * np.sqrt(variance)
    over: BoolArray = np.any(mean - spread >= height, axis=1)
    return np.where(np.any(over, axis=1), _WINDOWS[np.argmax(over, axis=1)], np.inf)


def _breaker_seconds(asked: _Question, step: Step, effects: FloatArray) -> FloatArray:
    """When the judge's breaker for gross errors trips with 90 % power, (D,)."""
    if asked.check.metric != ERROR_RATE or asked.check.kind is not CheckKind.PROPORTION:
        return np.full(len(effects), np.inf)
    own, phi = asked.traffic.proportions[ERROR_RATE][1], noise_of(asked.check, asked.noise).phi
    rate = own + effects
    gross = (rate >= 1.2 * BREAKER_RATE) & (rate >= 1.2 * BREAKER_RATIO * own)
    errors = asked.traffic.rate * asked.poll * float(step.weight) / 100.0 * np.minimum(rate, 1.0)
    root = 0.5 * math.sqrt(phi) * (_Z + math.sqrt(_Z**2 + 4.0 * BREAKER_ERRORS))
    return np.where(gross, np.ceil(root**2 / np.maximum(errors, 1e-300)) * asked.poll, np.inf)


def _stakes(release: Release, steps: Sequence[Step]) -> list[float]:
    """The restart weight of each step's first window, when every bake takes its time (see RestartWeights)."""
    planned = max(20, math.ceil(sum(step.bake for step in steps) / release.poll))
    each = ON_STEPS / len(steps) + ON_TIME * (1.0 - LATER) / planned
    return [ON_FIRST * (place == 0) + each for place in range(len(steps))]


# --- the whole plan ---------------------------------------------------------------------------------------------------


def _in_plan(asked: _Question, steps: Sequence[Step], stake: float) -> CheckDetection:
    """When a canary at the target from the first window on is seen, over all steps, and what it costs until then."""
    why = unknown(asked.check, asked.traffic)
    target = math.nan if why else _target(asked.check, asked.traffic)
    named = _named(asked.check, target, why)
    if why:
        return named
    windows = [max(1, math.ceil(step.bake / asked.poll)) for step in steps]
    stride = max(1, sum(windows) // _FINEST)
    lengths = [math.ceil(number / stride) for number in windows]
    each = [asked.at(step, np.array([target])) for step in steps]
    bad = np.repeat([one.bad[0] * stride for one in each], lengths)
    barrier = asked.barrier(each[0], stake)
    ways = zip(*(one.ways for one in each), strict=True)
    at = min((_place_in_plan(way, lengths, stride, barrier) for way in ways), default=math.inf)
    cost = float(bad[: int(at)].sum()) if math.isfinite(at) else float(bad.sum())
    return replace(named, seconds=at * stride * asked.poll, bad_requests=cost)


def _place_in_plan(way: Sequence[tuple[Growth, ...]], lengths: Sequence[int], stride: int, barrier: float) -> float:
    """After how many strides of windows every e-process of one way is over the line with 90 % power."""
    latest = 0.0
    for place in range(min(len(growths) for growths in way)):
        mean = stride * np.cumsum(np.repeat([one[place].mean[0] for one in way], lengths, axis=0), axis=0)
        variance = stride * np.cumsum(np.repeat([one[place].variance[0] for one in way], lengths, axis=0), axis=0)
        hidden = stride * np.cumsum(np.repeat([one[place].hidden[0] for one in way], lengths, axis=0), axis=0)
        passed = stride * np.arange(1.0, len(mean) + 1.0)[:, None]
        left = 1.0 / (1.0 + hidden / (1.0 + way[0][place].fading * passed))
        mean, variance = capped(mean * left / passed, variance * left / passed, passed)
        height = barrier + 0.5 * math.log(mean.shape[1])
        over = np.flatnonzero((mean - _Z * np.sqrt(variance) >= height).any(axis=1))
        latest = max(latest, float(over[0] + 1) if len(over) else math.inf)
    return latest


# --- words ------------------------------------------------------------------------------------------------------------


def _warnings(place: int, found: StepDetection, traffic: ServiceTraffic) -> Iterator[str]:
    step = found.step
    at = f"step {place + 1}: at {plain(step.weight)} % and {_figures(traffic.rate)} requests/s"
    longest = max(step.bake, step.extend_up_to)
    need = step.min_requests / (traffic.rate * float(step.weight) / 100.0)
    if need > longest:
        yield f"{at} the {step.min_requests:,} requests it needs take {_about(need)}; its {_about(longest)} cannot"
    if found.alone:
        return
    for one in found.checks:
        if one.unknown or one.seconds <= longest:
            continue
        twice = f"{one.shown(one.target)} of {one.check} (twice its limit)"
        instead = "they see nothing" if one.smallest is None else f"they see {one.shown(one.smallest)}"
        if math.isfinite(one.seconds):
            yield f"{at} this step sees {twice} in {_about(one.seconds)}; its {_about(longest)} cannot ({instead})"
        else:
            why = "finer latency buckets or less noise" if one.unit != "pp" else "less noise"
            yield f"{at} no bake is long enough to see {twice}: that needs {why} ({_about(longest)}: {instead})"


def _cost(one: CheckDetection) -> str:
    kind = "slow" if one.unit in ("%", "s") else "bad"
    said = f"cost: a canary with {one.check} {one.shown(one.target)} from its first request on"
    harm = f"{one.bad_requests:,.0f} more {kind} requests"
    if math.isfinite(one.seconds):
        return f"{said} is seen after {_about(one.seconds)} and {harm}"
    return f"{said} gets through the whole plan unseen, with {harm}"


def _about(seconds: float) -> str:
    """``95 s``, ``37 min``, ``5.2 h``, ``3.1 days``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86400:.1f} days"


def _figures(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.6g}"

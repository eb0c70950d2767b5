"""What a plan can see, in numbers and in words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from canary_release.core.expected_climb import POWER
from canary_release.core.release import Step
from canary_release.core.service_traffic import ServiceTraffic
from canary_release.core.values import plain

CLUMP = 3.0  # errors that come together, for the forecast that says what clumps would make of it


@dataclass(frozen=True)
class CheckDetection:
    """One check in one step, or in the whole plan.

    smallest: the least effect that is seen within the bake with 90 % power, None when none is.  target: twice the
    check's limit.  seconds: until the target is seen with 90 % power, infinite when never; usual_seconds: in half of
    the rollouts.  bad_requests, usual_bad: extra bad requests on the canary until then, of a plan's until its end where
    that comes first.  unknown: why nothing can be said, else empty.
    Effects are shares (0.005 is 0.5 pp), relative (0.1 is 10 %) or seconds, as ``unit`` says: ``pp``, ``%`` or ``s``.
    """

    check: str
    unit: str
    smallest: float | None = None
    target: float = math.nan
    seconds: float = math.inf
    bad_requests: float = math.inf
    usual_seconds: float = math.inf
    usual_bad: float = math.inf
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
    """What a plan can see. whole: the plan as one, its evidence added up over the steps, one entry a check.

    clumped: the same where errors come in clumps of three, of the checks whose clumps the judge has to learn.
    """

    traffic: ServiceTraffic
    steps: tuple[StepDetection, ...]
    whole: tuple[CheckDetection, ...]
    warnings: tuple[str, ...]
    clumped: tuple[CheckDetection, ...] = ()

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
        said += [_assumed(self.clumped, self.whole, self.traffic.canary_instances or 1)] if self.clumped else []
        said += [f"warning: {one}" for one in self.warnings]
        said += [_cost(one) for one in self.whole if not one.unknown]
        return said + [f"{one.check}: unknown, {one.unknown}" for one in self.whole if one.unknown]


def warnings_of(place: int, found: StepDetection, traffic: ServiceTraffic) -> Iterator[str]:
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


def _assumed(clumped: Sequence[CheckDetection], whole: Sequence[CheckDetection], instances: int) -> str:
    """What is assumed where the judge has to learn clumps, and what larger ones would make of it."""
    said = (
        "assumes errors that come one by one, which the judge sees within minutes, and instances that are alike "
        f"({instances} of the canary)"
    )
    usual = {one.check: one for one in whole}
    later = [
        f"{one.check} {one.shown(one.target)} is usually seen {_after(one)} instead of {_after(usual[one.check])}"
        for one in clumped
        if _after(one) != _after(usual[one.check])
    ]
    if not later:
        return f"{said}; where errors come in clumps it takes longer"
    return f"{said}; where errors come in clumps of {CLUMP:g}, {'; '.join(later)}"


def _after(one: CheckDetection) -> str:
    return f"after {_about(one.usual_seconds)}" if math.isfinite(one.usual_seconds) else "in no step of the plan"


def _cost(one: CheckDetection) -> str:
    """Half of the rollouts end before the first figures, nine of ten before the others."""
    kind = "slow" if one.unit in ("%", "s") else "bad"
    said = f"cost: a canary with {one.check} {one.shown(one.target)} from its first request on"
    usual, most = (f"{bad:,.0f} more {kind} requests" for bad in (one.usual_bad, one.bad_requests))
    if not math.isfinite(one.usual_seconds):
        return f"{said} usually gets through the whole plan unseen, with {usual}"
    said = f"{said} is usually seen after {_about(one.usual_seconds)} and {usual}"
    if not math.isfinite(one.seconds):
        return f"{said}; but one of ten gets through the whole plan unseen, with {most}"
    return f"{said}, in nine of ten rollouts within {_about(one.seconds)} and {most}"


def _about(seconds: float) -> str:
    """``95 s``, ``37 min``, ``5.2 h``, ``3.1 days``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86400:.1f} days"


def _figures(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.6g}"

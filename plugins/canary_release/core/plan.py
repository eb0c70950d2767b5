"""Which weights a rollout goes through, in which order, and how long that takes; frozen when it starts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from canary_release.core.problems import LedgerError, RefusedError
from canary_release.core.release import Approval, Release, Step, WhenUndecided
from canary_release.core.release_calendar import longest_until_seen
from canary_release.core.suggest import did_you_mean, listed, shown
from canary_release.core.units import show_duration, show_percent
from canary_release.core.values import FULL, plain

STANDARD = "standard"

# The judge promotes early after two windows at the soonest.
_FEWEST_WINDOWS = 2


@dataclass(frozen=True)
class Plan:
    """The steps of one rollout.

    shortest_seconds: when every step is promoted as early as its evidence can allow and every approval comes at once.
    longest_seconds: when every step needs its longest bake and every approval its whole time. A hold waits for a
    person beyond that; it is not counted.
    """

    steps: tuple[Step | Approval, ...]
    shortest_seconds: float
    longest_seconds: float
    profile: str = STANDARD

    @property
    def weight_steps(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if isinstance(step, Step))

    @property
    def weights(self) -> tuple[Decimal, ...]:
        """The canary's shares in percent, rising."""
        return tuple(step.weight for step in self.weight_steps)

    def approval_before(self, index: int) -> Approval | None:
        """The approval that the weight step ``index`` needs before it may begin."""
        at = [place for place, step in enumerate(self.steps) if isinstance(step, Step)][index]
        before = self.steps[at - 1] if at else None
        return before if isinstance(before, Approval) else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; decimals as texts, so that 0.1 % comes back as 0.1 %."""
        return {
            "profile": self.profile,
            "steps": [_step_to_json(step) for step in self.steps],
            "shortest_seconds": self.shortest_seconds,
            "longest_seconds": self.longest_seconds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Plan":
        """The plan that ``to_json`` wrote. LedgerError when it is anything else."""
        try:
            return cls(
                steps=tuple(_step_from_json(step) for step in value["steps"]),
                shortest_seconds=float(value["shortest_seconds"]),
                longest_seconds=float(value["longest_seconds"]),
                profile=str(value["profile"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation) as error:
            raise LedgerError(
                f"the plan in the ledger cannot be read ({type(error).__name__}: {error}); abort this rollout."
            ) from error


def make_plan(release: Release, *, profile: str | None = None, steps: str | None = None) -> Plan:
    """The plan of a profile (default: the file's own steps), or of some of its weights.

    steps: weights such as ``5,100`` in rising order, out of the profile's own, ending with 100. All approvals stay,
    each before the next weight that is kept; two of the same people that meet are one. RefusedError for anything else.
    """
    name = profile or STANDARD
    known = {STANDARD: release.steps, **release.profiles}
    if name not in known:
        hint = did_you_mean(name, known)
        raise RefusedError(f"{release.service} has no profile {shown(name)}{hint}; there are: {listed(sorted(known))}.")
    chosen = known[name] if steps is None else _picked(release.service, known[name], steps)
    return Plan(
        steps=chosen,
        shortest_seconds=sum(_shortest(release, step) for step in chosen if isinstance(step, Step)),
        longest_seconds=sum(longest(release, step) if isinstance(step, Step) else step.timeout for step in chosen),
        profile=name,
    )


def _picked(service: str, steps: Sequence[Step | Approval], wanted: str) -> tuple[Step | Approval, ...]:
    own = [step.weight for step in steps if isinstance(step, Step)]
    cure = f"choose from {listed(plain(weight) for weight in own)}, rising, ending with 100"
    texts = [text.strip().removesuffix("%").strip() for text in wanted.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,12})?", text) for text in texts):
        raise RefusedError(f"{service}: {shown(wanted)} is not a list of weights; {cure}.")
    weights = [Decimal(text) for text in texts]
    foreign = [plain(weight) for weight in weights if weight not in own]
    if foreign:
        raise RefusedError(f"{service}: {listed(foreign)} is no weight of its release file; {cure}.")
    if weights != sorted(set(weights)) or weights[-1] != FULL:
        raise RefusedError(f"{service}: {shown(wanted)} does not rise to 100; {cure}.")
    return _one_question_each(service, [step for step in steps if isinstance(step, Approval) or step.weight in weights])


def _one_question_each(service: str, steps: Sequence[Step | Approval]) -> tuple[Step | Approval, ...]:
    """Approvals that meet because the weights between them were left out, as the stricter of both."""
    kept: list[Step | Approval] = []
    for step in steps:
        last = kept[-1] if kept else None
        if not isinstance(step, Approval) or not isinstance(last, Approval):
            kept.append(step)
            continue
        if set(step.by) != set(last.by):
            raise RefusedError(
                f"{service}: without the weights between them the approvals by {listed(last.by)} and by "
                f"{listed(step.by)} would meet; keep a weight between them."
            )
        kept[-1] = Approval(
            by=step.by,
            timeout=min(step.timeout, last.timeout),
            on_timeout="roll_back" if "roll_back" in (step.on_timeout, last.on_timeout) else "hold",
            not_by_starter=step.not_by_starter or last.not_by_starter,
        )
    return tuple(kept)


def longest(release: Release, step: Step) -> float:
    """The longest bake of a step in seconds, as far as no person holds it."""
    peak = release.calendar.peak
    until_peak = longest_until_seen(peak) if step.must_contain_peak and peak is not None else 0.0
    return max(step.bake, step.extend_up_to, until_peak)


def _shortest(release: Release, step: Step) -> float:
    if not release.early_promotion or step.weight == FULL:
        return step.bake  # with all traffic on the canary there is nothing left to compare it with
    return min(step.bake, max(step.min_bake, _FEWEST_WINDOWS * release.poll))


def _step_to_json(step: Step | Approval) -> dict[str, Any]:
    if isinstance(step, Approval):
        return {"approve": asdict(step) | {"by": list(step.by)}}
    return {
        "weight": plain(step.weight),
        "bake": step.bake,
        "min_bake": step.min_bake,
        "min_requests": step.min_requests,
        "undecided": str(step.when_undecided),
        "extend_up_to": step.extend_up_to,
        "must_contain_peak": step.must_contain_peak,
    }


def _step_from_json(value: Mapping[str, Any]) -> Step | Approval:
    if "approve" in value:
        approve = value["approve"]
        return Approval(
            by=tuple(approve["by"]),
            timeout=float(approve["timeout"]),
            on_timeout=str(approve["on_timeout"]),
            not_by_starter=bool(approve.get("not_by_starter", False)),
        )
    return Step(
        weight=Decimal(value["weight"]),
        bake=float(value["bake"]),
        min_bake=float(value["min_bake"]),
        min_requests=int(value["min_requests"]),
        when_undecided=WhenUndecided(value["undecided"]),
        extend_up_to=float(value["extend_up_to"]),
        must_contain_peak=bool(value.get("must_contain_peak", False)),
    )


def render_plan(release: Release, plan: Plan, *, detects: Sequence[str] | None = None) -> str:
    """An aligned table for terminals and logs.

    detects: one text for each weight step, what it can detect; ValueError when their number differs.
    """
    if detects is not None and len(detects) != len(plan.weights):
        raise ValueError(f"{len(detects)} texts for {len(plan.weights)} weight steps")
    notes = [[note] for note in detects] if detects is not None else [[] for _ in plan.weights]
    rows = [["step", "canary", "bake", "soonest", "requests", "undecided", *(["detects"] if detects else [])]]
    number = 0
    for step in plan.steps:
        if isinstance(step, Approval):
            waits = f"{', '.join(step.by)}; after {show_duration(step.timeout)}: {step.on_timeout}"
            waits += "; not by who started it" if step.not_by_starter else ""
            rows.append(["", "approval", waits])
        else:
            rows.append([str(number + 1), *_cells(release, step), *notes[number]])
            number += 1
    total = f"{show_duration(plan.shortest_seconds)} to {show_duration(plan.longest_seconds)}"
    title = f"{release.service} ({plan.profile}): {'/'.join(plain(weight) for weight in plan.weights)} %, {total}"
    return "\n".join([title, *_aligned(rows)])


def _cells(release: Release, step: Step) -> list[str]:
    undecided = str(step.when_undecided)
    if step.when_undecided is WhenUndecided.EXTEND:
        undecided += f" to {show_duration(step.extend_up_to)}"
    if step.must_contain_peak:
        undecided += ", sees the peak"
    least = str(step.min_requests) if step.min_requests else "-"
    soonest = show_duration(_shortest(release, step))
    return [show_percent(step.weight), show_duration(step.bake), soonest, least, undecided]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The last cell of a row sets no width, so that an approval's words run on past the columns."""
    columns = max(len(row) for row in rows)
    widths = [max((len(row[column]) for row in rows if len(row) > column + 1), default=0) for column in range(columns)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]

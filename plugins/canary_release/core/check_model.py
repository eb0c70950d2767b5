"""One check of a release file, and which limits fit which kind of metric."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from canary_release.core.field_types import (
    Block,
    Flag,
    LimitText,
    Misfit,
    Name,
    Number,
    positive,
    sound,
    with_default,
    word_of,
)
from canary_release.core.release import CheckKind, Direction, Limit, LimitKind
from canary_release.core.strict_yaml import Path
from canary_release.core.suggest import closest, listed, shown

BUILT_IN = {"error_rate": CheckKind.PROPORTION, "page_load_time": CheckKind.LATENCY}
_DEFAULT_QUANTILE = 0.95


class CheckBlock(Block):
    """A metric and how much worse the canary may be."""

    metric: Name = Field(description="`error_rate`, `page_load_time`, or a metric of your own together with its kind")
    kind: Annotated[Literal["proportion", "latency", "value"] | None, word_of(*[str(kind) for kind in CheckKind])] = (
        Field(default=None, description="what the metric is made of; known for error_rate and page_load_time")
    )
    quantile: Number | None = Field(
        default=None,
        description="for latency: which quantile, between 0 and 1",
        json_schema_extra={"default": _DEFAULT_QUANTILE},
    )
    max_increase: LimitText | None = Field(
        default=None, description="how much more than stable: `10%`, `0.5pp`, `50ms`"
    )
    max_decrease: LimitText | None = Field(default=None, description="how much less, where higher is better")
    max: LimitText | None = Field(default=None, description="the most the canary may have, whatever stable has")
    min: LimitText | None = Field(default=None, description="the least the canary may have, where higher is better")
    direction: Annotated[Literal["lower_is_better", "higher_is_better"], word_of(*[str(way) for way in Direction])] = (
        with_default("lower_is_better", "lower_is_better", "which way is good")
    )
    weight: Number = Field(default=1.0, description="this check's part of the evidence budget, relative to the others")
    critical: Flag = Field(default=True, description="a fail of this check alone rolls back")
    observe_only: Flag = Field(default=False, description="judge and show, never act")

    _share = field_validator("weight")(positive("the weight of a check"))

    @property
    def known_kind(self) -> CheckKind | None:
        return BUILT_IN.get(self.metric) or (CheckKind(self.kind) if self.kind else None)

    @property
    def known_quantile(self) -> float | None:
        return (self.quantile or _DEFAULT_QUANTILE) if self.known_kind is CheckKind.LATENCY else None

    @model_validator(mode="after")
    def _fits(self) -> "CheckBlock":
        kind = self.known_kind
        if kind is None:
            near = closest(self.metric, BUILT_IN)
            hint = f"did you mean `{near}`? Otherwise say" if near else "say"
            what = f"{shown(self.metric)} is not built in ({listed(BUILT_IN)}); {hint} its kind: {listed(CheckKind)}"
            raise Misfit([(("metric",), what)])
        problems = [*_kind_problems(self, kind), *_direction_problems(self)]
        problems += _unit_problems(self, kind)
        return sound(self, problems)


def _kind_problems(check: CheckBlock, kind: CheckKind) -> list[tuple[Path, str]]:
    problems: list[tuple[Path, str]] = []
    if check.kind and check.kind != kind:
        problems.append((("kind",), f"{check.metric} is always a {kind}; remove this or write `{kind}`"))
    if check.quantile is not None and kind is not CheckKind.LATENCY:
        problems.append((("quantile",), f"is only for latency, and {check.metric} is a {kind}; remove it"))
    elif check.quantile is not None and not 0 < check.quantile < 1:
        problems.append((("quantile",), f"`{check.quantile:g}` is not between 0 and 1; write `0.95` for the 95th"))
    if check.direction == "higher_is_better" and (check.metric in BUILT_IN or kind is CheckKind.LATENCY):
        problems.append((("direction",), f"for {check.metric} lower is better; remove it"))
    return problems


def _direction_problems(check: CheckBlock) -> list[tuple[Path, str]]:
    higher = check.direction == "higher_is_better"
    fitting = ("max_decrease", "min") if higher else ("max_increase", "max")
    other = ("max_increase", "max") if higher else ("max_decrease", "min")
    way = "higher_is_better" if not higher else "lower_is_better"
    problems: list[tuple[Path, str]] = [
        ((key,), f"is only for `direction: {way}`; use {instead}, or say the direction")
        for key, instead in zip(other, fitting, strict=True)
        if getattr(check, key) is not None
    ]
    limits = [key for key in (*fitting, *other) if getattr(check, key) is not None]
    if not limits and not check.observe_only:
        problems.append(((), f"has no limit; add {fitting[0]} or {fitting[1]}, or `observe_only: true`"))
    return problems


_CHANGE_UNITS = {
    CheckKind.PROPORTION: ({LimitKind.RELATIVE, LimitKind.POINTS}, "`10%` of stable's or `0.5pp`"),
    CheckKind.LATENCY: ({LimitKind.RELATIVE, LimitKind.SECONDS}, "`10%` of stable's or a time such as `50ms`"),
    CheckKind.VALUE: ({LimitKind.RELATIVE, LimitKind.PLAIN}, "`10%` of stable's or a bare number"),
}
_ABSOLUTE_UNITS = {
    CheckKind.PROPORTION: ({LimitKind.RELATIVE}, "a percentage such as `1%`"),
    CheckKind.LATENCY: ({LimitKind.SECONDS}, "a time such as `800ms`"),
    CheckKind.VALUE: ({LimitKind.PLAIN}, "a bare number"),
}


def _unit_problems(check: CheckBlock, kind: CheckKind) -> list[tuple[Path, str]]:
    problems: list[tuple[Path, str]] = []
    for key in ("max_increase", "max_decrease", "max", "min"):
        limit: Limit | None = getattr(check, key)
        if limit is None:
            continue
        change = key.endswith("crease")
        kinds, words = (_CHANGE_UNITS if change else _ABSOLUTE_UNITS)[kind]
        if limit.kind not in kinds:
            problems.append(((key,), f"{shown(limit.text)} does not fit a {kind}; allowed: {words}"))
        elif change and limit.amount <= 0:
            problems.append(((key,), f"{shown(limit.text)} allows no difference at all; chance alone would exceed it"))
        elif limit.kind is LimitKind.RELATIVE and limit.amount > 1 and (key != "max_increase"):
            problems.append(((key,), f"{shown(limit.text)} is more than everything; at most `100%`"))
    return problems

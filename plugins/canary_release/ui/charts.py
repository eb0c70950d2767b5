"""The three charts of a rollout: its weight, each check, and the evidence against the line it must cross."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canary_release.core.mixture import NEEDED
from canary_release.core.release import Check, CheckKind, Release
from canary_release.core.values import Decision, Window, plain
from canary_release.core.weigh import label
from canary_release.core.wording import amount, limit_text
from canary_release.ledger.overview import ServiceView
from canary_release.ledger.records import DecisionRecord, Rollout, Write
from canary_release.ui.chart_series import Bin, CheckPoint, bins_of, observed_share, points_of
from canary_release.ui.svg_canvas import Canvas, Key, Point, Scale, linear, logarithmic, root, shown_width

_SHAPES = {Decision.ADVANCE: "up", Decision.PROMOTE: "tick", Decision.ROLL_BACK: "cross"}
_LEAST_EVIDENCE, _MOST_EVIDENCE = 0.1, 1e6


@dataclass(frozen=True)
class Story:
    """Everything that the charts show of one rollout. release: None where its file cannot be read any more."""

    rollout: Rollout
    view: ServiceView
    release: Release | None
    writes: Sequence[Write]
    windows: Sequence[Window]
    decisions: Sequence[DecisionRecord]
    now: float

    @property
    def end(self) -> float:
        return self.rollout.ended_at or self.now

    @property
    def marks(self) -> list[DecisionRecord]:
        """The decisions that changed something: the last one of each run of equal ones, holds left out."""
        told = [each for each in self.decisions if each.decision != Decision.HOLD]
        return [each for at, each in enumerate(told) if at == 0 or _kind(told[at - 1]) != _kind(each)]


@dataclass(frozen=True)
class CheckChart:
    check: str
    svg: str


@dataclass(frozen=True)
class Charts:
    """Inline SVG, each as wide as asked for."""

    width: int
    weight: str
    evidence: str
    checks: list[CheckChart]


def draw(story: Story, width: int) -> Charts:
    width = shown_width(width)
    bins = bins_of(story.windows, most=max(width // 12, 20))
    checks = story.release.checks if story.release is not None else ()
    return Charts(
        width,
        weight_chart(story, bins, width).render(),
        evidence_chart(story, width).render(),
        [CheckChart(label(check), check_chart(story, check, bins, width).render()) for check in checks],
    )


def weight_chart(story: Story, bins: Sequence[Bin], width: int) -> Canvas:
    """On a square-root scale, so that 1 % can be seen."""
    canary = story.rollout.canary
    canvas = Canvas(width, 165, "Traffic of the canary", _weight_words(story))
    canvas.heading(
        [
            Key("asked for", "line asked"),
            Key("read back", "line read-back"),
            Key("seen in requests", "line observed"),
            *_mark_keys(story.marks),
        ]
    )
    across, up = _time(story, canvas), root(100.0, canvas.bottom, canvas.top)
    weights = {float(step.weight) for step in story.view.steps} | {0.0, 100.0}
    canvas.rows([(weight, f"{weight:g} %") for weight in weights], up)
    until = across(story.end)
    seen = [(write.read_back_at, write.read_back) for write in story.writes if write.read_back is not None]
    canvas.path([(across(each.at), up(observed_share(each))) for each in bins], "line observed")
    asked = [(across(write.at), up(float(write.asked.shares.get(canary, 0)))) for write in story.writes]
    read_back = [(across(at or story.now), up(float(said.shares.get(canary, 0)))) for at, said in seen]
    canvas.steps([(across(story.rollout.started_at), up(0.0)), *read_back], until, "line read-back")
    canvas.steps([(across(story.rollout.started_at), up(0.0)), *asked], until, "line asked")
    _draw_marks(story, canvas, across)
    canvas.time_axis(story.rollout.started_at, story.end, across)
    return canvas


def check_chart(story: Story, check: Check, bins: Sequence[Bin], width: int) -> Canvas:
    points = points_of(check, bins)
    unit = {CheckKind.LATENCY: "s", CheckKind.PROPORTION: "%"}.get(check.kind, "")
    canvas = Canvas(width, 150, label(check), _check_words(check, points, unit))
    band = "lowest to highest" if check.kind is CheckKind.VALUE else "95 % interval"
    keys = [
        Key("canary, this step so far", "line canary"),
        Key(f"its {band}", "band", "area"),
        Key("stable", "line stable"),
        Key(f"limit {limit_text(check)}", "line limit"),
    ]
    canvas.heading([*keys, *_mark_keys(story.marks)])
    top = _top(points)
    across, up = _time(story, canvas), linear(0.0, top, canvas.bottom, canvas.top)
    canvas.rows([(value, _tick(value, unit)) for value in _nice(top)], up)
    canvas.dots([(across(each.at), up(each.seen)) for each in points if each.seen <= top], "seen")
    for step in dict.fromkeys(each.step for each in points):
        own = [each for each in points if each.step == step]
        canvas.area(_line(own, across, up, "high"), _line(own, across, up, "low"), "band")
        canvas.path([(across(each.at), _at(up, each.limit)) for each in own], "line limit")
        canvas.path([(across(each.at), _at(up, each.stable)) for each in own], "line stable")
        canvas.path(_line(own, across, up, "value"), "line canary")
    _draw_marks(story, canvas, across)
    canvas.time_axis(story.rollout.started_at, story.end, across)
    return canvas


def evidence_chart(story: Story, width: int) -> Canvas:
    """Each check's evidence as a part of what it needs, so that one line is the line for all of them."""
    judged = [each for each in story.decisions if each.judgement]
    names = list(dict.fromkeys(row["check"] for each in judged for row in _rows(each)))
    description = "The larger, the surer that the canary is worse; at the line it goes back."
    canvas = Canvas(width, 150, "Evidence of harm, odds against one", description)
    keys = [Key("all checks", "line evidence")]
    keys += [Key(name, f"line series-{place % 4}") for place, name in enumerate(names)] if len(names) > 1 else []
    canvas.heading([*keys, Key(f"goes back at {NEEDED:g} : 1", "line limit")])
    across = _time(story, canvas)
    up = logarithmic(_LEAST_EVIDENCE, _MOST_EVIDENCE, canvas.bottom, canvas.top)
    ticks = [(0.1, "0.1"), (1.0, "1"), (NEEDED, f"{NEEDED:g}"), (1e4, "10,000"), (1e6, "10⁶")]
    canvas.rows(ticks, up)
    canvas.line(canvas.left, up(NEEDED), canvas.right, up(NEEDED), "line limit")
    for place, name in enumerate(names if len(names) > 1 else []):
        line = [(across(each.at), _at(up, _part(each, name))) for each in judged]
        canvas.path(line, f"line series-{place % 4}")
    overall = [(across(each.at), _at(up, _number((each.judgement or {}).get("evidence")))) for each in judged]
    canvas.path(overall, "line evidence")
    canvas.time_axis(story.rollout.started_at, story.end, across)
    return canvas


def _part(record: DecisionRecord, name: str) -> float:
    row = next((row for row in _rows(record) if row["check"] == name), None)
    if row is None or not row.get("needed"):
        return math.nan
    return NEEDED * _number(row.get("evidence")) / float(row["needed"])


def _rows(record: DecisionRecord) -> Sequence[Mapping[str, Any]]:
    return (record.judgement or {}).get("checks") or ()


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _time(story: Story, canvas: Canvas) -> Scale:
    return linear(story.rollout.started_at, story.end, canvas.left, canvas.right)


def _kind(record: DecisionRecord) -> tuple[int, str]:
    return record.step, record.decision


def _mark_keys(marks: Sequence[DecisionRecord]) -> list[Key]:
    told = dict.fromkeys(Decision(each.decision) for each in marks)
    return [Key(each.replace("_", " "), f"{_SHAPES[each]}", _SHAPES[each]) for each in told if each in _SHAPES]


def _draw_marks(story: Story, canvas: Canvas, across: Scale) -> None:
    for each in story.marks:
        x = across(each.at)
        canvas.line(x, canvas.top, x, canvas.bottom, "moment")
        canvas.mark(x, canvas.top - 5, _SHAPES[Decision(each.decision)], f"{each.decision}: {each.reason}")


def _line(points: Sequence[CheckPoint], across: Scale, up: Scale, part: str) -> list[Point]:
    return [(across(each.at), _at(up, getattr(each.canary, part))) for each in points]


def _at(scale: Scale, value: float) -> float:
    return scale(value) if math.isfinite(value) else math.nan


def _top(points: Sequence[CheckPoint]) -> float:
    """So high that every line can be seen, and the band as far as it leaves the lines readable."""
    lines = [value for each in points for value in (each.canary.value, each.stable, each.limit)]
    highest = max((value for value in lines if math.isfinite(value)), default=0.0)
    band = max((each.canary.high for each in points if math.isfinite(each.canary.high)), default=0.0)
    return 1.1 * max(highest, min(band, 1.6 * highest)) or 1.0


def _nice(top: float) -> list[float]:
    """Four or five round values from 0 to ``top``."""
    rough = top / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * size for factor in (1, 2, 5, 10) if factor * size >= rough), 10 * size)
    return [number * step for number in range(int(top / step) + 1)]


def _tick(value: float, unit: str) -> str:
    """A round value as short as it is: ``0.5 %``, ``200 ms``."""
    if unit == "%":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"
    return f"{value:.3g}"


def _weight_words(story: Story) -> str:
    writes = [write for write in story.writes if write.read_back is not None]
    said = [plain(write.read_back.shares[story.rollout.canary]) for write in writes if write.read_back is not None]
    return f"Read back from the load balancer, one after the other: {', '.join(said) or 'nothing yet'} percent."


def _check_words(check: Check, points: Sequence[CheckPoint], unit: str) -> str:
    last = next((each for each in reversed(points) if math.isfinite(each.canary.value)), None)
    if last is None:
        return f"{label(check)}: nothing was seen of it."
    stable = amount(last.stable, unit) if math.isfinite(last.stable) else "unknown"
    return f"{label(check)} at last: canary {amount(last.canary.value, unit)}, stable {stable}."

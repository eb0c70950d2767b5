"""Drawing SVG by hand: escaped text, scales, axes and a legend, at the width at which it will be shown.

Colours and fonts come from the page's style sheet by class, so that one picture fits light and dark; ``standalone``
pictures carry the sheet with them. Lengths are CSS pixels.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from pathlib import Path

Point = tuple[float, float]
Scale = Callable[[float], float]

NARROWEST, WIDEST = 260, 2400
STYLE_SHEET = Path(__file__).parent / "static" / "canary_charts.css"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # by XML 1.0
_LETTER = 6.4  # width of an average letter at 12 px
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)


def shown_width(width: int) -> int:
    """A width that charts can have, nearest to the one asked for."""
    return min(max(width, NARROWEST), WIDEST)


def safe(text: object) -> str:
    """Any text as XML text or attribute; characters that XML forbids become a replacement sign."""
    return escape(_FORBIDDEN.sub("\ufffd", str(text)), quote=True)


def linear(low: float, high: float, start: float, end: float) -> Scale:
    span = (high - low) or 1.0
    return lambda value: start + (min(max(value, low), high) - low) / span * (end - start)


def root(high: float, start: float, end: float) -> Scale:
    """A square-root scale from 0, on which 1 % of everything is a tenth of the height."""
    return lambda value: start + math.sqrt(min(max(value, 0.0), high) / high) * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    line = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: line(math.log10(min(max(value, low), high)))


@cache
def style_sheet() -> str:
    return STYLE_SHEET.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Key:
    """An entry of the legend. shape: ``line``, ``area`` or the name of a mark."""

    label: str
    kind: str
    shape: str = "line"


@dataclass
class Canvas:
    """A chart of this width. plot: the height of what is between ``top`` and ``bottom``, ``left`` and ``right``."""

    width: int
    plot: int
    title: str
    description: str
    left: float = 54.0
    top: float = 30.0
    _parts: list[str] = field(default_factory=list)

    @property
    def right(self) -> float:
        return self.width - 10.0

    @property
    def bottom(self) -> float:
        return self.top + self.plot

    @property
    def height(self) -> int:
        return round(self.bottom) + 24

    def render(self, *, standalone: bool = False) -> str:
        style = f"<style>{safe(style_sheet())}</style>" if standalone else ""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="canary-chart" role="img" width="{self.width}" '
            f'height="{self.height}" viewBox="0 0 {self.width} {self.height}">{style}'
            f"<title>{safe(self.title)}</title><desc>{safe(self.description)}</desc>{''.join(self._parts)}</svg>"
        )

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        room = (self.width - x) if anchor == "start" else x if anchor == "end" else self.width
        self._add("text", kind, f'x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"', safe(_cut(text, room)))

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self._add("line", kind, f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"')

    def path(self, points: Sequence[Point], kind: str) -> None:
        """A line through the points; a break where a coordinate is nan."""
        for run in _runs(points):
            if len(run) == 1:
                self._add("circle", f"{kind} dot", f'cx="{_n(run[0][0])}" cy="{_n(run[0][1])}" r="1.8"')
            else:
                self._add("polyline", kind, f'points="{_points(run)}"')

    def dots(self, points: Sequence[Point], kind: str) -> None:
        for x, y in points:
            if math.isfinite(x) and math.isfinite(y):
                self._add("circle", kind, f'cx="{_n(x)}" cy="{_n(y)}" r="1.7"')

    def steps(self, points: Sequence[Point], until: float, kind: str) -> None:
        """A line that keeps each value until the next point."""
        corners: list[Point] = []
        for x, y in points:
            corners += [(x, corners[-1][1]), (x, y)] if corners else [(x, y)]
        if corners:
            self.path([*corners, (max(until, corners[-1][0]), corners[-1][1])], kind)

    def area(self, upper: Sequence[Point], lower: Sequence[Point], kind: str) -> None:
        for above, below in zip(_runs(upper), _runs(lower), strict=False):
            if len(above) > 1:
                self._add("polygon", kind, f'points="{_points([*above, *reversed(below)])}"')

    def mark(self, x: float, y: float, kind: str, says: str) -> None:
        """A sign that is told by its shape, too: up, cross, tick, diamond."""
        shapes = {
            "up": f"M{_n(x)} {_n(y - 5)}l5 9h-10z",
            "cross": f"M{_n(x - 4)} {_n(y - 4)}l8 8m0 -8l-8 8",
            "tick": f"M{_n(x - 5)} {_n(y)}l4 4l6 -8",
            "diamond": f"M{_n(x)} {_n(y - 5)}l5 5l-5 5l-5 -5z",
        }
        self._add("path", f"mark {kind}", f'd="{shapes[kind]}"', f"<title>{safe(says)}</title>" if says else "")

    def heading(self, keys: Sequence[Key]) -> None:
        """The title and the legend, in as many lines as the width needs; call it first, it moves ``top``."""
        self.text(0, 13, self.title, "title")
        x, y = 0.0, 32.0
        for key in keys:
            wide = 26 + _LETTER * len(key.label)
            if x and x + wide > self.width:
                x, y = 0.0, y + 17
            self._key(x, y - 4, key)
            self.text(x + 20, y, key.label, "small")
            x += wide + 6
        self.top = y + (18 if keys else 2)

    def _key(self, x: float, y: float, key: Key) -> None:
        if key.shape == "line":
            self.line(x, y, x + 15, y, key.kind)
        elif key.shape == "area":
            self._add("rect", key.kind, f'x="{_n(x)}" y="{_n(y - 5)}" width="15" height="10"')
        else:
            self.mark(x + 7, y, key.shape, "")

    def rows(self, ticks: Sequence[tuple[float, str]], scale: Scale) -> None:
        """Horizontal grid lines with their labels, as many as do not touch."""
        last = -math.inf
        for value, label in sorted(ticks, reverse=True):
            y = scale(value)
            if y - last < 14:
                continue
            last = y
            self.line(self.left, y, self.right, y, "grid")
            self.text(self.left - 5, y + 4, label, "small", "end")

    def time_axis(self, start: float, end: float, scale: Scale) -> None:
        """Ticks below the plot, counted from ``start`` (seconds since the epoch), so that no time zone matters."""
        room = max(int((self.right - self.left) // 70), 1)
        span = max(end - start, 1.0)
        step = next((each for each in _STEPS if span / each <= room), 86400 * math.ceil(span / 86400 / room))
        for number in range(int(span // step) + 1):
            x = scale(start + number * step)
            if x <= self.right - 12 or number == 0:
                self.line(x, self.bottom, x, self.bottom + 4, "axis")
                self.text(x, self.bottom + 17, _since(number * step, step), "small", "middle" if number else "start")
        self.line(self.left, self.bottom, self.right, self.bottom, "axis")

    def _add(self, name: str, kind: str, attributes: str, inside: str = "") -> None:
        self._parts.append(f'<{name} class="{safe(kind)}" {attributes}>{inside}</{name}>')


def _since(seconds: float, step: float) -> str:
    if step >= 86400:
        return f"{seconds / 86400:g} d"
    if step >= 3600:
        return f"{seconds / 3600:g} h"
    return f"{seconds / 60:g} min" if step >= 60 else f"{seconds:g} s"


def _cut(text: str, room: float) -> str:
    letters = max(int(room / _LETTER), 4)
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _runs(points: Sequence[Point]) -> Iterator[list[Point]]:
    run: list[Point] = []
    for point in points:
        if math.isfinite(point[0]) and math.isfinite(point[1]):
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in points)


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")

"""Windows for stores that count by intervals of time: one window for each interval that is over, none for the last one.

A point that the store does not have is no data, not zero; only errors that are absent while the requests of the same
side and interval are there are none.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from airflow.sdk import BaseHook
from pydantic import Field, field_validator, model_validator

from canary_release.core.field_types import Duration, positive, with_default
from canary_release.core.problems import MetricSourceError
from canary_release.core.values import Counts, Cursor, Side, Window
from canary_release.hooks.connections import Strict
from canary_release.hooks.label_escape import PLACEHOLDER

MOST_INTERVALS = 1000  # in one query
Points = dict[float, float]  # by the beginning of their interval, seconds since the epoch
_REQUESTS, _ERRORS, _EVENTS, _VALUES = "requests", "errors", "events.", "values."


class IntervalOptions(Strict):
    """The queries of a release file. Each gives one series, for the backend that stands for ``$backend``."""

    requests: str = Field(description="How many requests a backend had in an interval.")
    errors: str = Field(description="How many of them failed.")
    events: dict[str, str] = Field(
        default_factory=dict, description="How many of them did something else, by the name that a check calls it."
    )
    values: dict[str, str] = Field(
        default_factory=dict, description="Single numbers, such as a percentile, by the name that a check calls them."
    )
    interval: Duration = with_default(60.0, "60s", "How long one point of the store is; the length of a window.")
    delay: Duration = with_default(60.0, "60s", "How long after its end an interval may still change.")
    settle: Duration = with_default(0.0, "0s", "How long after a shift nothing is counted yet.")

    _long = field_validator("interval")(positive("the interval"))

    @property
    def queries(self) -> dict[str, str]:
        events = {_EVENTS + name: query for name, query in self.events.items()}
        values = {_VALUES + name: query for name, query in self.values.items()}
        return {_REQUESTS: self.requests, _ERRORS: self.errors, **events, **values}

    @model_validator(mode="after")
    def _ask_for_one_side(self) -> Self:
        for name, query in self.queries.items():
            if PLACEHOLDER not in query:
                raise ValueError(f"{name}: the query must have {PLACEHOLDER}, else both sides would count the same")
        return self


class IntervalSource(BaseHook):
    """What all stores of this kind share; each says how it is asked with ``points``."""

    def __init__(
        self,
        connection_id: str,
        stable: str,
        canary: str,
        options: IntervalOptions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.stable = stable
        self.canary = canary
        self.options = options
        self.clock = clock

    @staticmethod
    def shortest_lease(options: IntervalOptions) -> float:
        """Seconds: only windows renew a lease, and the first comes after the first whole interval."""
        return 2 * options.interval + options.delay + options.settle

    def points(self, query: str, backend: str, start: float, end: float, *, counts: bool) -> Points:
        """The points of one query between two instants; those without a value are left out.

        counts: whether the store's own points are added up to an interval's, else their mean is taken.  Raises
        MetricSourceError.
        """
        raise NotImplementedError

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        """One window for each interval that is over since the cursor, ``delay`` seconds ago or more.

        With None only a cursor: the end of the interval that is running.  Raises MetricSourceError when the store
        cannot be read; the cursor then stays good.
        """
        now, step = self.clock(), self.options.interval
        if cursor is None:
            self._windows(_floor(now - self.options.delay, step) - step, _floor(now - self.options.delay, step))
            return [], {"until": -_floor(-(now + self.options.settle), step)}
        start, end = opened_interval(cursor), _floor(now - self.options.delay, step)
        if end <= start:
            return [], dict(cursor)
        return self._windows(start, end), {"until": end}

    def history(self, start: float, end: float) -> list[Window]:
        """The windows that lie wholly between two instants (seconds since the epoch). Raises MetricSourceError."""
        step = self.options.interval
        return self._windows(-_floor(-start, step), _floor(end, step))

    def _windows(self, start: float, end: float) -> list[Window]:
        step, windows = self.options.interval, []
        for begin in _steps(start, end, MOST_INTERVALS * step):
            until = min(begin + MOST_INTERVALS * step, end)
            sides = {
                side: {
                    name: self.points(query, backend, begin, until, counts=not name.startswith(_VALUES))
                    for name, query in self.options.queries.items()
                }
                for side, backend in ((Side.STABLE, self.stable), (Side.CANARY, self.canary))
            }
            windows += [_window(moment, moment + step, sides) for moment in _steps(begin, until, step)]
        return windows


def opened_interval(cursor: Cursor) -> float:
    """Until when a cursor says that everything is counted. MetricSourceError when it is none of ours."""
    until = cursor.get("until")
    if isinstance(until, bool) or not isinstance(until, int | float) or not math.isfinite(until):
        raise MetricSourceError("The cursor was not made by this metric source; take a new baseline.")
    return float(until)


def only_series(series: list[Any], store: str, cure: str) -> Any:
    """The one series of an answer, None when there is none. MetricSourceError when there are several."""
    if len(series) > 1:
        raise MetricSourceError(f"{store} gave {len(series)} series where one side was meant; {cure}.")
    return series[0] if series else None


def read_point(value: Any, store: str) -> float | None:
    """A point's value, None when the store has none. MetricSourceError when it is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MetricSourceError(f"{store} gave {str(value)[:40]!r}, which is no number.")
    return float(value)


def _window(start: float, end: float, sides: Mapping[Side, Mapping[str, Points]]) -> Window:
    counted = {side: _counts(series, start) for side, series in sides.items()}
    for side, counts in counted.items():
        if counts is not None and counts.errors > counts.requests:
            reason = f"{side} has {counts.errors} errors of {counts.requests} requests"
            return Window(start, end, None, None, broken=reason)
    return Window(start, end, counted[Side.STABLE], counted[Side.CANARY])


def _counts(series: Mapping[str, Points], moment: float) -> Counts | None:
    points = {name: found[moment] for name, found in series.items() if moment in found}
    if _REQUESTS not in points:
        return None
    requests = _whole(points[_REQUESTS])
    events = {name: _whole(value) for name, value in points.items() if name.startswith(_EVENTS)}
    return Counts(
        requests=requests,
        errors=_whole(points.get(_ERRORS, 0.0)),
        proportions={name.removeprefix(_EVENTS): (min(count, requests), requests) for name, count in events.items()},
        values={name.removeprefix(_VALUES): value for name, value in points.items() if name.startswith(_VALUES)},
    )


def _whole(value: float) -> int:
    # Stores spread counts over intervals: a point may have a fraction of a request.
    if value < 0:
        raise MetricSourceError(f"The store gave {value:g} requests in an interval; counts are at least 0.")
    return round(value)


def _floor(moment: float, step: float) -> float:
    return math.floor(moment / step) * step


def _steps(start: float, end: float, step: float) -> Iterator[float]:
    while start < end:
        yield start
        start += step

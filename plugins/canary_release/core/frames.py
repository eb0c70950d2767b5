"""Tables of windows and lists of windows, each from the other: the form in which counts come in and go out.

One row for each window and side: ``window``, ``start`` (epoch seconds or ISO time), ``side`` (canary or stable),
``weight`` (the canary's share, 0 to 1, read from its row), ``instances``, ``requests``, ``errors``, and buckets that
are not cumulative, ``le_<seconds>`` ... ``le_inf``. Optional: ``end``, ``step``, ``broken``, proportions as
``<name>_events`` and ``<name>_of``, single values as ``value_<name>``. A history may have one row for each window, side
and ``instance``.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from canary_release.core.problems import FrameError
from canary_release.core.record import CANARY, STABLE, BoolArray, FloatArray, IntArray, Record, windows_of
from canary_release.core.values import Counts, Side, Window

NEEDED_COLUMNS = ("window", "start", "side", "weight", "requests", "errors")
_BUCKET, _VALUE, _EVENTS, _OF = "le_", "value_", "_events", "_of"


@dataclass(frozen=True)
class _Layout:
    """Which columns hold what; edges ascend and end with infinity."""

    edges: tuple[float, ...]
    buckets: tuple[str, ...]
    proportions: tuple[str, ...]
    values: tuple[str, ...]


def windows_from_frame(frame: pd.DataFrame) -> list[Window]:
    """Windows in the order of their numbers.

    Without ``end`` a window ends where the next begins (the last is as long as the one before). Without ``step`` a new
    step begins when the weight changes. A side without a row, or with an empty ``requests``, is None: no data. With a
    column ``instance`` the instances of a side are added up. Raises FrameError that names column and row; rows are
    counted from 1, without the header.
    """
    return windows_of(record_from_frame(frame))


def record_from_frame(frame: pd.DataFrame) -> Record:
    """The same as columns, without an object for each window; see windows_from_frame."""
    layout = _layout(frame)
    numbers = _whole(frame, "window", allow_missing=False)
    _check_counts(frame, layout)
    if "instance" in frame:
        frame = _instances_together(frame, layout)
        numbers = frame["window"].to_numpy(dtype=float)
    of_stable = _of_stable(frame)
    order, rows = _rows(numbers, of_stable)
    return _placed(frame, layout, order, rows)


def frame_from_windows(windows: Iterable[Window]) -> pd.DataFrame:
    """The same table back; a window in which no side could be read keeps both rows, with empty counts."""
    rows: list[dict[str, Any]] = []
    for place, window in enumerate(windows):
        for side, counts in ((Side.CANARY, window.canary), (Side.STABLE, window.stable)):
            rows.append(_row(place, window, side, counts))
    columns = [*NEEDED_COLUMNS[:4], "instances", "requests", "errors"]
    return pd.DataFrame(rows, columns=None if rows else columns)


def _row(place: int, window: Window, side: Side, counts: Counts | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "window": window.index if window.index >= 0 else place,
        "start": window.start,
        "end": window.end,
        "side": str(side),
        "weight": window.weight,
        "step": window.step,
        "instances": math.nan,
        "requests": math.nan,
        "errors": math.nan,
        "broken": window.broken,
    }
    if counts is None:
        return row
    row |= {"instances": counts.instances, "requests": counts.requests, "errors": counts.errors}
    for edge, count in zip((*window.edges, math.inf), counts.buckets, strict=False):
        row[f"{_BUCKET}{edge:.12g}"] = count
    for name, (events, of) in counts.proportions.items():
        row |= {f"{name}{_EVENTS}": events, f"{name}{_OF}": of}
    return row | {f"{_VALUE}{name}": value for name, value in counts.values.items()}


# --- reading ----------------------------------------------------------------------------------------------------------


def _layout(frame: pd.DataFrame) -> _Layout:
    names = [str(name) for name in frame.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FrameError(f"column {twice[0]!r} stands twice; keep one.")
    missing = [name for name in NEEDED_COLUMNS if name not in names]
    if missing:
        raise FrameError(f"column {missing[0]!r} is missing; needed are {', '.join(NEEDED_COLUMNS)}.")
    edges = sorted((_edge(name), name) for name in names if name.startswith(_BUCKET))
    if edges and edges[-1][0] != math.inf:
        raise FrameError("column 'le_inf' is missing: requests slower than the last bucket would be lost.")
    if len({edge for edge, _ in edges}) < len(edges):
        raise FrameError("two bucket columns name the same edge; keep one.")
    proportions = [name.removesuffix(_EVENTS) for name in names if name.endswith(_EVENTS)]
    lonely = [name for name in proportions if name + _OF not in names]
    if lonely:
        raise FrameError(f"column '{lonely[0]}{_OF}' is missing: of how many are the events in '{lonely[0]}{_EVENTS}'?")
    return _Layout(
        edges=tuple(edge for edge, _ in edges),
        buckets=tuple(name for _, name in edges),
        proportions=tuple(proportions),
        values=tuple(name for name in names if name.startswith(_VALUE)),
    )


def _edge(name: str) -> float:
    try:
        edge = float(name.removeprefix(_BUCKET))
    except ValueError:
        edge = math.nan
    if not edge > 0:
        raise FrameError(
            f"column {name!r}: a bucket is named by its upper edge in seconds, such as 'le_0.25' or 'le_inf'."
        )
    return edge


def _of_stable(frame: pd.DataFrame) -> BoolArray:
    given = frame["side"]
    wrong = np.flatnonzero(~given.isin(["canary", "stable"]).to_numpy())
    if len(wrong):
        name = given.iloc[wrong[0]]
        raise FrameError(f"column 'side', row {wrong[0] + 1}: {name!r} is no side; write 'canary' or 'stable'.")
    return (given == "stable").to_numpy(dtype=bool)


def _rows(numbers: FloatArray, of_stable: BoolArray) -> tuple[FloatArray, IntArray]:
    """The windows' numbers in order, and the row of each side (W, 2), -1 where there is none."""
    order, place = np.unique(numbers, return_inverse=True)
    rows = np.full((len(order), 2), -1, dtype=np.int64)
    side = of_stable.astype(np.int64)
    rows[place, side] = np.arange(len(numbers))
    lost = np.flatnonzero(rows[place, side] != np.arange(len(numbers)))
    if len(lost):
        first = int(lost[0])
        again = np.flatnonzero((place == place[first]) & (side == side[first]))
        name = "stable" if of_stable[first] else "canary"
        raise FrameError(
            f"column 'window', row {again[1] + 1}: {name} of window {int(numbers[first])} stands in row {first + 1} "
            "already."
        )
    return order, rows


def _instances_together(frame: pd.DataFrame, layout: _Layout) -> pd.DataFrame:
    """One row a window and side: counts added up over the rows that have them, the number of those as instances."""
    _of_stable(frame)
    twice = np.flatnonzero(frame.duplicated(["window", "side", "instance"]).to_numpy())
    if len(twice):
        name = frame["instance"].iloc[twice[0]]
        raise FrameError(f"column 'instance', row {twice[0] + 1}: {name!r} stands twice in this window.")
    read = frame[pd.to_numeric(frame["requests"]).notna()]
    counts = ["requests", "errors", *layout.buckets]
    counts += [name + end for name in layout.proportions for end in (_EVENTS, _OF)]
    numbers = read[["window", "side"]].join(read[counts].apply(pd.to_numeric))
    groups = numbers.groupby(["window", "side"], sort=False)
    summed = groups.sum(min_count=1).assign(instances=groups.size())
    kept = [name for name in ("window", "side", "start", "end", "weight", "step", "broken") if name in frame]
    first = frame[kept].drop_duplicates(["window", "side"]).set_index(["window", "side"])
    return first.join(summed).reset_index()


def _numeric(frame: pd.DataFrame, column: str) -> FloatArray:
    found = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    wrong = np.flatnonzero(np.isnan(found) & frame[column].notna().to_numpy())
    if len(wrong):
        raise FrameError(f"column {column!r}, row {wrong[0] + 1}: {frame[column].iloc[wrong[0]]!r} is no number.")
    infinite = np.flatnonzero(np.isinf(found))
    if len(infinite):
        raise FrameError(f"column {column!r}, row {infinite[0] + 1}: infinity is no number that can be judged.")
    return found


def _whole(frame: pd.DataFrame, column: str, *, allow_missing: bool = True) -> FloatArray:
    found = _numeric(frame, column)
    if not allow_missing and np.isnan(found).any():
        row = int(np.flatnonzero(np.isnan(found))[0]) + 1
        raise FrameError(f"column {column!r}, row {row}: a value is missing.")
    for wrong, what in (
        (found < 0, "negative"),
        (found != np.floor(found), "not a whole number"),
        (found > 1e15, "too large"),
    ):
        rows = np.flatnonzero(wrong & ~np.isnan(found))
        if len(rows):
            raise FrameError(
                f"column {column!r}, row {rows[0] + 1}: {found[rows[0]]:g} is {what}; counts are whole and at least 0."
            )
    return found


def _at_most(frame: pd.DataFrame, low: str, high: str) -> None:
    rows = np.flatnonzero(_whole(frame, low) > _whole(frame, high))
    if len(rows):
        few, many = frame[low].iloc[rows[0]], frame[high].iloc[rows[0]]
        raise FrameError(f"column {low!r}, row {rows[0] + 1}: {few} of {many} {high}; there cannot be more than all.")


def _check_counts(frame: pd.DataFrame, layout: _Layout) -> None:
    _at_most(frame, "errors", "requests")
    for name in layout.proportions:
        _at_most(frame, name + _EVENTS, name + _OF)
    half = np.flatnonzero((frame["errors"].isna() & frame["requests"].notna()).to_numpy())
    if len(half):
        raise FrameError(f"column 'errors', row {half[0] + 1}: empty while requests are not; leave both empty or none.")


# --- placing ----------------------------------------------------------------------------------------------------------


def _placed(frame: pd.DataFrame, layout: _Layout, order: FloatArray, rows: IntArray) -> Record:
    starts = _start(_times(frame, "start"), rows)
    lead = np.where(rows[:, CANARY] >= 0, rows[:, CANARY], rows[:, STABLE])
    ends = _ends(order, starts, _times(frame, "end")[lead] if "end" in frame else None)
    weights = _weights(frame, rows)
    requests = _of_sides(_whole(frame, "requests"), rows)
    read = ~np.isnan(requests)

    def column(name: str, *, count: bool = True) -> FloatArray:
        found = _of_sides(_whole(frame, name) if count else _numeric(frame, name), rows)
        return np.where(read, found, np.nan)

    buckets = [column(name) for name in layout.buckets] or [np.full(rows.shape, np.nan)]
    edges = layout.edges[:-1]
    return Record(
        index=order.astype(np.int64),
        step=_steps(frame, lead, weights),
        start=starts,
        end=ends,
        weight=weights,
        broken=_broken(frame, rows),
        read=read,
        instances=column("instances") if "instances" in frame else np.full(rows.shape, np.nan),
        requests=requests,
        errors=column("errors"),
        proportions={
            name: np.stack((column(name + _EVENTS), column(name + _OF)), axis=-1) for name in layout.proportions
        },
        values={name.removeprefix(_VALUE): column(name, count=False) for name in layout.values},
        edges=edges,
        buckets=np.stack(buckets, axis=-1),
        edges_from=0 if edges else len(rows),
    )


def _of_sides(column: FloatArray, rows: IntArray) -> FloatArray:
    """(W, 2), nan where a side has no row."""
    if not len(column):
        return np.zeros(rows.shape)
    return np.where(rows >= 0, column[np.maximum(rows, 0)], np.nan)


def _times(frame: pd.DataFrame, column: str) -> FloatArray:
    """Epoch seconds from numbers or from ISO times; a time without a zone is UTC."""
    given = frame[column]
    if pd.api.types.is_datetime64_any_dtype(given):
        numbers = np.full(len(given), math.nan)
    else:
        numbers = pd.to_numeric(given, errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    words = np.flatnonzero(np.isnan(numbers))
    if len(words):
        parsed = pd.to_datetime(given.iloc[words].astype(str), utc=True, errors="coerce", format="ISO8601")
        since = (parsed - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)
        numbers = numbers.copy()
        numbers[words] = since.to_numpy(dtype=float, na_value=math.nan)
    wrong = np.flatnonzero(~np.isfinite(numbers))
    if len(wrong):
        said = given.iloc[wrong[0]]
        raise FrameError(f"column {column!r}, row {wrong[0] + 1}: {said!r} is neither epoch seconds nor an ISO time.")
    return numbers


def _start(starts: FloatArray, rows: IntArray) -> FloatArray:
    if not len(rows):
        return np.zeros(0)
    both = (rows >= 0).all(axis=1)
    differ = np.flatnonzero(both & (starts[rows[:, CANARY]] != starts[rows[:, STABLE]]))
    if len(differ):
        row = int(rows[differ[0]].max()) + 1
        raise FrameError(f"column 'start', row {row}: the two sides of one window begin at different times.")
    return np.asarray(starts[rows.max(axis=1)])


def _ends(numbers: FloatArray, starts: FloatArray, given: FloatArray | None) -> FloatArray:
    early = np.flatnonzero(np.diff(starts) <= 0)
    if len(early):
        number = int(numbers[early[0] + 1])
        raise FrameError(f"column 'start', window {number}: it does not begin after the window before.")
    length = starts[-1:] - starts[-2:-1] if len(starts) > 1 else np.full(len(starts), 60.0)
    ends = np.concatenate((starts[1:], starts[-1:] + length)) if given is None else given
    backwards = np.flatnonzero(ends <= starts)
    if len(backwards):
        raise FrameError(f"column 'end', window {int(numbers[backwards[0]])}: it ends before it begins.")
    return ends


def _weights(frame: pd.DataFrame, rows: IntArray) -> FloatArray:
    """The canary's share; a window without a canary row keeps the one before."""
    given = _numeric(frame, "weight")
    wrong = np.flatnonzero((given < 0) | (given > 1))
    if len(wrong):
        raise FrameError(f"column 'weight', row {wrong[0] + 1}: {given[wrong[0]]:g} is not between 0 and 1.")
    of_canary = _of_sides(given, rows)[:, CANARY]
    return np.asarray(pd.Series(of_canary).ffill(), dtype=np.float64)


def _steps(frame: pd.DataFrame, lead: IntArray, weights: FloatArray) -> IntArray:
    if "step" in frame:
        given = _numeric(frame, "step")
        wrong = np.flatnonzero(~(given >= -1) | (given != np.floor(given)))
        if len(wrong):
            raise FrameError(f"column 'step', row {wrong[0] + 1}: a step is a whole number, 0 for the first.")
        return given[lead].astype(np.int64)
    before = np.concatenate((weights[:1], weights[:-1]))
    return np.cumsum((weights != before) & ~np.isnan(before)).astype(np.int64)


def _broken(frame: pd.DataFrame, rows: IntArray) -> list[str | None]:
    """The first reason given by either side; an empty cell, 0 and False mean that the window is sound."""
    if "broken" not in frame or not frame["broken"].notna().any():
        return [None] * len(rows)
    given = [_reason(cell) for cell in frame["broken"].tolist()]
    return [next((given[row] for row in pair if row >= 0 and given[row]), None) for pair in rows.tolist()]


def _reason(cell: Any) -> str | None:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)) or cell is pd.NA:
        return None
    text = str(cell).strip()
    if text.lower() in {"", "0", "0.0", "false", "none", "nan"}:
        return None
    return "marked as broken" if text.lower() in {"1", "1.0", "true"} else text

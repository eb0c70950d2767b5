"""Tables of windows and lists of windows, each from the other: the form in which counts come in and go out.

One row for each window and side: ``window``, ``start`` (epoch seconds or ISO time), ``side`` (canary or stable),
``weight`` (the canary's share, 0 to 1, read from its row), ``instances``, ``requests``, ``errors``, and buckets that
are not cumulative, ``le_<seconds>`` ... ``le_inf``. Optional: ``end``, ``step``, ``broken``, proportions as
``<name>_events`` and ``<name>_of``, single values as ``value_<name>``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from canary_release.core.problems import FrameError
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
    step begins when the weight changes. A side without a row, or with an empty ``requests``, is None: no data. Raises
    FrameError that names column and row; rows are counted from 1, without the header.
    """
    layout = _layout(frame)
    numbers = _whole(frame, "window", allow_missing=False)
    sides = _sides(frame)
    order = np.argsort(numbers, kind="stable")
    _no_duplicates(frame, numbers, sides)
    counts = _counts(frame, layout)
    rows: dict[int, dict[Side, int]] = {}
    for row in order.tolist():
        rows.setdefault(int(numbers[row]), {})[sides[row]] = row
    return _windows(frame, rows, counts, layout)


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


def _sides(frame: pd.DataFrame) -> list[Side]:
    known = {"canary": Side.CANARY, "stable": Side.STABLE}
    given = frame["side"].tolist()
    for row, name in enumerate(given, start=1):
        if not isinstance(name, str) or name not in known:
            raise FrameError(f"column 'side', row {row}: {name!r} is no side; write 'canary' or 'stable'.")
    return [known[name] for name in given]


def _no_duplicates(frame: pd.DataFrame, numbers: np.ndarray[Any, Any], sides: Sequence[Side]) -> None:
    seen: dict[tuple[int, Side], int] = {}
    for row, key in enumerate(zip(numbers.tolist(), sides, strict=True), start=1):
        if key in seen:
            raise FrameError(
                f"column 'window', row {row}: {key[1]} of window {int(key[0])} stands in row {seen[key]} already."
            )
        seen[key] = row


def _numeric(frame: pd.DataFrame, column: str) -> np.ndarray[Any, Any]:
    found = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    wrong = np.flatnonzero(np.isnan(found) & frame[column].notna().to_numpy())
    if len(wrong):
        raise FrameError(f"column {column!r}, row {wrong[0] + 1}: {frame[column].iloc[wrong[0]]!r} is no number.")
    infinite = np.flatnonzero(np.isinf(found))
    if len(infinite):
        raise FrameError(f"column {column!r}, row {infinite[0] + 1}: infinity is no number that can be judged.")
    return found


def _whole(frame: pd.DataFrame, column: str, *, allow_missing: bool = True) -> np.ndarray[Any, Any]:
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


def _counts(frame: pd.DataFrame, layout: _Layout) -> list[Counts | None]:
    """One Counts a row, None where requests are empty."""
    _at_most(frame, "errors", "requests")
    for name in layout.proportions:
        _at_most(frame, name + _EVENTS, name + _OF)
    requests, errors = _whole(frame, "requests"), _whole(frame, "errors")
    half = np.flatnonzero(np.isnan(errors) & ~np.isnan(requests))
    if len(half):
        raise FrameError(f"column 'errors', row {half[0] + 1}: empty while requests are not; leave both empty or none.")
    buckets = _rows_of(frame, layout.buckets)
    pairs = _rows_of(frame, [name + end for name in layout.proportions for end in (_EVENTS, _OF)])
    values = {name.removeprefix(_VALUE): _numeric(frame, name).tolist() for name in layout.values}
    instances = _whole(frame, "instances").tolist() if "instances" in frame else [math.nan] * len(frame)
    made: list[Counts | None] = []
    for row, (of, failed) in enumerate(zip(requests.tolist(), errors.tolist(), strict=True)):
        if math.isnan(of):
            made.append(None)
            continue
        made.append(
            Counts(
                requests=int(of),
                errors=int(failed),
                buckets=_complete(buckets[row]),
                instances=None if math.isnan(instances[row]) else int(instances[row]),
                proportions=_pairs(layout.proportions, pairs[row]),
                values={name: column[row] for name, column in values.items() if not math.isnan(column[row])},
            )
        )
    return made


def _rows_of(frame: pd.DataFrame, columns: Sequence[str]) -> list[list[float]]:
    if not columns:
        return [[] for _ in range(len(frame))]
    rows: list[list[float]] = np.stack([_whole(frame, column) for column in columns], axis=1).tolist()
    return rows


def _complete(buckets: Sequence[float]) -> tuple[int, ...]:
    """No latency at all rather than half of it."""
    return () if any(map(math.isnan, buckets)) else tuple(map(int, buckets))


def _pairs(names: Sequence[str], flat: Sequence[float]) -> Mapping[str, tuple[int, int]]:
    return {
        name: (int(flat[2 * at]), int(flat[2 * at + 1]))
        for at, name in enumerate(names)
        if not (math.isnan(flat[2 * at]) or math.isnan(flat[2 * at + 1]))
    }


# --- placing ----------------------------------------------------------------------------------------------------------


def _windows(
    frame: pd.DataFrame, rows: Mapping[int, Mapping[Side, int]], counts: Sequence[Counts | None], layout: _Layout
) -> list[Window]:
    starts, ends = _times(frame, "start"), _times(frame, "end") if "end" in frame else None
    lead = [by_side.get(Side.CANARY, next(iter(by_side.values()))) for by_side in rows.values()]
    begin = [_start(starts, by_side) for by_side in rows.values()]
    finish = _ends(list(rows), begin, None if ends is None else [float(ends[row]) for row in lead])
    weights = _weights(frame, rows)
    steps = _steps(frame, lead, weights)
    broken = _broken(frame, rows)
    edges = layout.edges[:-1]
    windows = []
    for place, (number, by_side) in enumerate(rows.items()):
        stable, canary = (
            None if (row := by_side.get(side)) is None else counts[row] for side in (Side.STABLE, Side.CANARY)
        )
        windows.append(
            Window(
                begin[place], finish[place], stable, canary, edges, broken[place], number, steps[place], weights[place]
            )
        )
    return windows


def _times(frame: pd.DataFrame, column: str) -> np.ndarray[Any, Any]:
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


def _start(starts: np.ndarray[Any, Any], by_side: Mapping[Side, int]) -> float:
    values = {float(starts[row]) for row in by_side.values()}
    if len(values) > 1:
        row = max(by_side.values()) + 1
        raise FrameError(f"column 'start', row {row}: the two sides of one window begin at different times.")
    return values.pop()


def _ends(numbers: Sequence[int], starts: Sequence[float], given: Sequence[float] | None) -> list[float]:
    for number, (before, after) in zip(numbers[1:], pairwise(starts), strict=True):
        if after <= before:
            raise FrameError(f"column 'start', window {number}: it does not begin after the window before.")
    ends = list(given) if given is not None else [*starts[1:], starts[-1] + _last_length(starts)] if starts else []
    for number, begin, end in zip(numbers, starts, ends, strict=True):
        if end <= begin:
            raise FrameError(f"column 'end', window {number}: it ends before it begins.")
    return ends


def _last_length(starts: Sequence[float]) -> float:
    return starts[-1] - starts[-2] if len(starts) > 1 else 60.0


def _weights(frame: pd.DataFrame, rows: Mapping[int, Mapping[Side, int]]) -> list[float]:
    """The canary's share; a window without a canary row keeps the one before."""
    given = _numeric(frame, "weight")
    wrong = np.flatnonzero((given < 0) | (given > 1))
    if len(wrong):
        raise FrameError(f"column 'weight', row {wrong[0] + 1}: {given[wrong[0]]:g} is not between 0 and 1.")
    weights: list[float] = []
    for by_side in rows.values():
        row = by_side.get(Side.CANARY)
        known = row is not None and not math.isnan(given[row])
        weights.append(float(given[row]) if known else weights[-1] if weights else math.nan)
    return weights


def _steps(frame: pd.DataFrame, lead: Sequence[int], weights: Sequence[float]) -> list[int]:
    if "step" in frame:
        given = _numeric(frame, "step")
        wrong = np.flatnonzero(~(given >= -1) | (given != np.floor(given)))
        if len(wrong):
            raise FrameError(f"column 'step', row {wrong[0] + 1}: a step is a whole number, 0 for the first.")
        return [int(given[row]) for row in lead]
    steps: list[int] = []
    for place, weight in enumerate(weights):
        changed = place > 0 and weight != weights[place - 1] and not math.isnan(weights[place - 1])
        steps.append((steps[-1] if steps else 0) + int(changed))
    return steps


def _broken(frame: pd.DataFrame, rows: Mapping[int, Mapping[Side, int]]) -> list[str | None]:
    """The first reason given by either side; an empty cell, 0 and False mean that the window is sound."""
    if "broken" not in frame:
        return [None] * len(rows)
    given = frame["broken"].tolist()
    return [next(filter(None, (_reason(given[row]) for row in by_side.values())), None) for by_side in rows.values()]


def _reason(cell: Any) -> str | None:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)) or cell is pd.NA:
        return None
    text = str(cell).strip()
    if text.lower() in {"", "0", "0.0", "false", "none", "nan"}:
        return None
    return "marked as broken" if text.lower() in {"1", "1.0", "true"} else text

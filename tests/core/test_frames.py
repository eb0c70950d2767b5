"""Tables of windows: what goes in comes out, and what is wrong is named with its column and row."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from canary_release.core.frames import frame_from_windows, windows_from_frame
from canary_release.core.problems import FrameError
from canary_release.core.values import Counts, Window
from core.simulated import Traffic, rollout


def frame(*changes: tuple[int, str, Any], windows: int = 3, **columns: Any) -> pd.DataFrame:
    """Three sound windows of a canary at 5 %, with single cells changed."""
    rows = [
        {"window": at, "start": 30.0 * at, "side": side, "weight": 0.05, "instances": 2, "requests": of, "errors": 1}
        | {"le_0.1": of - 3, "le_0.5": 2, "le_inf": 1}
        for at in range(windows)
        for side, of in (("canary", 50), ("stable", 950))
    ]
    made = pd.DataFrame(rows).astype(object)
    for row, column, value in changes:
        made.loc[row, column] = value
    for name, value in columns.items():
        made[name] = value
    return made


def test_windows_survive_the_way_there_and_back() -> None:
    windows = rollout(np.random.default_rng(1), Traffic(windows=8))
    windows[3] = Window(90.0, 120.0, windows[3].stable, None, windows[3].edges, "a value was missing", 3, 1, 0.05)
    assert windows_from_frame(frame_from_windows(windows)) == windows


def test_proportions_and_values_survive_too() -> None:
    side = Counts(10, 1, proportions={"sales": (3, 9)}, values={"p99": 0.25})
    window = Window(0.0, 10.0, side, side, (), None, 0, 0, 0.5)
    assert windows_from_frame(frame_from_windows([window])) == [window]


def test_smallest_table_is_enough() -> None:
    found = windows_from_frame(frame())
    assert [(w.start, w.end, w.step, w.weight) for w in found] == [
        (0, 30, 0, 0.05),
        (30, 60, 0, 0.05),
        (60, 90, 0, 0.05),
    ]
    assert found[0].canary == Counts(50, 1, (47, 2, 1), 2)
    assert found[0].edges == (0.1, 0.5)


def test_step_begins_where_the_weight_changes() -> None:
    found = windows_from_frame(frame((2, "weight", 0.25), (4, "weight", 0.25)))
    assert [w.step for w in found] == [0, 1, 1]


def test_stable_row_may_hold_the_complement_of_the_weight() -> None:
    assert windows_from_frame(frame((1, "weight", 0.95)))[0].weight == 0.05


def test_side_without_a_row_is_no_data() -> None:
    assert windows_from_frame(frame().drop(index=2))[1].canary is None


def test_empty_requests_are_no_data_not_zero() -> None:
    found = windows_from_frame(frame((2, "requests", math.nan), (2, "errors", math.nan)))
    assert found[1].canary is None
    assert found[1].stable is not None


def test_half_a_histogram_is_no_histogram() -> None:
    canary = windows_from_frame(frame((2, "le_0.5", math.nan)))[1].canary
    assert canary is not None
    assert canary.buckets == ()


def test_times_may_be_iso_and_rows_in_any_order() -> None:
    times = [f"2026-03-01T10:00:{at:02d}Z" for at in (0, 0, 30, 30)] + ["2026-03-01T10:01:00Z"] * 2
    found = windows_from_frame(frame(start=times).iloc[::-1])
    assert [w.end - w.start for w in found] == [30, 30, 30]
    assert found[0].start == pd.Timestamp("2026-03-01T10:00:00Z").timestamp()


def test_broken_windows_keep_their_reason() -> None:
    found = windows_from_frame(frame(broken=["", "", "counter reset", None, 1, 0]))
    assert [w.broken for w in found] == [None, "counter reset", "marked as broken"]


def test_empty_table_has_no_windows() -> None:
    assert windows_from_frame(frame().iloc[:0]) == []
    assert windows_from_frame(frame_from_windows([])) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ((2, "requests", -1), "column 'requests', row 3: -1 is negative"),
        ((2, "requests", 50.5), "column 'requests', row 3: 50.5 is not a whole number"),
        ((2, "requests", "many"), "column 'requests', row 3: 'many' is no number"),
        ((2, "requests", math.inf), "column 'requests', row 3: infinity"),
        ((2, "requests", 1e18), "column 'requests', row 3: 1e\\+18 is too large"),
        ((2, "errors", 51), "column 'errors', row 3: 51 of 50 requests"),
        ((2, "errors", math.nan), "column 'errors', row 3: empty while requests are not"),
        ((2, "side", "Canary"), "column 'side', row 3: 'Canary' is no side; write 'canary' or 'stable'"),
        ((2, "side", math.nan), "column 'side', row 3: nan is no side"),
        ((2, "weight", 5), "column 'weight', row 3: 5 is not between 0 and 1"),
        ((2, "window", 0), "column 'window', row 3: canary of window 0 stands in row 1 already"),
        ((2, "window", math.nan), "column 'window', row 3: a value is missing"),
        ((2, "start", "noon"), "column 'start', row 3: 'noon' is neither epoch seconds nor an ISO time"),
        ((2, "start", 31.0), "column 'start', row 4: the two sides of one window begin at different times"),
        ((2, "le_0.5", -2), "column 'le_0.5', row 3: -2 is negative"),
    ],
)
def test_wrong_cell_is_named_with_column_and_row(change: tuple[int, str, Any], sentence: str) -> None:
    with pytest.raises(FrameError, match=sentence):
        windows_from_frame(frame(change))


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (frame().drop(columns="errors"), "column 'errors' is missing"),
        (frame().drop(columns="le_inf"), "column 'le_inf' is missing"),
        (frame().rename(columns={"le_0.5": "le_fast"}), "column 'le_fast': a bucket is named by its upper edge"),
        (frame(sales_events=1), "column 'sales_of' is missing"),
        (frame(sales_events=3, sales_of=2), "column 'sales_events', row 1: 3 of 2 sales_of"),
        (frame(end=0.0), "column 'end', window 0: it ends before it begins"),
        (frame(start=0.0), "column 'start', window 1: it does not begin after the window before"),
        (frame(step=0.5), "column 'step', row 1: a step is a whole number"),
        (pd.concat([frame(), frame()[["errors"]]], axis=1), "column 'errors' stands twice"),
        (frame(value_p99="fast"), "column 'value_p99', row 1: 'fast' is no number"),
    ],
)
def test_wrong_table_is_refused_with_a_sentence(made: pd.DataFrame, sentence: str) -> None:
    with pytest.raises(FrameError, match=sentence):
        windows_from_frame(made)

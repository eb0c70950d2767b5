"""What the demo shows: on wide and narrow terminals, and where there is no terminal."""

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
from rich.console import Console
from rich.table import Table

from canary_release.core.release import CheckKind
from canary_release.core.values import Decision, Verdict
from demo import live_table, wording_demo
from demo.live_table import CheckState, ReleaseResult, Snapshot

ERRORS = CheckState("error_rate", CheckKind.PROPORTION, 0.0041, 0.039, 57.9)
LATENCY = CheckState("page_load_time", CheckKind.LATENCY, 0.0221, 0.0231, 0.4)
STEP = Snapshot(
    at=1_700_000_000.0,
    old="v1",
    new="v2",
    step=2,
    steps=4,
    asked=Decimal(5),
    read_back=Decimal(5),
    share=0.048,
    checks=(ERRORS, LATENCY),
)
FAILED = replace(
    STEP,
    at=STEP.at + 3,
    checks=(replace(ERRORS, evidence=4100.0, verdict=Verdict.FAIL), LATENCY),
    decision=Decision.ROLL_BACK,
    note="error_rate 9.5 times worse",
)
BACK = replace(FAILED, at=STEP.at + 4, asked=Decimal(0), read_back=Decimal(0), share=0.0, decision=None, note="")
RESULTS = [
    ReleaseResult("v1", "v2", "promoted", hurt=3, exposure=61.2, to_zero=None, lost=0),
    ReleaseResult("v2", "v3", "rolled back at 5 %", hurt=1041, exposure=13.04, to_zero=0.84, lost=2),
]


def text_of(table: Table, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_table_fits_the_terminal_and_says_everything(width: int) -> None:
    lines = text_of(live_table.render([STEP, FAILED, BACK], width=width), width)
    assert max(len(line) for line in lines) <= width
    text = "\n".join(lines)
    for words in (
        *("v1 -> v2", "2/4", "5 %", "4.8 %", "3.90 % vs 0.41 %", "23 ms vs 22 ms", "57/100", "4,100/100", "FAIL"),
        *("error_rate", "page_load_time", "roll back", wording_demo.clock_time(STEP.at)),
    ):
        assert words in text
    assert "9.5 times" in text


def test_wide_terminal_has_a_row_on_one_line() -> None:
    lines = text_of(live_table.render([STEP], width=140), 140)
    (row,) = (line for line in lines if "2/4" in line)
    for words in ("v1 -> v2", "5 %", "4.8 %", "3.90 % vs 0.41 %", "57/100", "23 ms vs 22 ms", "0/100"):
        assert words in row


def test_third_check_is_shown_even_if_it_has_no_room_for_a_column() -> None:
    third = CheckState("queue_depth", CheckKind.VALUE, 12.0, 13.5, None)
    text = "\n".join(text_of(live_table.render([replace(STEP, checks=(ERRORS, LATENCY, third))], width=140), 140))
    assert "queue_depth 13.5 vs 12 -" in text


def test_before_the_first_step_nothing_is_claimed() -> None:
    start = Snapshot(STEP.at, "v1", "v2", 0, 4, None, None, None)
    row = live_table.line(start)
    assert row.endswith("v1 -> v2  step start  asked -  read back -  clients saw -")


def test_check_without_data_says_so_and_one_sided_data_is_not_hidden() -> None:
    blind = replace(ERRORS, stable=None, canary=None, evidence=None)
    half = replace(LATENCY, canary=None)
    row = live_table.line(replace(STEP, checks=(blind, half)))
    assert "error_rate no data evidence -" in row
    assert "page_load_time - vs 22 ms" in row


def test_long_history_keeps_the_newest_rows_on_the_screen() -> None:
    history = [replace(STEP, at=STEP.at + n, step=n, steps=60, note="a long reason " * 3) for n in range(1, 61)]
    lines = text_of(live_table.render(history, width=80, height=24), 80)
    assert len(lines) <= 24
    assert any("60/60" in line for line in lines)
    assert not any("1/60" in line.split() for line in lines)


def test_new_measurements_replace_the_row_and_new_facts_make_one() -> None:
    history = live_table.keep([], STEP)
    history = live_table.keep(history, replace(STEP, at=STEP.at + 1, share=0.051))
    assert [each.share for each in history] == [0.051]
    for changed in (replace(STEP, asked=Decimal(25)), FAILED, BACK, replace(BACK, old="v2", new="v3")):
        history = live_table.keep(history, changed)
    assert len(history) == 5


def test_terminal_shows_the_last_state_and_restores_the_cursor() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=140, height=40, _environ={"TERM": "xterm-256color"})
    shown = live_table.show(iter([STEP, FAILED, BACK]), console)
    assert shown == [STEP, FAILED, BACK]
    assert "4,100/100 FAIL" in out.getvalue()
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


def test_cursor_comes_back_when_the_demo_is_interrupted() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, height=24, _environ={"TERM": "xterm-256color"})

    def interrupted() -> Iterator[Snapshot]:
        yield STEP
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live_table.show(interrupted(), console)
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rindex("\x1b[?25l")


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "dumb terminal"])
def test_without_a_terminal_each_change_is_one_plain_line(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=40, _environ={"TERM": "dumb"})
    again = replace(STEP, at=STEP.at + 1, share=0.05)
    live_table.show(iter([STEP, again, FAILED, BACK]), console)
    live_table.show_summary(RESULTS, console)
    text = out.getvalue()
    assert "\x1b" not in text
    assert text.splitlines()[:3] == [live_table.line(STEP), live_table.line(FAILED), live_table.line(BACK)]
    assert text.count("\n") == 3 + len(RESULTS)


def test_each_line_is_written_at_once() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    seen = []

    def watched() -> Iterator[Snapshot]:
        for snapshot in (STEP, FAILED):
            yield snapshot
            seen.append(os.read(reading, 10_000).decode())

    with os.fdopen(writing, "w", buffering=8192) as out:
        live_table.show(watched(), Console(file=out))
    os.close(reading)
    assert seen == [live_table.line(STEP) + "\n", live_table.line(FAILED) + "\n"]


def test_hostile_names_cannot_steer_the_terminal_or_break_a_line() -> None:
    hostile = replace(STEP, new="v2\x1b[2J\r\n[bold]x[/bold]", note="a\nb", checks=(replace(ERRORS, name="e\x9b1m\n"),))
    row = live_table.line(hostile)
    assert row.isprintable()
    table = "\n".join(text_of(live_table.render([hostile], width=140), 140))
    assert not {"\x1b", "\x9b", "\r"} & set(table)
    assert "[bold]" in row


def test_ascii_output_loses_letters_but_not_the_run() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"))
    live_table.show(iter([replace(STEP, note="für später")]), console)
    assert raw.getvalue().decode("ascii").endswith("f?r sp?ter\n")


@pytest.mark.parametrize("width", [80, 140])
def test_summary_names_outcome_harm_exposure_speed_and_losses(width: int) -> None:
    lines = text_of(live_table.render_summary(RESULTS), width)
    assert max(len(line) for line in lines) <= width
    good, bad = (next(line for line in lines if name in line) for name in ("v1 -> v2", "v2 -> v3"))
    assert good.split() == ["v1", "->", "v2", "promoted", "3", "1", "min", "1", "s", "-", "0"]
    for words in ("rolled back", "1,041", "13.0 s", "0.8 s", "2"):
        assert words in bad


def test_summary_line_speaks_of_evidence_only_where_it_crossed_the_line() -> None:
    good, bad = (live_table.summary_line(result) for result in RESULTS)
    assert "evidence" not in good
    assert "evidence crossed the line -> weight 0 read back in 0.8 s" in bad
    assert "requests hurt by v3: 1041" in bad


@pytest.mark.parametrize(
    ("value", "text"),
    [(99.99, "99/100"), (100.0, "100/100"), (1e300, ">999,999/100"), (float("inf"), ">999,999/100"), (None, "-")],
)
def test_evidence_just_below_the_line_does_not_look_as_if_it_had_crossed(value: float | None, text: str) -> None:
    assert wording_demo.evidence(value, 100.0) == text


@pytest.mark.parametrize(
    ("fraction", "text"), [(0.0, "0 %"), (0.0097, "0.97 %"), (0.0499, "5.0 %"), (0.9999, "100.0 %"), (1.0, "100 %")]
)
def test_small_shares_keep_the_digits_that_matter(fraction: float, text: str) -> None:
    assert wording_demo.share(fraction) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.84, "0.8 s"), (59.97, "1 min 0 s"), (125.4, "2 min 5 s")])
def test_durations_are_read_without_counting(seconds: float, text: str) -> None:
    assert wording_demo.duration(seconds) == text

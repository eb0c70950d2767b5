"""Units: what people write is read exactly, and what cannot be meant is refused with the cure."""

import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary_release.core.problems import CanaryError, UnitError
from canary_release.core.release import LimitKind
from canary_release.core.units import (
    DURATION_PATTERN,
    LIMIT_PATTERN,
    PERCENT_PATTERN,
    read_duration,
    read_limit,
    read_number,
    read_percent,
    say_duration,
    show_duration,
    show_percent,
)

LONGEST = 366 * 86400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("1d2h3m4s", 93784), ("90m", 5400), ("0s", 0)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: int) -> None:
    assert read_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("10", "`10s` or `10m`"),
        ("1:30", "`1h30m` or `1m30s`"),
        ("", "not a duration"),
        ("m", "not a duration"),
        ("1.5h", "whole numbers"),
        ("-5m", "whole numbers"),
        ("5M", "whole numbers"),
        ("٣m", "whole numbers"),
        ("367d", "at most 366d"),
        ("999999d", "too long"),
        ("5m\n", "whole numbers"),
        ("1h 30m", "whole numbers"),
    ],
)
def test_what_is_no_duration_is_refused_with_the_cure(text: str, cure: str) -> None:
    with pytest.raises(UnitError, match=re.escape(cure)):
        read_duration(text)


@given(st.integers(0, LONGEST))
@settings(derandomize=True, deadline=None)
def test_a_duration_shown_reads_back(seconds: int) -> None:
    assert read_duration(show_duration(seconds)) == seconds
    assert re.search(DURATION_PATTERN, show_duration(seconds))


@pytest.mark.parametrize(
    ("text", "percent"), [("1%", "1"), ("0.1%", "0.1"), ("100%", "100"), ("0%", "0"), ("5 %", "5")]
)
def test_a_percentage_is_read_exactly(text: str, percent: str) -> None:
    assert read_percent(text) == Decimal(percent)
    assert re.search(PERCENT_PATTERN, text)


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("5", "write `5%`"),
        ("0.05", "write `5%`, or if you mean less than one percent, `0.05%`"),
        ("100.1%", "100%"),
        ("-1%", "such as `5%`"),
        ("5pp", "such as `5%`"),
        ("nan%", "such as `5%`"),
        ("1e2%", "such as `5%`"),
        ("0,5%", "such as `5%`"),
        ("05%", "such as `5%`"),
        ("9" * 5000 + "%", "such as `5%`"),
    ],
)
def test_what_is_no_percentage_is_refused_with_the_cure(text: str, cure: str) -> None:
    with pytest.raises(UnitError, match=re.escape(cure)):
        read_percent(text)


@given(st.decimals(0, 100, places=4))
@settings(derandomize=True, deadline=None)
def test_a_percentage_shown_reads_back(percent: Decimal) -> None:
    assert read_percent(show_percent(percent)) == percent


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [
        ("10%", LimitKind.RELATIVE, 0.1),
        ("0.5pp", LimitKind.POINTS, 0.005),
        ("50ms", LimitKind.SECONDS, 0.05),
        ("2s", LimitKind.SECONDS, 2.0),
        ("0.41", LimitKind.PLAIN, 0.41),
        ("250%", LimitKind.RELATIVE, 2.5),
    ],
)
def test_a_limit_carries_its_unit_in_its_kind(text: str, kind: LimitKind, amount: float) -> None:
    limit = read_limit(text)
    assert (limit.kind, limit.amount, limit.text) == (kind, amount, text)
    assert re.search(LIMIT_PATTERN, text)


@pytest.mark.parametrize(
    "text", ["+10%", "-1pp", "inf", "nan", "1e999", "10 percent", "101pp", "5min", ".5pp", "1_000"]
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(UnitError):
        read_limit(text)


def test_a_number_with_a_unit_is_no_number() -> None:
    assert read_number("0.95") == 0.95
    with pytest.raises(UnitError, match=r"such as `0.95`"):
        read_number("95%")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"), (0.04, "0.0 s"), (0.42, "0.4 s"), (59.6, "1 min"), (160, "2 min 40 s"), (3600, "1 h"),
        (12_030, "3 h 20 min"), (187_200, "2 d 4 h"), (-5, "0 s"),
    ],
)  # fmt: skip
def test_duration_for_people_has_two_units_at_most(seconds: float, words: str) -> None:
    assert say_duration(seconds) == words


@given(st.text(max_size=30))
@settings(derandomize=True, deadline=None)
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for read in (read_duration, read_percent, read_number, read_limit):
        refusal = ""
        try:
            read(text)
        except CanaryError as error:
            refusal = str(error)
        assert not refusal or refusal.isprintable()

"""Release windows: open by the clock on the wall, also when that clock is changed."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary_release.core.release import ReleaseWindow
from canary_release.core.release_window import describe, is_open, next_opening, next_opening_sentence

BERLIN = "Europe/Berlin"
OFFICE = ReleaseWindow((0, 1, 2, 3), 9 * 60, 16 * 60, BERLIN)


def at(text: str, zone: str = BERLIN, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("text", "open_then"),
    [
        ("2026-11-23 08:59:59", False),
        ("2026-11-23 09:00", True),
        ("2026-11-23 15:59:59", True),
        ("2026-11-23 16:00", False),
        ("2026-11-27 10:00", False),
        ("2026-07-01 09:00", True),
    ],
)
def test_the_window_is_open_from_its_start_to_just_before_its_end(text: str, open_then: bool) -> None:
    assert is_open(OFFICE, at(text)) is open_then


def test_an_open_window_opens_now() -> None:
    assert next_opening(OFFICE, at("2026-11-23 10:00")) == at("2026-11-23 10:00")


def test_on_friday_the_window_opens_next_on_monday() -> None:
    assert next_opening(OFFICE, at("2026-11-27 10:00")) == at("2026-11-30 09:00")


def test_over_the_change_to_summer_time_it_still_opens_at_nine_on_the_wall() -> None:
    opening = next_opening(OFFICE, at("2026-03-27 10:00"))
    assert opening == at("2026-03-30 09:00")
    assert opening - at("2026-03-27 10:00") == (71 - 1) * 3600


def test_a_start_that_the_clock_skips_opens_at_the_change() -> None:
    night = ReleaseWindow((6,), 150, 240, BERLIN)  # Sunday 02:30, which does not exist on 2026-03-29
    assert next_opening(night, at("2026-03-28 12:00")) == at("2026-03-29 03:00")


def test_a_window_skipped_as_a_whole_opens_a_week_later() -> None:
    night = ReleaseWindow((6,), 130, 170, BERLIN)
    assert next_opening(night, at("2026-03-28 12:00")) == at("2026-04-05 02:10")


def test_a_start_that_comes_twice_opens_twice() -> None:
    night = ReleaseWindow((6,), 150, 240, BERLIN)
    first, second = at("2026-10-25 02:30"), at("2026-10-25 02:30", fold=1)
    assert next_opening(night, at("2026-10-24 12:00")) == first
    assert not is_open(night, first + 1800)
    assert next_opening(night, first + 1800) == second


def test_an_end_that_comes_twice_opens_again_at_the_change() -> None:
    night = ReleaseWindow((6,), 60, 150, BERLIN)
    assert next_opening(night, at("2026-10-25 02:30")) == at("2026-10-25 02:00", fold=1)


def test_the_sentence_says_when_it_opens_in_its_own_zone() -> None:
    assert next_opening_sentence(OFFICE, at("2026-11-27 10:00")) == (
        "the release window (mon, tue, wed, thu 09:00-16:00 Europe/Berlin) is closed; "
        "it opens next on mon 2026-11-30 09:00 CET."
    )
    assert next_opening_sentence(OFFICE, at("2026-11-30 10:00")).endswith("is open.")
    assert describe(ReleaseWindow((6,), 0, 1440, "UTC")) == "sun 00:00-24:00 UTC"


ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Santiago",
    "Asia/Beirut",
]
# Around clock changes: Lord Howe moves by half an hour, Santiago and Beirut at midnight.
INSTANTS = st.sampled_from(
    [1774746000, 1793494800, 1775313000, 1775358000, 1774735200, 1788663600, 1792872000]
).flatmap(lambda near: st.integers(near - 4 * 86400, near + 4 * 86400))


@given(
    days=st.sets(st.integers(0, 6), min_size=1).map(lambda days: tuple(sorted(days))),
    minutes=st.lists(st.integers(0, 1440), min_size=2, max_size=2, unique=True).map(sorted),
    zone=st.sampled_from(ZONES),
    instant=INSTANTS,
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_next_opening_is_the_first_open_minute_that_a_search_finds(
    days: tuple[int, ...], minutes: list[int], zone: str, instant: int
) -> None:
    window = ReleaseWindow(days, minutes[0], minutes[1], zone)
    found = next_opening(window, instant)
    assert is_open(window, found)
    # Zone offsets and starts are whole minutes, so a window opens on a whole minute of UTC.
    minute = instant if is_open(window, instant) else (instant // 60 + 1) * 60
    while not is_open(window, minute):
        minute += 60
    assert found == minute

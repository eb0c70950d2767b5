"""Windows, freezes and peak hours: open and closed by the wall clock of their zone, whatever is done to that clock."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary_release.core.release import Calendar, Freeze, ReleaseWindow
from canary_release.core.release_calendar import (
    closed_at,
    longest_until_seen,
    opens_at,
    peak_needed,
    peak_seen,
)
from canary_release.core.release_window import is_open
from canary_release.core.values import Counts, Window
from core.test_release_file import SMALL, load, problems_of

BERLIN = "Europe/Berlin"
OFFICE = ReleaseWindow((0, 1, 2, 3), 9 * 60, 16 * 60, BERLIN)
DAY = 86400


def at(local: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(zone)).timestamp()


def frozen(start: str, end: str, why: str = "year end") -> Freeze:
    return Freeze(at(start), at(end), why)


def test_freeze_closes_an_open_window_and_says_why_and_until_when() -> None:
    calendar = Calendar((OFFICE,), (frozen("2026-12-20T00:00", "2027-01-03T00:00"),))
    closed = closed_at(calendar, at("2026-12-21T10:00"))
    assert closed is not None
    assert closed.sentence == (
        "releases are frozen until sun 2027-01-03 00:00 CET (year end); it opens next on mon 2027-01-04 09:00 CET."
    )


def test_freezes_that_overlap_end_with_the_last_of_them() -> None:
    calendar = Calendar(
        (), (frozen("2026-12-20T00:00", "2026-12-27T00:00"), frozen("2026-12-26T00:00", "2026-12-29T00:00"))
    )
    assert opens_at(calendar, at("2026-12-21T10:00")) == at("2026-12-29T00:00")
    assert closed_at(calendar, at("2026-12-29T00:00")) is None


def test_windows_that_overlap_are_open_while_any_of_them_is() -> None:
    late = ReleaseWindow((0, 4), 15 * 60, 20 * 60, BERLIN)
    calendar = Calendar((OFFICE, late))
    assert closed_at(calendar, at("2026-11-23T18:00")) is None
    closed = closed_at(calendar, at("2026-11-26T17:00"))
    assert closed is not None
    assert closed.until == at("2026-11-27T15:00")
    assert "mon, tue, wed, thu 09:00-16:00 Europe/Berlin; mon, fri 15:00-20:00" in closed.why


def test_without_windows_and_freezes_it_is_always_open() -> None:
    assert closed_at(Calendar(), 0.0) is None


ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Beirut", "UTC"]
# Around clock changes and the ends of years; Lord Howe moves by half an hour, Santiago and Beirut at midnight.
INSTANTS = st.sampled_from(
    [1774746000, 1793494800, 1775313000, 1775358000, 1774735200, 1788663600, 1798675200, 1767139200]
).flatmap(lambda near: st.integers(near - 2 * DAY, near + 2 * DAY))
WINDOWS = st.builds(
    lambda days, minutes, zone: ReleaseWindow(tuple(sorted(days)), minutes[0], minutes[1], zone),
    st.sets(st.integers(0, 6), min_size=3),
    st.lists(st.integers(0, 1440), min_size=2, max_size=2, unique=True).map(sorted),
    st.sampled_from(ZONES),
)


@given(
    windows=st.lists(WINDOWS, max_size=3),
    freezes=st.lists(st.tuples(st.integers(-DAY, DAY), st.integers(60, 2 * DAY)), max_size=3),
    instant=INSTANTS,
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_it_opens_at_the_first_minute_that_a_search_finds(
    windows: list[ReleaseWindow], freezes: list[tuple[int, int]], instant: int
) -> None:
    # Whole minutes, so that searching minute by minute misses nothing.
    spans = [((instant + start) // 60 * 60, (instant + start + length) // 60 * 60) for start, length in freezes]
    calendar = Calendar(tuple(windows), tuple(Freeze(start, end, "x") for start, end in spans))

    def opened(when: float) -> bool:
        frozen_now = any(start <= when < end for start, end in spans)
        return not frozen_now and (not windows or any(is_open(window, when) for window in windows))

    found = opens_at(calendar, instant)
    assert (closed_at(calendar, instant) is None) == opened(instant) == (found == instant)
    if found != instant:
        assert opened(found)
        assert not any(opened(minute) for minute in range((instant // 60 + 1) * 60, int(found), 60))


@given(window=WINDOWS, begin=INSTANTS)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_bake_has_seen_the_peak_within_the_time_that_a_rollout_has_for_it(window: ReleaseWindow, begin: int) -> None:
    # A rollout lives twice as long as its longest plan: a clock change may cut one peak short, not two.
    step = max(60, (window.end_minute - window.start_minute) * 60 // 20)
    looks = range(begin, begin + 2 * int(longest_until_seen(window)), step)
    assert peak_seen(window, [a_window(look, look + step) for look in looks]) >= peak_needed(window)


def a_window(start: float, end: float, **changes: object) -> Window:
    return Window(start, end, Counts(100), Counts(10), **changes)  # type: ignore[arg-type]


EVENING = ReleaseWindow((0, 1, 2, 3, 4, 5, 6), 18 * 60, 21 * 60, BERLIN)


def minutes(start: str, number: int, **changes: object) -> list[Window]:
    return [a_window(at(start) + 60 * n, at(start) + 60 * (n + 1), **changes) for n in range(number)]


def test_peak_is_seen_once_nearly_as_much_of_it_was_watched_as_there_is() -> None:
    assert peak_seen(EVENING, minutes("2026-11-23T17:00", 60)) == 0
    assert peak_seen(EVENING, minutes("2026-11-23T17:00", 61)) == 60
    assert peak_seen(EVENING, minutes("2026-11-23T17:00", 230)) >= peak_needed(EVENING)


def test_broken_windows_have_seen_nothing_of_the_peak() -> None:
    assert peak_seen(EVENING, minutes("2026-11-23T18:00", 180, broken="a counter went backwards")) == 0


def test_peak_on_two_days_a_week_may_be_five_days_away() -> None:
    assert longest_until_seen(ReleaseWindow((0, 2), 0, 60, BERLIN)) == 5 * DAY + 3600 + 3600
    assert longest_until_seen(EVENING) == DAY + 3 * 3600 + 3600


# --- as people write it ---

WINDOW = 'window: {days: [mon], hours: "09:00-16:00", timezone: Europe/Berlin}\n'


def test_freeze_by_days_lasts_to_the_end_of_its_last_day_in_the_windows_zone() -> None:
    release = load(SMALL + WINDOW + "freeze:\n  - {from: 2026-12-20, to: 2027-01-02, why: year end}\n")
    assert release.calendar.freezes == (frozen("2026-12-20T00:00", "2027-01-03T00:00"),)


def test_freeze_by_instants_needs_no_window_when_it_says_its_offset() -> None:
    text = "freeze:\n  - {from: 2026-12-20T18:00+01:00, to: 2026-12-21T06:00Z, why: sale}\n"
    assert load(SMALL + text).calendar.freezes == (Freeze(at("2026-12-20T18:00"), at("2026-12-21T07:00"), "sale"),)


def test_several_windows_make_one_calendar() -> None:
    text = "window:\n  - {days: [mon], timezone: UTC}\n  - {days: [tue], timezone: Europe/Berlin}\nwhen_closed: wait\n"
    calendar = load(SMALL + text).calendar
    assert [window.days for window in calendar.windows] == [(0,), (1,)]
    assert (calendar.when_closed, calendar.allow_finish, calendar.cooldown) == ("wait", False, 0.0)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("freeze:\n  - {from: 2026-12-20, to: 2027-01-02, why: x}\n", 10, "needs a time zone"),
        (WINDOW + "freeze:\n  - {from: 2026-12-20, to: 2026-12-19, why: x}\n", 11, "before it begins"),
        (WINDOW + "freeze:\n  - {from: 2026-12-20T10:00, to: 2026-12-20T10:00, why: x}\n", 11, "ends before it begins"),
        (WINDOW + "freeze:\n  - {from: 2026-02-30, to: 2026-12-19, why: x}\n", 11, "no day or time"),
        (WINDOW + "freeze:\n  - {from: 1500-01-01, to: 2026-12-19, why: x}\n", 11, "not a year from 1990"),
        (WINDOW + "freeze:\n  - {from: tomorrow, to: 2026-12-19, why: x}\n", 11, "write a date or an instant"),
        (WINDOW + "freeze:\n  - {from: 2026-12-20, to: 2026-12-22}\n", 11, "why: is missing"),
        (WINDOW + "freeze:\n  - {form: 2026-12-20, to: 2026-12-22, why: x}\n", 11, "did you mean `from`"),
        (WINDOW + "freeze:\n  - {to: 2026-12-22, why: x}\n", 11, "from: is missing; needed: the first day"),
        ("peak: {hours: \"18:00-21:00\"}\n", 9, "needs a timezone"),
        ("peak: {hours: \"18:00-21:00\", timezone: Europe/Berlln}\n", 9, "did you mean `Europe/Berlin`"),
        ("window: [{days: [mon], timezone: UTC, hour: \"1\"}]\n", 9, "did you mean `hours`"),
        ("window: []\n", 9, "at least 1"),
        ("when_closed: queue\n", 9, "allowed: refuse, wait"),
        ("cooldown: 30\n", 9, "give it a unit"),
    ],
)  # fmt: skip
def test_calendar_that_means_nothing_is_refused_with_place_and_cure(text: str, line: int, words: str) -> None:
    (problem,) = problems_of(SMALL + text)
    assert problem.startswith(f"shop.yaml:{line}: ")
    assert words in problem


def test_step_that_wants_the_peak_needs_the_peak_hours() -> None:
    text = SMALL.replace("weight: 5%, bake: 10m", "weight: 5%, bake: 10m, must_contain_peak: true")
    (problem,) = problems_of(text)
    assert problem.startswith("shop.yaml:5: steps[0].must_contain_peak: needs the busiest hours")
    assert load(text + 'peak: {hours: "18:00-21:00", timezone: Europe/Berlin}\n').calendar.peak is not None

"""When a rollout may start: local days and hours, correct over daylight-saving changes.

The window is read off the local clock: it is open while the wall shows a time from its start to just before its end
on one of its days. Where the clock is set forward over the start, it opens at the change; where the clock is set back
over a border, that stretch of the wall clock comes twice and counts twice.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from canary_release.core.release import ReleaseWindow

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

# One day of the week comes again after 7 days; a clock change may swallow one opening whole, so look at two.
_HORIZON_DAYS = 16
_HOUR = 3600


def is_open(window: ReleaseWindow, instant: float) -> bool:
    """Whether the window is open at ``instant`` (seconds since the epoch)."""
    local = datetime.fromtimestamp(instant, ZoneInfo(window.timezone))
    minute = local.hour * 60 + local.minute
    return local.weekday() in window.days and window.start_minute <= minute < window.end_minute


def next_opening(window: ReleaseWindow, instant: float) -> float:
    """The first instant at or after ``instant`` (seconds since the epoch) at which the window is open."""
    if is_open(window, instant):
        return instant
    zone = ZoneInfo(window.timezone)
    candidates = [*_starts(window, zone, instant), *_clock_changes(zone, instant)]
    return min(candidate for candidate in candidates if candidate > instant and is_open(window, candidate))


def next_opening_sentence(window: ReleaseWindow, instant: float) -> str:
    """One sentence for people: whether the window is open, and when it opens next."""
    if is_open(window, instant):
        return f"the release window ({describe(window)}) is open."
    opening = datetime.fromtimestamp(next_opening(window, instant), ZoneInfo(window.timezone))
    when = f"{DAYS[opening.weekday()]} {opening:%Y-%m-%d %H:%M} {opening.tzname()}"
    return f"the release window ({describe(window)}) is closed; it opens next on {when}."


def describe(window: ReleaseWindow) -> str:
    """``mon, tue 09:00-16:00 Europe/Berlin``."""
    hours = "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (window.start_minute, window.end_minute))
    return f"{', '.join(DAYS[day] for day in window.days)} {hours} {window.timezone}"


def _starts(window: ReleaseWindow, zone: ZoneInfo, instant: float) -> Iterator[float]:
    today = datetime.fromtimestamp(instant, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    for ahead in range(_HORIZON_DAYS):
        start = today + timedelta(days=ahead, minutes=window.start_minute)
        yield start.timestamp()
        yield start.replace(fold=1).timestamp()


def _clock_changes(zone: ZoneInfo, instant: float) -> Iterator[float]:
    """The instants within the horizon at which the zone's offset changes, to the second."""
    first = int(instant)
    for hour in range(first, first + _HORIZON_DAYS * 24 * _HOUR, _HOUR):
        low, high = hour, hour + _HOUR
        if _offset(zone, low) == _offset(zone, high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if _offset(zone, middle) == _offset(zone, low) else (low, middle)
        yield float(high)


def _offset(zone: ZoneInfo, instant: int) -> timedelta | None:
    return datetime.fromtimestamp(instant, UTC).astimezone(zone).utcoffset()

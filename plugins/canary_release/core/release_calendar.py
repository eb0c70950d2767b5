"""Whether traffic may be given to a canary now, and if not, from when on and why: windows, freezes, peak hours.

Open is every instant that lies in one of the windows (any instant when there are none) and in no freeze.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

from canary_release.core.release import Calendar, ReleaseWindow
from canary_release.core.release_window import DAYS, describe, is_open, next_opening
from canary_release.core.values import Window

# A bake that lost a look or two has still seen the peak.
_MOST_OF_IT = 0.9
_DAY = 86400.0
_CLOCK_CHANGE = 3600.0


@dataclass(frozen=True)
class Closed:
    """until: the first instant (seconds since the epoch) at which it is open again. why: a clause for people."""

    until: float
    why: str
    timezone: str = "UTC"

    @property
    def sentence(self) -> str:
        opens = local_time(self.until, self.timezone)
        return f"{self.why}; it opens then." if opens in self.why else f"{self.why}; it opens next on {opens}."


def closed_at(calendar: Calendar, instant: float) -> Closed | None:
    """What keeps it closed at ``instant`` (seconds since the epoch), None while it is open."""
    zone = zone_of(calendar)
    frozen = [freeze for freeze in calendar.freezes if freeze.start <= instant < freeze.end]
    if frozen:
        longest = max(frozen, key=lambda freeze: freeze.end)
        why = f"releases are frozen until {local_time(longest.end, zone)} ({longest.why})"
    elif _in_a_window(calendar.windows, instant):
        return None
    else:
        hours = "; ".join(describe(window) for window in calendar.windows)
        why = f"the release window ({hours}) is closed"
    return Closed(opens_at(calendar, instant), why, zone)


def opens_at(calendar: Calendar, instant: float) -> float:
    """The first instant at or after ``instant`` at which it is open."""
    at = instant
    while True:
        ends = [freeze.end for freeze in calendar.freezes if freeze.start <= at < freeze.end]
        if ends:
            at = max(ends)
        elif _in_a_window(calendar.windows, at):
            return at
        else:
            at = min(next_opening(window, at) for window in calendar.windows)


def zone_of(calendar: Calendar) -> str:
    """The zone in which people read its times."""
    return calendar.windows[0].timezone if calendar.windows else "UTC"


def local_time(instant: float, timezone: str) -> str:
    """``mon 2026-11-30 09:00 CET``."""
    at = datetime.fromtimestamp(instant, ZoneInfo(timezone))
    return f"{DAYS[at.weekday()]} {at:%Y-%m-%d %H:%M} {at.tzname()}"


def _in_a_window(windows: Sequence[ReleaseWindow], instant: float) -> bool:
    return not windows or any(is_open(window, instant) for window in windows)


def peak_needed(peak: ReleaseWindow) -> float:
    """Seconds of peak that a bake must have seen: nearly as many as one peak has."""
    return _MOST_OF_IT * 60.0 * (peak.end_minute - peak.start_minute)


def peak_seen(peak: ReleaseWindow, windows: Iterable[Window]) -> float:
    """Seconds of peak in windows that could be used; each counts as a whole by its middle."""
    usable = (w for w in windows if w.broken is None and w.stable is not None and w.canary is not None)
    return sum(window.seconds for window in usable if is_open(peak, (window.start + window.end) / 2))


def longest_until_seen(peak: ReleaseWindow) -> float:
    """The longest that a bake can take to see the peak, in seconds, whenever it begins."""
    days = [*peak.days, peak.days[0] + 7]
    widest = max(later - earlier for earlier, later in pairwise(days))
    return widest * _DAY + 60.0 * (peak.end_minute - peak.start_minute) + _CLOCK_CHANGE

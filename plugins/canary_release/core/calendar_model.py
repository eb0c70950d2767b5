"""The calendar of a release file as people write it: windows, freezes and peak hours."""

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, field_validator, model_validator

from canary_release.core.field_types import Block, Text, scalar, schema_of, text_of, word_of
from canary_release.core.release import Freeze, ReleaseWindow
from canary_release.core.strict_yaml import Path
from canary_release.core.suggest import did_you_mean, listed, shown

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Day, ...] = get_args(Day)

_HOURS_PATTERN = r"^([01][0-9]|2[0-3]):[0-5][0-9]-(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_INSTANT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?")
_INSTANT_PATTERN = rf"^({_DATE.pattern}|{_INSTANT.pattern})$"
# Beyond these a clock time of some zone is no instant that a computer can tell.
_YEARS = (1990, 2200)


def _zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        hint = did_you_mean(value, available_timezones())
        what = f"{shown(value)} is not a time zone{hint}; write an IANA name such as `Europe/Berlin`"
        raise ValueError(what) from None
    return value


class HoursBlock(Block):
    """Hours of the week."""

    days: list[Annotated[Day, word_of(*WEEKDAYS)]] = Field(
        default=list(WEEKDAYS), description="the days of the week", min_length=1
    )
    hours: Annotated[str, text_of(None, "hours such as `09:00-16:00`"), schema_of(_HOURS_PATTERN, "09:00-16:00")] = (
        Field(default="00:00-24:00", description="local time, from and to")
    )

    @field_validator("days")
    @classmethod
    def _each_once(cls, days: list[Day]) -> list[Day]:
        twice = sorted({day for day in days if days.count(day) > 1})
        if twice:
            raise ValueError(f"{listed(twice)} stands twice; name each day once")
        return days

    @field_validator("hours")
    @classmethod
    def _from_before_to(cls, hours: str) -> str:
        if not re.fullmatch(_HOURS_PATTERN, hours):
            raise ValueError(f"{shown(hours)} is not allowed; write two times of day such as `09:00-16:00`")
        start, end = hours.split("-")
        if start >= end:
            raise ValueError(f"{shown(hours)} ends before it starts; the window must end on the same day")
        return hours

    def in_zone(self, timezone: str) -> ReleaseWindow:
        start, end = (int(time[:2]) * 60 + int(time[3:]) for time in self.hours.split("-"))
        return ReleaseWindow(tuple(sorted(WEEKDAYS.index(day) for day in self.days)), start, end, timezone)


class WindowBlock(HoursBlock):
    """When traffic may be given to a canary."""

    timezone: Text = Field(description="an IANA time zone, such as `Europe/Berlin`")

    _known = field_validator("timezone")(_zone)

    def window(self) -> ReleaseWindow:
        return self.in_zone(self.timezone)


class PeakBlock(HoursBlock):
    """The service's busiest hours."""

    hours: Annotated[str, text_of(None, "hours such as `18:00-21:00`"), schema_of(_HOURS_PATTERN, "18:00-21:00")] = (
        Field(description="local time, from and to, such as `18:00-21:00`")
    )
    timezone: Text = Field(
        default="", description="an IANA time zone; the window's without it", json_schema_extra={"default": None}
    )

    _known = field_validator("timezone")(_zone)


Windows = Annotated[
    Annotated[WindowBlock, Tag("<window>")]
    | Annotated[list[WindowBlock], Field(min_length=1), Tag("<windows>")]
    | Annotated[None, Tag("<none>")],
    Discriminator(lambda value: "<windows>" if isinstance(value, list) else "<none>" if value is None else "<window>"),
]


def _instant(value: Any) -> str:
    text = scalar(value, "a date such as `2026-12-20`")
    if not _DATE.fullmatch(text) and not _INSTANT.fullmatch(text):
        raise ValueError(f"{shown(text)} is not allowed; write a date or an instant: `2026-12-20`, `2026-12-20T18:00`")
    try:
        year = datetime.fromisoformat(text).year
    except ValueError:
        raise ValueError(f"{shown(text)} is no day or time of the calendar") from None
    if not _YEARS[0] <= year < _YEARS[1]:
        raise ValueError(f"{shown(text)} is not a year from {_YEARS[0]} to {_YEARS[1] - 1}")
    return str(text)


Instant = Annotated[str, BeforeValidator(_instant), WithJsonSchema({"type": "string", "pattern": _INSTANT_PATTERN})]


class FreezeBlock(Block):
    """When nothing is released. A date means the whole day, also in ``to``."""

    from_: Instant = Field(alias="from", description="the first day, or an instant, such as `2026-12-20`")
    to: Instant = Field(description="the last day, or the instant from which releases may go on")
    why: Text = Field(description="the reason, shown to whoever has to wait")

    @model_validator(mode="after")
    def _from_before_to(self) -> "FreezeBlock":
        # Whatever the zone, a day cannot end before it begins; instants are compared when the zone is known.
        if self.to[:10] < self.from_[:10] and "T" not in self.from_ + self.to:
            raise ValueError(f"ends on {self.to}, before it begins on {self.from_}; exchange them")
        return self

    @property
    def needs_zone(self) -> bool:
        return any(datetime.fromisoformat(text).tzinfo is None for text in (self.from_, self.to))

    def freeze(self, timezone: str) -> Freeze:
        zone = ZoneInfo(timezone)
        last = date.fromisoformat(self.to) + timedelta(days=1) if _DATE.fullmatch(self.to) else None
        return Freeze(_epoch(self.from_, zone), _epoch(last.isoformat() if last else self.to, zone), self.why)


def _epoch(text: str, zone: ZoneInfo) -> float:
    """A local time that a clock change skips is the change itself; one that comes twice is the first of them."""
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo is not None else at.replace(tzinfo=zone)).timestamp()


def windows_of(window: WindowBlock | list[WindowBlock] | None) -> list[WindowBlock]:
    return [window] if isinstance(window, WindowBlock) else window or []


def zone_of(window: WindowBlock | list[WindowBlock] | None) -> str:
    """The time zone of the first window, empty without one."""
    return next((one.timezone for one in windows_of(window)), "")


def calendar_problems(
    window: WindowBlock | list[WindowBlock] | None,
    freezes: Sequence[FreezeBlock],
    peak: PeakBlock | None,
    wanting_peak: Sequence[Path],
) -> list[tuple[Path, str]]:
    """What does not fit together. wanting_peak: the paths of the steps' ``must_contain_peak``."""
    problems: list[tuple[Path, str]] = []
    zone = zone_of(window)
    for index, block in enumerate(freezes):
        if block.needs_zone and not zone:
            what = "needs a time zone: add a window with its timezone, or write `2026-12-20T00:00+01:00`"
            problems.append((("freeze", index), what))
            continue
        freeze = block.freeze(zone or "UTC")
        if freeze.end <= freeze.start:
            problems.append((("freeze", index), "ends before it begins; exchange `from` and `to`"))
    if peak is not None and not peak.timezone and not zone:
        problems.append((("peak",), "needs a timezone, such as `Europe/Berlin`, since there is no window with one"))
    if peak is None:
        what = 'needs the busiest hours; add `peak: {hours: "18:00-21:00", timezone: Europe/Berlin}` to the file'
        problems += [(path, what) for path in wanting_peak]
    return problems

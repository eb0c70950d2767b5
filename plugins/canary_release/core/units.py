"""Durations, percentages and limits as people write them, and back: ``1h30m``, ``0.1%``, ``0.5pp``, ``800ms``.

Every reader raises UnitError with what was written and what is allowed. Numbers are plain decimals of at most 12 + 12
digits: no signs, exponents, underscores, NaN or infinity.
"""

import re
from decimal import Decimal

from canary_release.core.problems import UnitError
from canary_release.core.release import Limit, LimitKind
from canary_release.core.suggest import shown
from canary_release.core.values import plain

_NUMBER = r"(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,12})?"
_DURATION = re.compile(r"(?=[0-9])(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")
_SECONDS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_LONGEST = 366 * 86400
_QUANTITY = re.compile(rf"({_NUMBER}) ?(%|pp|ms|s)?")

DURATION_PATTERN = r"^(?=[0-9])([0-9]{1,6}d)?([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$"
PERCENT_PATTERN = rf"^{_NUMBER} ?%$"
LIMIT_PATTERN = rf"^{_NUMBER} ?(%|pp|ms|s)?$"


def read_duration(text: str) -> float:
    """Seconds in ``30s``, ``10m``, ``1h30m`` or ``2d``; whole numbers, largest unit first, at most 366 days."""
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        raise UnitError(f"{shown(text)} is not a duration; {_duration_cure(text)}")
    seconds = sum(int(count) * size for count, (_, size) in zip(match.groups(), _SECONDS, strict=True) if count)
    if seconds > _LONGEST:
        raise UnitError(f"{shown(text)} is too long; at most 366d")
    return float(seconds)


def _duration_cure(text: str) -> str:
    if re.fullmatch(r"[0-9]{1,9}", text):
        return f"give it a unit, such as `{text}s` or `{text}m`"
    clock = re.fullmatch(r"([0-9]{1,3}):([0-9]{2})", text)
    if clock:
        first, second = int(clock[1]), int(clock[2])
        return f"write `{first}h{second}m` or `{first}m{second}s`"
    return "allowed are whole numbers with d, h, m and s, such as `30s`, `10m`, `1h30m` or `2d`"


def read_percent(text: str) -> Decimal:
    """The percentage in ``5%`` or ``0.1%``, exact, from 0 to 100."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] != "%":
        raise UnitError(f"{shown(text)} is not a percentage; {_percent_cure(match)}")
    percent = Decimal(match[1])
    if percent > 100:
        raise UnitError(f"{shown(text)} is more than everything; allowed is `0%` to `100%`")
    return percent


def _percent_cure(match: re.Match[str] | None) -> str:
    if match is None or match[2] is not None:
        return "write a percentage such as `5%` or `0.1%`"
    number = Decimal(match[1])
    as_fraction = f"`{show_percent(number * 100)}`, or if you mean less than one percent, " if 0 < number < 1 else ""
    return f"write {as_fraction}`{match[1]}%`"


def read_number(text: str) -> float:
    """A bare number such as ``0.95``, zero or more."""
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] is not None:
        raise UnitError(f"{shown(text)} is not a number; write it plainly, such as `0.95`")
    return float(match[1])


def read_limit(text: str) -> Limit:
    """``10%`` relative to stable, ``0.5pp`` percentage points, ``50ms`` or ``2s`` a time, a bare number as it is."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise UnitError(f"{shown(text)} is not a limit; allowed are `10%`, `0.5pp`, `50ms`, `2s` or a bare number")
    number, unit = Decimal(match[1]), match[2]
    kind, amount = {
        "%": (LimitKind.RELATIVE, number / 100),
        "pp": (LimitKind.POINTS, number / 100),
        "ms": (LimitKind.SECONDS, number / 1000),
        "s": (LimitKind.SECONDS, number),
        None: (LimitKind.PLAIN, number),
    }[unit]
    if unit == "pp" and number > 100:
        raise UnitError(f"{shown(text)} is more than everything; at most `100pp`")
    return Limit(kind, float(amount), text)


def show_duration(seconds: float) -> str:
    """The shortest text that ``read_duration`` reads back; fractions of a second are cut off."""
    rest, parts = int(seconds), []
    for unit, size in _SECONDS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def say_duration(seconds: float) -> str:
    """For people: ``0.4 s``, ``45 s``, ``2 min 40 s``, ``3 h 20 min``, ``2 d 4 h``."""
    if 0 < seconds < 1:
        return f"{seconds:.1f} s"
    whole = max(round(seconds), 0)
    sizes = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")]
    at = next((place for place, (size, _) in enumerate(sizes) if whole >= size), len(sizes) - 1)
    said: list[str] = []
    for size, unit in sizes[at : at + 2]:
        count, whole = divmod(whole, size)
        if count or (not said and unit == "s"):
            said.append(f"{count} {unit}")
    return " ".join(said)


def show_percent(percent: Decimal) -> str:
    """``5%``, ``0.1%``."""
    return f"{plain(percent)}%"

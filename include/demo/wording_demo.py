"""How the demo writes numbers and names: short, with units, the same in the table, in lines and in the summary."""

import time
from decimal import Decimal

from canary_release.core.release import CheckKind
from canary_release.core.values import Decision, plain

UNKNOWN = "-"
MOST_EVIDENCE = 999_999

DECISIONS = {
    Decision.ADVANCE: "advance",
    Decision.HOLD: "hold",
    Decision.PROMOTE: "promote",
    Decision.ROLL_BACK: "roll back",
}


def clean(text: str) -> str:
    """The text on one line without anything that could steer a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def clock_time(at: float) -> str:
    """Seconds since the epoch as local time of the day."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def release_name(old: str, new: str) -> str:
    return f"{clean(old)} -> {clean(new)}"


def weight(percent: Decimal | None) -> str:
    """A weight as it was asked for or read back, exactly."""
    return UNKNOWN if percent is None else f"{plain(percent)} %"


def share(fraction: float | None) -> str:
    """A measured share, 0 to 1, in percent: two decimals below 1 %, where they matter, else one; all and none bare."""
    if fraction is None:
        return UNKNOWN
    if fraction in (0, 1):
        return f"{100 * fraction:.0f} %"
    return f"{100 * fraction:.2f} %" if fraction < 0.01 else f"{100 * fraction:.1f} %"


def measured(kind: CheckKind, value: float | None) -> str:
    """What a check measured on one side: a share in percent, a latency (given in seconds) in ms, or a bare number."""
    if value is None:
        return UNKNOWN
    if kind is CheckKind.PROPORTION:
        return f"{100 * value:.2f} %"
    if kind is CheckKind.LATENCY:
        return f"{1000 * value:.0f} ms"
    return f"{value:.4g}"


def evidence(value: float | None, needed: float) -> str:
    """Evidence against what is needed for a rollback: ``57/100``."""
    if value is None:
        return UNKNOWN
    # Rounded down: 99.7 must not look as if it had crossed the line.
    amount = f">{MOST_EVIDENCE:,}" if value > MOST_EVIDENCE else f"{int(value):,}"
    return f"{amount}/{needed:,.0f}"


def duration(seconds: float | None) -> str:
    """Seconds with one decimal, from a minute on with minutes."""
    if seconds is None:
        return UNKNOWN
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"

"""Recorded windows as lines of a log: what a verdict was made of, for whoever wants to count again."""

from collections.abc import Sequence
from datetime import UTC, datetime

from canary_release.core.values import Counts, Window

_HEADER = ("window", "began", "seconds", "canary", "errors", "stable", "errors", "")


def window_table(windows: Sequence[Window]) -> str:
    """An aligned table for a fixed-width font; ``-`` where a side could not be read."""
    rows = [_HEADER, *(_row(window) for window in windows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "\n".join(
        " │ ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip(" │") for row in rows
    )


def _row(window: Window) -> tuple[str, ...]:
    began = datetime.fromtimestamp(window.start, UTC).strftime("%H:%M:%S")
    sides = (*_side(window.canary), *_side(window.stable))
    return (
        str(window.index),
        began,
        f"{window.seconds:.1f}",
        *sides,
        f"left out: {window.broken}" if window.broken else "",
    )


def _side(counts: Counts | None) -> tuple[str, str]:
    return ("-", "-") if counts is None else (f"{counts.requests:,}", f"{counts.errors:,}")

"""A metric source that plays back recorded windows from a table, one a read: for exercises and for the demo."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import ConnectionSettingsError, FrameError, MetricSourceError
from canary_release.core.values import Cursor, Window
from canary_release.hooks.connections import Strict, find_connection, read_extra

if TYPE_CHECKING:
    import pandas as pd


class ReplayedExtra(Strict):
    """What the extra of the connection may hold."""

    file: str = Field(description="Absolute path of a CSV file: one row for each window and side.")


class ReplayedSource(BaseHook):
    """Connection type ``generic``, the extra's ``file`` is the record; its columns are those of ``core/frames.py``.

    The sides are those of the record, whatever the backends are called.
    """

    class Options(Strict):
        """What a release file says about the record beyond its connection."""

        shift_to_now: bool = Field(
            False, description="Move the times so that the record begins when the baseline is taken."
        )

    def __init__(
        self, connection_id: str, stable: str, canary: str, options: Options, clock: Callable[[], float] = time
    ) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.stable = stable
        self.canary = canary
        self.options = options
        self.clock = clock

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        """The next window of the record; none, and the same cursor, when the record is over.

        Raises MetricSourceError when the record cannot be read or the cursor is none of this source's.
        """
        windows = self._windows
        if cursor is None:
            return [], {"next": 0, "shift": self._shift(windows)}
        place, shift = cursor.get("next"), cursor.get("shift")
        if not isinstance(place, int) or not isinstance(shift, int | float) or not 0 <= place <= len(windows):
            raise MetricSourceError(f"The cursor {dict(cursor)} points into no record like {self._file}; start anew.")
        if place == len(windows):
            return [], dict(cursor)
        window = windows[place]
        moved = replace(window, start=window.start + shift, end=window.end + shift)
        return [moved], {"next": place + 1, "shift": shift}

    def history(self, start: float, end: float) -> list[Window]:
        """The recorded windows that lie wholly between two instants as recorded (seconds since the epoch)."""
        return [window for window in self._windows if start <= window.start and window.end <= end]

    def _shift(self, windows: list[Window]) -> float:
        return self.clock() - windows[0].start if self.options.shift_to_now and windows else 0.0

    @cached_property
    def _file(self) -> Path:
        file = Path(read_extra(find_connection(self.connection_id), ReplayedExtra).file)
        if not file.is_absolute():
            raise ConnectionSettingsError(f"The file in connection {self.connection_id}'s extra must be absolute.")
        return file

    @cached_property
    def _windows(self) -> list[Window]:
        from canary_release.core.frames import windows_from_frame

        try:
            return windows_from_frame(self._table())
        except FrameError as error:
            raise MetricSourceError(f"{self._file}: {error}") from None

    def _table(self) -> "pd.DataFrame":
        import pandas as pd

        try:
            return pd.read_csv(self._file)
        except (OSError, ValueError) as error:
            raise MetricSourceError(f"{self._file} cannot be read as CSV ({type(error).__name__}).") from None

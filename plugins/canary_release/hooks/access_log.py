"""A metric source that reads a load balancer's access log: one JSON object a line, exact counts and response times.

For load balancers whose metrics lack something: nginx and Caddy count nothing by upstream, HAProxy has no histogram.
Formats to copy stand in ``include/nginx``, ``include/haproxy/weights.cfg`` and ``include/caddy``.  Airflow must be able
to read the file.
"""

import json
import math
import time
from bisect import bisect_left
from collections.abc import Callable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from airflow.sdk import BaseHook
from pydantic import Field, field_validator

from canary_release.core.field_types import Duration, with_default
from canary_release.core.problems import ConnectionSettingsError, MetricSourceError
from canary_release.core.values import Counts, Cursor, Window
from canary_release.hooks.connections import Strict, find_connection, read_extra
from canary_release.hooks.log_files import LinesLostError, NewLines, Place, end_of

# Seconds: fine enough for a 95th percentile between 1 ms and 10 s.
EDGES = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.075, 0.1, 0.125, 0.15),
    *(0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0),
)


class AccessLogExtra(Strict):
    """What the extra of the connection may hold."""

    file: str = Field(pattern="^/", description="Absolute path of the access log, as Airflow reaches it.")


class Tally:
    """The counts of one side while its lines are read."""

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.requests = self.errors = 0
        self.buckets = [0] * (len(edges) + 1)

    def add(self, status: int, seconds: float) -> None:
        self.requests += 1
        self.errors += status >= 500
        self.buckets[bisect_left(self.edges, seconds)] += 1

    def counts(self) -> Counts:
        return Counts(self.requests, self.errors, tuple(self.buckets))


class AccessLogSource(BaseHook):
    """Connection type ``generic``; the extra's ``file`` is the log.

    A side that the log has never named since the baseline is None (no data), one without new lines has zero requests.
    Requests that the client gave up before an answer (HAProxy: status or time -1) are not counted.
    """

    class Options(Strict):
        """What a release file says about the log beyond its connection."""

        backend: str = Field("backend", min_length=1, description="Key of a line that holds the backend's name.")
        status: str = Field(
            "status", min_length=1, description="Key that holds the HTTP status; errors are 500 to 599."
        )
        time: str = Field("seconds", min_length=1, description="Key that holds the time to answer.")
        time_unit: Literal["seconds", "milliseconds"] = Field("seconds", description="Unit of that time.")
        names: dict[str, str] = Field(
            default_factory=dict, description="For a backend what a line calls it, where that is not its name."
        )
        edges: tuple[float, ...] = Field(
            EDGES, strict=False, min_length=1, description="Upper edges of the latency buckets, seconds, rising."
        )

        settle: Duration = with_default(0.0, "0s", "How long after a shift nothing is counted yet.")

        @field_validator("edges")
        @classmethod
        def _rising(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
            if not all(math.isfinite(edge) and edge > 0 for edge in edges) or any(a >= b for a, b in pairwise(edges)):
                raise ValueError("edges must be positive numbers of seconds, each larger than the one before")
            return edges

    def __init__(
        self, connection_id: str, stable: str, canary: str, options: Options, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.stable = stable
        self.canary = canary
        self.options = options
        self.clock = clock

    @staticmethod
    def shortest_lease(options: Options) -> float:
        """Seconds, a poll not included: only windows renew a lease."""
        return options.settle

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        """One window with the complete lines since the cursor; with None only a cursor, the end of the log, which moves
        while it settles.

        Lines that cannot be had any more, or are not what the options say, give a broken window that tells which, and
        the next one counts from the log's end.  Raises MetricSourceError when the log cannot be read; the cursor then
        stays good.
        """
        if cursor is None:
            now = self.clock()
            return [], self._baseline(now, now + self.options.settle, [])
        start, places, seen = self._opened(cursor)
        settled = float(cursor.get("settled", start))
        if start < settled:
            return [], self._baseline(self.clock(), settled, seen)
        lines = NewLines(self._file, places)
        tallies = {name: Tally(self.options.edges) for name in (self.stable, self.canary)}
        try:
            for line in lines:
                self._count(line, tallies)
        except LinesLostError as reason:
            return self._broken(start, str(reason), seen)
        now = self.clock()
        if now <= start:
            return self._broken(start, "the clock did not move forward", seen)
        seen = sorted({*seen, *(name for name, tally in tallies.items() if tally.requests)})
        stable, canary = (tallies[name].counts() if name in seen else None for name in (self.stable, self.canary))
        return [Window(start, now, stable, canary, self.options.edges)], _cursor(now, lines.places, seen)

    def _baseline(self, now: float, settled: float, seen: list[str]) -> Cursor:
        return _cursor(now, [end_of(self._file)], seen) | {"settled": settled}

    @cached_property
    def _file(self) -> Path:
        connection = find_connection(self.connection_id)
        if connection.conn_type != "generic":
            raise ConnectionSettingsError(
                f"Connection {self.connection_id} has type {connection.conn_type}; it must be generic."
            )
        return Path(read_extra(connection, AccessLogExtra).file)

    @cached_property
    def _sides(self) -> dict[str, str]:
        """Backends by what a line calls them."""
        return {self.options.names.get(name, name): name for name in (self.stable, self.canary)}

    def _opened(self, cursor: Cursor) -> tuple[float, list[Place], list[str]]:
        try:
            places = [Place.from_json(one) for one in cursor["files"]]
            start, seen = float(cursor["time"]), [str(name) for name in cursor["seen"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            places = []
        if not places:
            raise MetricSourceError("The cursor was not made by this metric source; take a new baseline.")
        return start, places, seen

    def _broken(self, start: float, reason: str, seen: list[str]) -> tuple[list[Window], Cursor]:
        now = max(start, self.clock())
        window = Window(start, now, None, None, self.options.edges, broken=f"{self._file}: {reason}")
        return [window], _cursor(now, [end_of(self._file)], seen)

    def _count(self, line: bytes, tallies: dict[str, Tally]) -> None:
        begin = line.find(b"{")
        if begin < 0:
            # What else the load balancer has to say.
            return
        try:
            # Syslog puts its own words before the object.
            entry = json.loads(line[begin:])
            # Of requests that went nowhere some load balancers do not even have the key.
            tally = tallies.get(self._sides.get(str(entry.get(self.options.backend)), ""))
            if tally is None:
                return
            status, taken = int(entry[self.options.status]), float(entry[self.options.time])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            shown = line[:80].decode(errors="replace").strip()
            raise LinesLostError(f"this line is not what the options say: {shown!r}") from None
        if status < 100 or not taken >= 0:
            return
        tally.add(status, taken / 1000 if self.options.time_unit == "milliseconds" else taken)


def _cursor(now: float, places: list[Place], seen: list[str]) -> dict[str, Any]:
    return {"time": now, "files": [place.to_json() for place in places], "seen": seen}

"""A metric source that asks a SQL database for the counts of each side between two instants.

    metrics:
      type: sql
      connection: orders_db
      query: |
        select backend as side, count(*) as requests, sum(status >= 500) as errors, sum(ms < 250) as le_0.25, ...
        from requests where at >= :start and at < :end and backend in (:stable, :canary) group by backend

The instants and the backends' names are bound by the driver, never put into the text.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from airflow.sdk import BaseHook
from pydantic import Field, field_validator

from canary_release.core.field_types import Duration, with_default
from canary_release.core.problems import ConnectionSettingsError, MetricSourceError
from canary_release.core.values import Counts, Cursor, Side, Window
from canary_release.hooks.connections import CONNECT_SECONDS, Strict, find_connection
from canary_release.hooks.interval_windows import opened_interval

if TYPE_CHECKING:
    import sqlalchemy as sa
    from airflow.sdk import Connection

STATEMENT_SECONDS = 20
MOST_ROWS = 1000
HISTORY_STEP = 60.0  # seconds, at least
HISTORY_WINDOWS = 72  # queries that history makes at most
_DRIVERS = {"postgres": "postgresql+psycopg2", "postgresql": "postgresql+psycopg2", "mysql": "mysql+mysqldb"}
_EVENTS, _OF, _BUCKET, _VALUE = "_events", "_of", "le_", "value_"


class SqlSource(BaseHook):
    """Any Airflow connection to a database that SQLAlchemy knows; the extra's ``sqlalchemy_url`` wins over its parts.

    The query gives one row for each side that it knows something of, with the columns of ``core/frames.py``: ``side``
    (a backend's name, ``stable`` or ``canary``), ``requests``, ``errors``, ``le_<seconds>`` ... ``le_inf`` (not
    cumulative), ``<name>_events`` and ``<name>_of``, ``value_<name>``, ``instances``.  Bound are ``:start`` (counted),
    ``:end`` (not counted any more), ``:stable`` and ``:canary``.
    """

    class Options(Strict):
        """What a release file says about the database beyond its connection."""

        query: str = Field(description="One SELECT with :start and :end, a row for each side.")
        times: Literal["timestamp", "epoch", "iso"] = Field(
            "timestamp", description="What :start and :end are: timestamps in UTC, seconds since 1970, or ISO text."
        )
        delay: Duration = with_default(10.0, "10s", "How long rows take until they can be read.")
        settle: Duration = with_default(0.0, "0s", "How long after a shift nothing is counted yet.")

        @field_validator("query")
        @classmethod
        def _bounded(cls, query: str) -> str:
            missing = [name for name in (":start", ":end") if name not in query]
            if missing:
                raise ValueError(f"the query must use {missing[0]}, else every look would count everything again")
            return query

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
        """Seconds: only windows renew a lease, and the first comes after the delay."""
        return options.delay + options.settle

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        """One window from the cursor to now less the delay; with None a cursor, after the query was tried once.

        A side without a row is None, and so is one whose requests are NULL.  Raises MetricSourceError when the database
        cannot be read or answers with rows that are no counts; the cursor then stays good.
        """
        now = self.clock()
        if cursor is None:
            self._window(now - 1, now)
            return [], {"until": now + self.options.settle}
        start, end = opened_interval(cursor), now - self.options.delay
        if end <= start:
            return [], dict(cursor)
        return [self._window(start, end)], {"until": end}

    def history(self, start: float, end: float) -> list[Window]:
        """At most 72 windows of equal length, a minute or more, between two instants. Raises MetricSourceError."""
        step = max(HISTORY_STEP, (end - start) / HISTORY_WINDOWS)
        count = int((end - start) // step)
        return [self._window(start + place * step, start + (place + 1) * step) for place in range(count)]

    def _window(self, start: float, end: float) -> Window:
        rows: dict[Side, Mapping[str, Any]] = {}
        for row in self._rows(start, end):
            side = self._side(row)
            if side in rows:
                raise MetricSourceError(f"The query of {self.connection_id} gave two rows for {side}; add them up.")
            rows[side] = row
        edges = _edges(next(iter(rows.values()), {}))
        stable, canary = (_counts(rows.get(side)) for side in (Side.STABLE, Side.CANARY))
        return Window(start, end, stable, canary, edges)

    def _side(self, row: Mapping[str, Any]) -> Side:
        known = {"stable": Side.STABLE, "canary": Side.CANARY, self.stable: Side.STABLE, self.canary: Side.CANARY}
        side = known.get(str(row.get("side")))
        if side is None:
            raise MetricSourceError(
                f"The query of {self.connection_id} gave the side {row.get('side')!r}; known are {', '.join(known)}."
            )
        return side

    def _rows(self, start: float, end: float) -> list[dict[str, Any]]:
        import sqlalchemy as sa
        from sqlalchemy.exc import SQLAlchemyError

        bound = {"start": self._time(start), "end": self._time(end), "stable": self.stable, "canary": self.canary}
        try:
            with self._connected() as connection:
                statement = sa.text(self.options.query)
                needed = {name: bound[name] for name in statement.compile().params if name in bound}
                result = connection.execute(statement, needed)
                if not result.returns_rows:
                    raise MetricSourceError(f"The query of {self.connection_id} gives no rows; it must be a SELECT.")
                return [dict(row) for row in result.mappings().fetchmany(MOST_ROWS)]
        except SQLAlchemyError as error:
            # The text of the error may hold the query's values and the connection's parts.
            cause = getattr(error, "orig", None) or error
            said = " ".join(str(cause).split())[:200] if getattr(error, "statement", None) else ""
            raise MetricSourceError(
                f"The database of connection {self.connection_id} cannot be read ({type(cause).__name__})"
                f"{': ' + said if said else '; check the connection'}."
            ) from None
        except ImportError as error:
            raise ConnectionSettingsError(
                f"Connection {self.connection_id} needs the Python package {error.name}; install it."
            ) from None

    def _time(self, moment: float) -> float | str | datetime:
        if self.options.times == "epoch":
            return moment
        instant = datetime.fromtimestamp(moment, UTC)
        return instant.isoformat() if self.options.times == "iso" else instant

    @contextmanager
    def _connected(self) -> Iterator["sa.Connection"]:
        """A connection that writes nothing: whatever the query does is rolled back."""
        with self._engine.connect() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET TRANSACTION READ ONLY")
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {STATEMENT_SECONDS * 1000}")
            if self._engine.dialect.name == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
            try:
                yield connection
            finally:
                connection.rollback()

    @cached_property
    def _engine(self) -> "sa.Engine":
        import sqlalchemy as sa
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError
        from sqlalchemy.pool import NullPool

        try:
            url = sa.make_url(_url(find_connection(self.connection_id)))
            wait = (
                {"connect_timeout": int(CONNECT_SECONDS)} if url.get_backend_name() in ("postgresql", "mysql") else {}
            )
            return sa.create_engine(url, poolclass=NullPool, connect_args=wait)
        except (ArgumentError, NoSuchModuleError):
            raise ConnectionSettingsError(
                f"Connection {self.connection_id} is no database that SQLAlchemy knows; correct its type."
            ) from None


def _url(connection: "Connection") -> Any:
    import sqlalchemy as sa

    extra = connection.extra_dejson
    if extra.get("sqlalchemy_url"):
        return str(extra["sqlalchemy_url"])
    if connection.conn_type == "sqlite":
        return sa.URL.create("sqlite", database=connection.host or connection.schema)
    kind = connection.conn_type or ""
    return sa.URL.create(
        _DRIVERS.get(kind, kind),
        username=connection.login,
        password=connection.password,
        host=connection.host,
        port=connection.port,
        database=connection.schema,
    )


def _edges(row: Mapping[str, Any]) -> tuple[float, ...]:
    """The edges of a row's buckets without infinity, ascending; empty when it has none."""
    found = sorted(_edge(name) for name in row if name.startswith(_BUCKET))
    if found and found[-1] != math.inf:
        raise MetricSourceError("The query has no column le_inf: requests slower than the last bucket would be lost.")
    return tuple(found[:-1])


def _edge(name: str) -> float:
    try:
        edge = float(name.removeprefix(_BUCKET))
    except ValueError:
        edge = math.nan
    if not edge > 0:
        raise MetricSourceError(f"The column {name!r} names no bucket; write its upper edge in seconds, as in le_0.25.")
    return edge


def _counts(row: Mapping[str, Any] | None) -> Counts | None:
    if row is None or row.get("requests") is None:
        return None
    ordered = sorted((_edge(name), name) for name in row if name.startswith(_BUCKET))
    names = [name.removesuffix(_EVENTS) for name in row if name.endswith(_EVENTS)]
    requests, errors = _whole(row, "requests"), _whole(row, "errors")
    if errors > requests:
        raise MetricSourceError(
            f"The query gave {errors} errors of {requests} requests; there cannot be more than all."
        )
    return Counts(
        requests=requests,
        errors=errors,
        buckets=tuple(_whole(row, name) for _, name in ordered),
        instances=None if row.get("instances") is None else _whole(row, "instances"),
        proportions={name: (_whole(row, name + _EVENTS), _whole(row, name + _OF)) for name in names},
        values={
            name.removeprefix(_VALUE): _number(row, name)
            for name, value in row.items()
            if name.startswith(_VALUE) and value is not None
        },
    )


def _number(row: Mapping[str, Any], name: str) -> float:
    if name not in row:
        raise MetricSourceError(f"The query has no column {name}; needed are side, requests and errors.")
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or not math.isfinite(value):
        raise MetricSourceError(f"The query gave {str(value)[:40]!r} in the column {name}, which is no number.")
    return float(value)


def _whole(row: Mapping[str, Any], name: str) -> int:
    # SUM over no rows is NULL, and these rows belong to a side whose requests are known.
    if name in row and row[name] is None:
        return 0
    number = _number(row, name)
    if number < 0 or not number.is_integer():
        raise MetricSourceError(f"The query gave {number:g} in the column {name}; counts are whole and at least 0.")
    return int(number)

"""Counts from real databases: SQLite and PostgreSQL, with a table of requests that a test fills."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from canary_release.core.problems import ConnectionSettingsError, MetricSourceError
from canary_release.core.values import Counts, Cursor, Window
from canary_release.hooks.sql_source import SqlSource
from postgres import Postgres

START = 1_800_000_000.0
QUERY = """
    select backend as side, count(*) as requests,
           sum(case when status >= 500 then 1 else 0 end) as errors,
           sum(case when seconds <= 0.25 then 1 else 0 end) as "le_0.25",
           sum(case when seconds > 0.25 then 1 else 0 end) as le_inf,
           sum(case when bought then 1 else 0 end) as sales_events, count(*) as sales_of,
           avg(seconds) as value_mean
    from requests where at >= :start and at < :end and backend in (:stable, :canary) group by backend
"""


class Database:
    """A table of requests and a source that reads it."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = sa.create_engine(url)
        self.epoch = self.engine.dialect.name == "sqlite"
        kind = "double precision" if self.epoch else "timestamptz"
        self.run("drop table if exists requests")
        self.run(f"create table requests (at {kind}, backend text, status int, seconds double precision, bought bool)")
        self.now = START
        connection = {"conn_type": "generic", "extra": {"sqlalchemy_url": url}}
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(connection))

    def run(self, text: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.text(text))

    def happened(self, backend: str, *statuses: int, at: float, seconds: float = 0.1) -> None:
        moment = at if self.epoch else datetime.fromtimestamp(at, UTC)
        row = {"at": moment, "b": backend, "sec": seconds}
        with self.engine.begin() as connection:
            for status in statuses:
                connection.execute(
                    sa.text("insert into requests values (:at, :b, :st, :sec, :st = 201)"), {**row, "st": status}
                )

    def source(self, query: str = QUERY, **options: Any) -> SqlSource:
        given = {"times": "epoch" if self.epoch else "timestamp", "delay": "10s", "query": query, **options}
        return SqlSource("store", "blue", "green", SqlSource.Options.model_validate(given), clock=lambda: self.now)


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with Postgres() as server:
        yield server.url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path / 'shop.db'}", monkeypatch)
    else:
        made = Database(request.getfixturevalue("postgres_url"), monkeypatch)
    yield made
    made.engine.dispose()


@pytest.fixture
def sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'shop.db'}", monkeypatch)
    yield made
    made.engine.dispose()


def one(source: SqlSource, cursor: Cursor) -> tuple[Window, Cursor]:
    windows, cursor = source.read(json.loads(json.dumps(cursor)))
    assert len(windows) == 1
    return windows[0], cursor


def test_a_window_has_exactly_the_rows_since_the_cursor(database: Database) -> None:
    source = database.source()
    database.happened("blue", 200, at=START - 1)
    _, cursor = source.read(None)
    database.happened("blue", 200, 201, 404, at=START)
    database.happened("blue", 503, at=START + 49, seconds=0.4)
    database.happened("green", 200, at=START + 20, seconds=0.3)
    database.happened("blue", 200, at=START + 50)
    database.now += 60
    window, cursor = one(source, cursor)
    assert (window.start, window.end, window.edges) == (START, START + 50, (0.25,))
    assert window.stable is not None
    assert window.stable.values["mean"] == pytest.approx(0.175)
    assert window.stable == Counts(4, 1, (3, 1), proportions={"sales": (1, 4)}, values=window.stable.values)
    assert window.canary == Counts(1, 0, (0, 1), proportions={"sales": (0, 1)}, values={"mean": 0.3})
    database.now += 60
    window, _ = one(source, cursor)
    assert (window.start, window.end) == (START + 50, START + 110)
    assert window.stable is not None
    assert window.stable.requests == 1


def test_a_side_without_a_row_is_absent_and_none_is_zero(database: Database) -> None:
    source = database.source()
    _, cursor = source.read(None)
    database.happened("blue", 200, at=START + 1)
    database.now += 30
    window, cursor = one(source, cursor)
    assert window.canary is None
    database.now += 30
    window, _ = one(source, cursor)
    assert (window.stable, window.canary) == (None, None)


def test_rows_that_come_late_are_waited_for(database: Database) -> None:
    source = database.source(delay="30s")
    _, cursor = source.read(None)
    database.now += 30
    assert source.read(cursor) == ([], cursor)
    database.now += 10
    database.happened("blue", 200, at=START + 5)
    window, _ = one(source, cursor)
    assert (window.end, window.stable and window.stable.requests) == (START + 10, 1)


def test_what_happens_while_it_settles_is_not_counted(database: Database) -> None:
    source = database.source(settle="20s")
    _, cursor = source.read(None)
    database.happened("blue", 500, at=START + 19)
    database.happened("blue", 200, at=START + 20)
    database.now += 60
    window, _ = one(source, cursor)
    assert window.stable is not None
    assert (window.start, window.stable.requests, window.stable.errors) == (START + 20, 1, 0)


def test_history_is_windows_of_a_minute_or_more(database: Database) -> None:
    for minute in range(10):
        database.happened("blue", *[200] * (minute + 1), at=START + 60 * minute)
    windows = database.source().history(START, START + 600)
    assert [window.stable.requests for window in windows if window.stable] == list(range(1, 11))
    assert len(database.source().history(START, START + 6 * 3600)) == 72


def test_names_and_instants_are_bound_and_never_spliced(database: Database) -> None:
    evil = "blue'; drop table requests; --"
    given = SqlSource.Options.model_validate({"query": QUERY, "times": "epoch" if database.epoch else "timestamp"})
    source = SqlSource("store", evil, "green", given, clock=lambda: database.now)
    database.happened(evil, 200, at=START - 0.5)
    source.read(None)
    assert source.history(START - 60, START)[0].stable is not None


def test_a_query_cannot_write(database: Database) -> None:
    database.happened("blue", 200, at=START)
    writes = (
        "delete from requests where at < :start or at >= :end returning 'stable' as side, 0 as requests, 0 as errors"
    )
    with pytest.raises(MetricSourceError, match=r"read-?\s?only"):
        database.source(writes).read(None)
    with database.engine.connect() as connection:
        assert connection.execute(sa.text("select count(*) from requests")).scalar() == 1


@pytest.mark.parametrize(
    ("select", "sentence"),
    [
        ("'blue' as side, 1 as requests", "no column errors"),
        ("'blue' as side, 1.5 as requests, 0 as errors", "1.5 in the column requests; counts are whole"),
        ("'blue' as side, -1 as requests, 0 as errors", "whole and at least 0"),
        ("'blue' as side, 'x' as requests, 0 as errors", "'x' in the column requests, which is no number"),
        ("'blue' as side, 1 as requests, 2 as errors", "2 errors of 1 requests"),
        ("'red' as side, 1 as requests, 0 as errors", "the side 'red'; known are stable, canary, blue, green"),
        ("1 as requests, 0 as errors", "the side None"),
        ("'blue' as side, 1 as requests, 0 as errors, 1 as \"le_0.1\"", "no column le_inf"),
        ("'blue' as side, 1 as requests, 0 as errors, 1 as le_fast", "'le_fast' names no bucket"),
        ("'blue' as side, 1 as requests, 0 as errors from requests union all select 'stable', 1, 0", "two rows"),
        ("nonsense", "cannot be read .*nonsense"),
    ],
)
def test_rows_that_are_no_counts_are_errors_that_name_the_column(
    database: Database, select: str, sentence: str
) -> None:
    database.happened("blue", 200, at=START)
    with pytest.raises(MetricSourceError, match=sentence):
        database.source(f"with bounds as (select :start as s, :end as e) select {select}").read(None)


def test_a_side_whose_requests_are_null_is_absent(sqlite: Database) -> None:
    source = sqlite.source("select 'blue' as side, null as requests, 3 as errors where :start < :end")
    _, cursor = source.read(None)
    sqlite.now += 60
    window, _ = one(source, cursor)
    assert window.stable is None


def test_a_database_that_is_away_is_an_error_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "postgres", "host": "127.0.0.1", "port": 1, "login": "u", "password": "hunter2hunter2"}
    monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(connection))
    source = SqlSource("store", "blue", "green", SqlSource.Options(query=QUERY))
    with pytest.raises(MetricSourceError, match="connection store cannot be read") as error:
        source.read(None)
    assert "hunter2" not in str(error.value)


def test_a_connection_that_is_no_database_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps({"conn_type": "ftp", "host": "127.0.0.1"}))
    with pytest.raises(ConnectionSettingsError, match="no database that SQLAlchemy knows"):
        SqlSource("store", "blue", "green", SqlSource.Options(query=QUERY)).read(None)


@pytest.mark.parametrize("cursor", [{}, {"until": "noon"}, {"until": True}])
def test_a_cursor_of_another_source_is_refused(sqlite: Database, cursor: Cursor) -> None:
    with pytest.raises(MetricSourceError, match="cursor"):
        sqlite.source().read(cursor)


@pytest.mark.parametrize("options", [{}, {"query": "select 1"}, {"query": QUERY, "times": "utc"}])
def test_a_query_without_its_bounds_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SqlSource.Options.model_validate(options)

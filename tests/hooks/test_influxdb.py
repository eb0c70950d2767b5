"""InfluxDB: a real 1.x server for InfluxQL, and Flux's CSV as it looks from a little one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from pydantic import ValidationError

from canary_release.core.problems import MetricSourceError
from canary_release.core.values import Counts, Cursor, Window
from canary_release.hooks.influxdb import InfluxSource
from debian import require_tool
from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process, answers
from hooks.store_server import Asked, Said, StoreServer, store_server

START = 1_800_000_000.0  # a whole minute
REQUESTS = 'SELECT sum("count") FROM "requests" WHERE "backend" = $backend'
# The last condition would let everything through if the time were just put behind it.
ERRORS = REQUESTS + """ AND "code" = '500' OR "backend" = $backend AND "code" = '503'"""
SERIES = {"series": [{"columns": ["time", "sum"], "values": [[1000, "x"]]}]}
ONE_ROW = ("2027-01-15T07:59:00Z", "1")
INFLUXQL = {"requests": REQUESTS, "errors": ERRORS, "database": "shop", "delay": "30s"}
PIPELINE = 'from(bucket: "shop") |> range(start: $start, stop: $end) |> filter(fn: (r) => r.backend == $backend)'
FLUX = {
    "language": "flux",
    "org": "shop",
    "requests": PIPELINE,
    "errors": PIPELINE + ' |> filter(fn: (r) => r.code == "5xx")',
    "delay": "30s",
}
CONFIGURATION = """
reporting-disabled = true
bind-address = "{host}:{rpc}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
[http]
  bind-address = "{host}:{web}"
"""


def post(url: str, body: str) -> None:
    with urlopen(Request(url, data=body.encode(), method="POST"), timeout=5):
        pass


@pytest.fixture(scope="module")
def influxd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real InfluxDB 1.x with the empty database ``shop``."""
    binary = require_tool("influxd")
    folder: Path = tmp_path_factory.mktemp("influxdb")
    rpc, web = free_ports(2)
    (folder / "influxdb.conf").write_text(CONFIGURATION.format(host=LOOPBACK, rpc=rpc, web=web, folder=folder))
    url = f"http://{LOOPBACK}:{web}"
    with Process([binary, "-config", folder / "influxdb.conf"], log=folder / "influxdb.log", name="influxd") as process:
        process.wait_until(answers(f"{url}/ping", status=204), 30, f"answer on {url}")
        post(f"{url}/query", urlencode({"q": "CREATE DATABASE shop"}))
        yield url


@pytest.fixture
def influx_connection(influxd: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AIRFLOW_CONN_INFLUX", json.dumps({"conn_type": "http", "host": influxd}))
    return influxd


def write(url: str, backend: str, code: str, count: int, at: float) -> None:
    escaped = backend.replace("\\", "\\\\").replace(" ", r"\ ").replace(",", r"\,").replace("=", r"\=")
    post(f"{url}/write?db=shop&precision=s", f"requests,backend={escaped},code={code} count={count}i {int(at)}")


def source_of(options: dict[str, Any], now: float, stable: str = "v1", canary: str = "v2") -> InfluxSource:
    return InfluxSource("influx", stable, canary, InfluxSource.Options.model_validate(options), clock=lambda: now)


def read(source: InfluxSource, cursor: Cursor) -> tuple[list[Window], Cursor]:
    return source.read(json.loads(json.dumps(cursor)))


def counts(windows: list[Window]) -> list[tuple[float, Counts | None, Counts | None]]:
    return [(window.start - START, window.stable, window.canary) for window in windows]


def test_a_real_server_gives_each_interval_that_is_over_and_none_for_those_without_points(
    influx_connection: str,
) -> None:
    _, cursor = source_of(INFLUXQL, START).read(None)
    for backend, code, count, second in (
        *(("v1", "200", 40, 0), ("v1", "500", 2, 59), ("v1", "503", 1, 10), ("v2", "200", 5, 59)),
        *(("v1", "200", 7, 120), ("v2", "500", 3, 121), ("v1", "200", 99, 180), ("other", "200", 50, 20)),
    ):
        write(influx_connection, backend, code, count, START + second)
    windows, cursor = read(source_of(INFLUXQL, START + 211), cursor)
    assert counts(windows) == [
        (0.0, Counts(43, 3), Counts(5)),
        (60.0, None, None),
        (120.0, Counts(7), Counts(3, 3)),
    ]
    assert read(source_of(INFLUXQL, START + 212), cursor) == ([], cursor)


def test_a_real_server_takes_a_backends_name_for_what_it_is(influx_connection: str) -> None:
    evil = "v9' OR 'x'='x"
    write(influx_connection, evil, "200", 8, START + 3600)
    write(influx_connection, "v1", "200", 900, START + 3600)
    windows = source_of(INFLUXQL, START, stable=evil).history(START + 3600, START + 3660)
    assert counts(windows) == [(3600.0, Counts(8), None)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"database": "nope"}, "could not run the query: database not found"),
        ({"requests": 'SELECT sum("count" FROM x WHERE y = $backend'}, "answered 400"),
        ({"requests": 'SELECT sum("count"), max("count") FROM "requests" WHERE "backend" = $backend'}, "select one"),
    ],
)
def test_a_real_server_that_cannot_run_a_query_is_an_error(
    influx_connection: str, options: dict[str, Any], sentence: str
) -> None:
    write(influx_connection, "v1", "200", 1, START + 7200)
    with pytest.raises(MetricSourceError, match=sentence):
        source_of({**INFLUXQL, **options}, START + 7300).read(None)


class Influx2:
    """Answers Flux with the rows that a test gave for (pipeline's end, backend)."""

    def __init__(self, server: StoreServer) -> None:
        self.server = server
        self.rows: dict[tuple[str, str], list[tuple[str, str]]] = {}
        server.answer = self.answer

    def answer(self, asked: Asked) -> Said:
        kind = "errors" if "5xx" in asked.body else "requests"
        backend = next((name for _, name in self.rows if f'"{name}"' in asked.body), "")
        return Said(annotated(*self.rows.get((kind, backend), [])))


def annotated(*rows: tuple[str, str]) -> str:
    """Annotated CSV: https://docs.influxdata.com/influxdb/v2/reference/syntax/annotated-csv/; nothing without rows."""
    if not rows:
        return "\r\n"
    head = [
        "#group,false,false,true,true,false,false",
        "#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339,long",
        "#default,_result,,,,,",
        ",result,table,_start,_stop,_time,_value",
    ]
    lines = [f",,0,2027-01-15T08:00:00Z,2027-01-15T09:00:00Z,{moment},{value}" for moment, value in rows]
    return "\r\n".join([*head, *lines, "", ""])


@pytest.fixture
def influx2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Influx2]:
    with store_server(lambda _: Said("\r\n")) as server:
        monkeypatch.setenv("AIRFLOW_CONN_INFLUX", server.connection(password="token-0123456789"))
        yield Influx2(server)


def test_flux_gives_each_interval_that_is_over_and_none_for_those_without_rows(influx2: Influx2) -> None:
    _, cursor = source_of(FLUX, START).read(None)
    influx2.rows = {
        ("requests", "v1"): [("2027-01-15T08:00:00Z", "40"), ("2027-01-15T08:02:00Z", "7")],
        ("errors", "v1"): [("2027-01-15T08:00:00Z", "3")],
        ("requests", "v2"): [("2027-01-15T08:00:00.000Z", "5"), ("2027-01-15T08:02:00Z", "")],
    }
    windows, _ = read(source_of(FLUX, START + 211), cursor)
    assert counts(windows) == [(0.0, Counts(40, 3), Counts(5)), (60.0, None, None), (120.0, Counts(7), None)]


def test_what_flux_is_asked_has_the_instants_the_escaped_name_and_the_token(influx2: Influx2) -> None:
    source_of(FLUX, START + 40, stable='a" or true or "${r}').read(None)
    asked = influx2.server.asked[0]
    assert (asked.path, asked.parameters["org"]) == ("/api/v2/query", "shop")
    assert asked.headers["Authorization"] == "Token token-0123456789"
    assert asked.headers["Content-Type"] == "application/vnd.flux"
    assert "range(start: 2027-01-15T07:59:00.000Z, stop: 2027-01-15T08:00:00.000Z)" in asked.body
    assert r'r.backend == "a\" or true or \"\${r}")' in asked.body
    assert asked.body.endswith(
        '|> group() |> aggregateWindow(every: 60000ms, fn: sum, createEmpty: false, timeSrc: "_start")'
    )


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (Said(',error,reference\r\n,"failed to parse: bad, very bad",897\r\n'), "could not run .*bad, very bad"),
        (Said({"code": "unauthorized", "message": "unauthorized access"}, status=401), "answered 401"),
        (Said("<html>log in</html>"), "no CSV of Flux"),
        (Said(annotated(("2027-01-15T07:59:00Z", "many"))), "no CSV of Flux"),
        (Said(annotated(("noon", "1"))), "no CSV of Flux"),
        (Said(annotated(ONE_ROW)[:-30]), "no CSV of Flux"),
        (Said(annotated(ONE_ROW) + annotated(ONE_ROW).replace(",,0,", ",,1,")), "2 series"),
    ],
)
def test_an_answer_of_flux_that_is_none_is_an_error_without_the_token(
    influx2: Influx2, said: Said, sentence: str
) -> None:
    influx2.server.answer = lambda _: said
    with pytest.raises(MetricSourceError, match=sentence) as error:
        source_of({**FLUX, "delay": "0s"}, START).read(None)
    assert "0123456789" not in str(error.value)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (Said({"results": [{"partial": True, **SERIES}]}), "only a part"),
        (Said({"results": [SERIES]}), "no number"),
        (Said({"results": [{"series": [{}, {}]}]}), "2 series where one side was meant"),
        (Said({"results": [{"series": [3]}]}), "no result of InfluxQL"),
        (Said({"results": []}), "no result of InfluxQL"),
        (Said([]), "no result of InfluxQL"),
        (Said('{"results": [{"ser'), "not JSON"),
    ],
)
def test_an_answer_of_influxql_that_is_none_is_an_error(influx2: Influx2, said: Said, sentence: str) -> None:
    influx2.server.answer = lambda _: said
    with pytest.raises(MetricSourceError, match=sentence):
        source_of(INFLUXQL, START).read(None)


@pytest.mark.parametrize(
    "options",
    [
        {**INFLUXQL, "database": None},
        {**INFLUXQL, "org": "shop"},
        {**INFLUXQL, "requests": "SELECT sum(x) FROM y"},
        {**INFLUXQL, "requests": REQUESTS + " GROUP BY time(1s)"},
        {**INFLUXQL, "requests": REQUESTS + "; DROP DATABASE shop"},
        {**FLUX, "database": "shop"},
        {**FLUX, "requests": PIPELINE.replace("$end", "now()")},
        {**FLUX, "requests": PIPELINE + " |> aggregateWindow(every: 1m, fn: sum)"},
        {**FLUX, "requests": PIPELINE.replace("$backend", '"v1"')},
    ],
)
def test_options_that_would_count_wrongly_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        InfluxSource.Options.model_validate(options)

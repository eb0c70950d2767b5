"""Datadog, Graphite and InfluxDB for the suite of all sources: little servers that answer as their documentation shows.

Each answers from the same book of counts, and only what its query asks for: this backend, requests or errors, and these
instants.  InfluxDB itself runs in tests/hooks/test_influxdb.py.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest

from canary_release.hooks.datadog import DatadogSource
from canary_release.hooks.graphite import GraphiteSource
from canary_release.hooks.influxdb import InfluxSource
from contracts.shop import BACKENDS
from contracts.source_case import Case
from hooks.store_server import Asked, Said, store_server

STABLE, CANARY = BACKENDS
START = 1_800_000_000  # a whole minute
INTERVAL, DELAY = 60, 30
Points = list[tuple[int, int]]


@dataclass
class Book:
    """What a store holds: counts by second of (requests or errors, backend)."""

    now: float = START
    next: int = START
    counts: dict[tuple[str, str], Counter[int]] = field(default_factory=dict)

    def happen(self) -> Counter[str]:
        """Both sides have requests in the next interval; it is over, and certain, afterwards."""
        begin, self.next = self.next, self.next + INTERVAL
        for backend, requests in ((STABLE, 90), (CANARY, 10)):
            for place in range(requests):
                self.counts.setdefault(("requests", backend), Counter())[begin + place % INTERVAL] += 1
        self.now = begin + INTERVAL + DELAY
        return Counter({"stable": 90, "canary": 10})

    def points(self, query: str, first: int, end: int) -> Points:
        """Sums of the intervals between two instants, the second not included; what has no request has no point."""
        kind = "errors" if "errors" in query else "requests"
        backend = STABLE if STABLE in query else CANARY
        sums: Counter[int] = Counter()
        for second, count in self.counts.get((kind, backend), Counter()).items():
            if first <= second < end:
                sums[second // INTERVAL * INTERVAL] += count
        return sorted(sums.items())


def datadog(book: Book, asked: Asked) -> Said:
    query, first, last = (asked.parameters[name] for name in ("query", "from", "to"))
    assert query.endswith(f".rollup(sum, {INTERVAL})")
    points = book.points(query, int(first), int(last) + 1)
    series = (
        [{"interval": INTERVAL, "pointlist": [[1000 * at, float(count)] for at, count in points]}] if points else []
    )
    return Said({"status": "ok", "res_type": "time_series", "query": query, "series": series})


def graphite(book: Book, asked: Asked) -> Said:
    target, first, last = (asked.parameters[name] for name in ("target", "from", "until"))
    assert target.endswith(f',"{INTERVAL}s","sum",false)')
    points = book.points(target, int(first) + 1, int(last) + 1)
    return Said([{"target": target, "tags": {}, "datapoints": [[float(count), at] for at, count in points]}])


def influxql(book: Book, asked: Asked) -> Said:
    query = asked.parameters["q"]
    first, end = (int(moment) // 1000 for moment in re.findall(r"time >?<?=? ?(\d+)ms", query)[:2])
    assert query.endswith(f"GROUP BY time({1000 * INTERVAL}ms) fill(none)")
    points = [[1000 * at, count] for at, count in book.points(query, first, end)]
    series = [{"name": "requests", "columns": ["time", "sum"], "values": points}] if points else []
    return Said({"results": [{"statement_id": 0, **({"series": series} if series else {})}]})


def flux(book: Book, asked: Asked) -> Said:
    first, end = (
        int(datetime.fromisoformat(moment).timestamp())
        for moment in re.findall(r"st(?:art|op): ([0-9TZ:.-]+)", asked.body)
    )
    assert f"every: {1000 * INTERVAL}ms, fn: sum" in asked.body
    rows = [
        f",,0,{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ},{count}"
        for at, count in book.points(asked.body, first, end)
    ]
    return Said("\r\n".join([",result,table,_time,_value", *rows, "", ""]) if rows else "\r\n")


@dataclass(frozen=True)
class Store:
    """How one is asked. source: its class; options: of a release file; more: of its connection."""

    answer: Callable[[Book, Asked], Said]
    source: Any
    options: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)


RANGE = "range(start: $start, stop: $end) |> filter(fn: (r) => r.backend == $backend)"
STORES = {
    "datadog": Store(
        datadog,
        DatadogSource,
        {
            "requests": "sum:trace.http.request.hits{version:$backend}.as_count()",
            "errors": "sum:trace.http.request.errors{version:$backend}.as_count()",
        },
        {"password": "application-key-0123456789", "extra": {"api_key": "api-key-0123456789"}},
    ),
    "graphite": Store(
        graphite,
        GraphiteSource,
        {"requests": "sumSeries(counts.$backend.requests)", "errors": "sumSeries(counts.$backend.errors)"},
    ),
    "influxdb": Store(
        influxql,
        InfluxSource,
        {
            "database": "shop",
            "requests": 'SELECT sum("count") FROM "requests" WHERE "backend" = $backend',
            "errors": 'SELECT sum("count") FROM "errors" WHERE "backend" = $backend',
        },
    ),
    "influxdb_flux": Store(
        flux,
        InfluxSource,
        {
            "language": "flux",
            "org": "shop",
            "requests": f'from(bucket: "shop") |> {RANGE}',
            "errors": f'from(bucket: "errors") |> {RANGE}',
        },
        {"password": "token-0123456789"},
    ),
}


def _case(request: pytest.FixtureRequest, name: str) -> Case:
    store, book = STORES[name], Book()
    open_until_the_end = ExitStack()
    request.addfinalizer(open_until_the_end.close)
    server = open_until_the_end.enter_context(store_server(partial(store.answer, book)))
    connection = f"{name}_contract"
    request.getfixturevalue("monkeypatch").setenv(f"AIRFLOW_CONN_{connection.upper()}", server.connection(**store.more))
    given = {**store.options, "interval": f"{INTERVAL}s", "delay": f"{DELAY}s"}
    options = store.source.Options.model_validate(given)
    return Case(
        lambda: store.source(connection, STABLE, CANARY, options, clock=lambda: book.now),
        book.happen,
        connection=connection,
        latency=False,
        interval=INTERVAL,
    )


INTERVAL_STORES: dict[str, Callable[[pytest.FixtureRequest], Case]] = {
    name: partial(_case, name=name) for name in STORES
}

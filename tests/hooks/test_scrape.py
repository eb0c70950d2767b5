"""Counters read from an endpoint that this test writes: resets, garbage, replicas, names of other products."""

import json
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from canary_release.core.problems import MetricSourceError
from canary_release.core.values import Counts, Cursor, Window
from canary_release.hooks.counters import Names
from canary_release.hooks.scrape import ScrapeSource
from contracts.little_servers import Answer, LittleServer, little_server

NAMES = Names(requests="requests_total", backend_label="backend", status_label="status", latency="seconds")


class Endpoint:
    """A metrics endpoint whose text a test sets, and a source that reads it."""

    def __init__(self, server: LittleServer, connection: str) -> None:
        self.server = server
        self.connection = connection
        self.time = 1000.0

    def source(self, **options: object) -> ScrapeSource:
        given = ScrapeSource.Options.model_validate({"names": NAMES, **options})
        return ScrapeSource(self.connection, "old", "new", given, clock=self.clock)

    def clock(self) -> float:
        self.time += 10
        return self.time

    def says(self, *lines: str) -> None:
        self.server.default = Answer("\n".join([*lines, ""]).encode())


def requests(backend: str, status: str, count: object) -> str:
    return f'requests_total{{backend="{backend}",status="{status}"}} {count}'


def histogram(backend: str, *counts: int) -> list[str]:
    edges = ("0.1", "0.5", "+Inf")
    return [f'seconds_bucket{{backend="{backend}",le="{le}"}} {n}' for le, n in zip(edges, counts, strict=True)]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    with little_server(Answer(b"")) as server:
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": server.port}
        monkeypatch.setenv("AIRFLOW_CONN_METRICS", json.dumps(connection))
        yield Endpoint(server, "metrics")


def one(source: ScrapeSource, cursor: Cursor) -> Window:
    windows, _ = source.read(json.loads(json.dumps(cursor)))
    assert len(windows) == 1
    return windows[0]


def test_counts_are_differences_and_buckets_are_not_cumulative(endpoint: Endpoint) -> None:
    source = endpoint.source()
    endpoint.says(requests("old", "200", 100), *histogram("old", 90, 99, 100), requests("new", "200", 1))
    _, cursor = source.read(None)
    endpoint.says(
        requests("old", "200", 160),
        requests("old", "500", 4),
        *histogram("old", 140, 160, 164),
        requests("new", "200", 3),
        requests("new", "503", 2),
    )
    window = one(source, cursor)
    assert window == Window(1010, 1020, Counts(64, 4, (50, 11, 3)), Counts(4, 2, (0, 0, 0)), edges=(0.1, 0.5))


def test_what_happens_while_it_settles_is_not_counted(endpoint: Endpoint) -> None:
    source = endpoint.source(settle="15s")
    endpoint.says(requests("old", "200", 1))
    _, cursor = source.read(None)
    for count in (100, 200):
        endpoint.says(requests("old", "200", count))
        windows, cursor = source.read(json.loads(json.dumps(cursor)))
        assert windows == []
    endpoint.says(requests("old", "200", 205))
    window = one(source, cursor)
    assert (window.start, window.end, window.stable) == (1030, 1040, Counts(5))


def test_a_counter_that_fell_breaks_the_window(endpoint: Endpoint) -> None:
    source = endpoint.source()
    endpoint.says(requests("old", "200", 100), requests("old", "404", 5))
    _, cursor = source.read(None)
    # The sum rises, and one series alone gives the reset away.
    endpoint.says(requests("old", "200", 200), requests("old", "404", 4))
    window = one(source, cursor)
    assert window.broken == "a counter went from 5 to 4"
    assert window.stable is None


def test_a_series_that_vanished_breaks_the_window(endpoint: Endpoint) -> None:
    source = endpoint.source()
    endpoint.says(requests("old", "200", 100), requests("new", "200", 5))
    _, cursor = source.read(None)
    endpoint.says(requests("old", "200", 200))
    assert one(source, cursor).broken == "a counter went from 5 to nothing"


def test_changed_buckets_break_the_window(endpoint: Endpoint) -> None:
    source = endpoint.source()
    endpoint.says(requests("old", "200", 1), *histogram("old", 1, 1, 1))
    _, cursor = source.read(None)
    endpoint.says(
        requests("old", "200", 2), 'seconds_bucket{backend="old",le="+Inf"} 2', *histogram("old", 2, 2, 2)[:1]
    )
    window = one(source, cursor)
    assert window.broken is not None
    assert "buckets changed" in window.broken


def test_a_clock_that_stands_still_breaks_the_window(endpoint: Endpoint) -> None:
    endpoint.says(requests("old", "200", 1))
    source = ScrapeSource("metrics", "old", "new", ScrapeSource.Options(names=NAMES), clock=lambda: 5.0)
    _, cursor = source.read(None)
    assert one(source, cursor).broken == "the clock did not move forward"


@pytest.mark.parametrize("count", ["NaN", "+Inf", "-1", "1.5"])
def test_a_value_that_no_counter_can_have_is_an_error_that_names_the_endpoint(endpoint: Endpoint, count: str) -> None:
    endpoint.says(requests("old", "200", count))
    with pytest.raises(MetricSourceError, match=r"/metrics: requests_total.*is no count"):
        endpoint.source().read(None)


@pytest.mark.parametrize("counts", [(3, 2, 4), (1, 5, 4)])
def test_a_histogram_that_is_not_cumulative_is_an_error(endpoint: Endpoint, counts: tuple[int, int, int]) -> None:
    endpoint.says(requests("old", "200", 4), *histogram("old", *counts))
    with pytest.raises(MetricSourceError, match="no cumulative histogram"):
        endpoint.source().read(None)


@pytest.mark.parametrize("edge", ["NaN", "fast", "-Inf"])
def test_an_edge_that_is_none_is_an_error(endpoint: Endpoint, edge: str) -> None:
    endpoint.says(requests("old", "200", 4), f'seconds_bucket{{backend="old",le="{edge}"}} 4')
    with pytest.raises(MetricSourceError, match="no edge"):
        endpoint.source().read(None)


def test_a_series_without_a_status_is_an_error_since_its_errors_are_unknown(endpoint: Endpoint) -> None:
    endpoint.says('requests_total{backend="old"} 4')
    with pytest.raises(MetricSourceError, match="no label status"):
        endpoint.source().read(None)


def test_an_error_page_is_an_error_and_the_old_cursor_still_covers_the_gap(endpoint: Endpoint) -> None:
    source = endpoint.source()
    endpoint.says(requests("old", "200", 1))
    _, cursor = source.read(None)
    endpoint.server.default = Answer(b"<html>busy</html>", status=503)
    with pytest.raises(MetricSourceError, match="answered 503"):
        source.read(cursor)
    endpoint.says(requests("old", "200", 8))
    assert one(source, cursor).stable == Counts(7)


def test_replicas_are_added_up_and_a_side_may_be_unknown_to_one(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with little_server(Answer(requests("old", "200", 10).encode())) as second:
        monkeypatch.setenv("AIRFLOW_CONN_SECOND", f"http://127.0.0.1:{second.port}")
        source = endpoint.source(replicas=["second"])
        endpoint.says(requests("old", "200", 1), requests("new", "200", 1))
        _, cursor = source.read(None)
        endpoint.says(requests("old", "200", 4), requests("new", "200", 2))
        second.default = Answer(requests("old", "200", 20).encode())
        window = one(source, cursor)
    assert (window.stable, window.canary) == (Counts(13), Counts(1))


def test_instances_are_those_that_are_up_and_replicas_stand_before_the_same_ones(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def up(backend: str, *values: int) -> list[str]:
        return [f'up{{backend="{backend}",url="{place}"}} {value}' for place, value in enumerate(values)]

    seen = [requests("old", "200", 1), requests("new", "200", 1), *up("old", 1, 0, 1), *up("new", 0)]
    endpoint.says(*seen)
    with little_server(Answer("\n".join(seen).encode())) as second:
        monkeypatch.setenv("AIRFLOW_CONN_SECOND", f"http://127.0.0.1:{second.port}")
        source = endpoint.source(replicas=["second"], names=NAMES.model_copy(update={"instances": "up"}))
        window = one(source, source.read(None)[1])
    assert window.stable == Counts(0, instances=2)
    assert window.canary == Counts(0), "none that is up can have answered, so their number is not known"


def test_one_replica_that_cannot_be_read_is_an_error_and_no_smaller_count(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with little_server(Answer(b"")) as second:
        monkeypatch.setenv("AIRFLOW_CONN_SECOND", f"http://127.0.0.1:{second.port}")
        source = endpoint.source(replicas=["second"])
        _, cursor = source.read(None)
    with pytest.raises(MetricSourceError, match="cannot be reached"):
        source.read(cursor)


def test_other_replicas_than_before_break_the_window(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint.says(requests("old", "200", 1))
    _, cursor = endpoint.source().read(None)
    monkeypatch.setenv("AIRFLOW_CONN_SECOND", f"http://127.0.0.1:{endpoint.server.port}")
    assert one(endpoint.source(replicas=["second"]), cursor).broken == "other endpoints were read than before"


def test_milliseconds_and_further_labels_are_understood(endpoint: Endpoint) -> None:
    names = {**NAMES.model_dump(), "latency_unit": "milliseconds", "where": {"zone": "a"}, "backend_suffix": ".local"}
    source = endpoint.source(names=Names.model_validate(names))
    _, cursor = source.read(None)
    endpoint.says(
        'requests_total{backend="old.local",zone="a",status="2xx"} 5',
        'requests_total{backend="old.local",zone="b",status="2xx"} 50',
        'seconds_bucket{backend="old.local",zone="a",le="250"} 4',
        'seconds_bucket{backend="old.local",zone="a",le="+Inf"} 5',
    )
    window = one(source, cursor)
    assert window.edges == (0.25,)
    assert window.stable == Counts(5, 0, (4, 1))


@pytest.mark.parametrize("cursor", [{}, {"time": "noon", "endpoints": {}}, {"time": 1, "endpoints": {"metrics": 3}}])
def test_a_cursor_of_another_source_is_refused(endpoint: Endpoint, cursor: Cursor) -> None:
    with pytest.raises(MetricSourceError, match="cursor"):
        endpoint.source().read(cursor)


@pytest.mark.parametrize(
    "options",
    [{"preset": "apache"}, {"path": "metrics"}, {"path": "//evil/metrics"}, {"preset": "traefik", "names": NAMES}],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ScrapeSource.Options.model_validate(options)

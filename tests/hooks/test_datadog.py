"""Datadog's answers as they look, from a little server: counts, gaps, several series, limits and failures."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from pydantic import ValidationError

from canary_release.core.problems import ConnectionSettingsError, MetricSourceError
from canary_release.core.values import Counts, Cursor, Window
from canary_release.hooks import datadog
from canary_release.hooks.datadog import DatadogSource
from hooks.store_server import Asked, Said, StoreServer, store_server

START = 1_800_000_000.0  # a whole minute
HITS = "sum:trace.http.request.hits{service:shop,version:$backend}.as_count()"
ERRORS = "sum:trace.http.request.errors{service:shop,version:$backend}.as_count()"
LATENCY = "p95:trace.http.request{service:shop,version:$backend}"
KEYS = {"password": "application-key-0123456789", "extra": {"api_key": "api-key-0123456789"}}


class Site:
    """Answers each query with the points that a test gave for (metric, backend)."""

    def __init__(self, server: StoreServer) -> None:
        self.server = server
        self.now = START
        self.points: dict[tuple[str, str], list[Any]] = {}
        server.answer = self.answer

    def answer(self, asked: Asked) -> Said:
        query = asked.parameters["query"]
        found = [p for (metric, backend), p in self.points.items() if metric in query and f":{backend}}}" in query]
        return Said(answer_of(query, *found))

    def source(self, **options: Any) -> DatadogSource:
        given = DatadogSource.Options.model_validate({"requests": HITS, "errors": ERRORS, "delay": "30s", **options})
        return DatadogSource("site", "v1", "v2", given, clock=lambda: self.now)


def answer_of(query: str, *series: list[Any], interval: int = 60) -> dict[str, Any]:
    """A v1 answer in full: https://docs.datadoghq.com/api/latest/metrics/#query-timeseries-points."""
    return {
        "status": "ok",
        "res_type": "time_series",
        "resp_version": 1,
        "query": query,
        "from_date": 1_800_000_000_000,
        "to_date": 1_800_000_060_000,
        "series": [
            {
                "unit": None,
                "query_index": 0,
                "aggr": "sum",
                "metric": "trace.http.request.hits",
                "tag_set": [],
                "expression": query,
                "scope": "service:shop",
                "interval": interval,
                "length": len(points),
                "start": 1_800_000_000_000,
                "end": 1_800_000_059_999,
                "pointlist": [[1000 * moment, value] for moment, value in points],
                "display_name": "trace.http.request.hits",
                "attributes": {},
            }
            for points in series
        ],
        "values": [],
        "times": [],
        "message": "",
        "group_by": [],
    }


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(datadog, "_quiet_until", {})
    with store_server(lambda _: Said({})) as server:
        monkeypatch.setenv("AIRFLOW_CONN_SITE", server.connection(**KEYS))
        yield Site(server)


def read(source: DatadogSource, cursor: Cursor) -> tuple[list[Window], Cursor]:
    return source.read(json.loads(json.dumps(cursor)))


def test_each_interval_that_is_over_is_a_window_and_the_running_one_is_left_out(site: Site) -> None:
    source = site.source()
    _, cursor = source.read(None)
    site.points = {
        ("hits", "v1"): [(START, 120.0), (START + 60, 90.0), (START + 120, 7.0)],
        ("errors", "v1"): [(START, 2.0)],
        ("hits", "v2"): [(START, 10.0), (START + 60, 11.0)],
        ("errors", "v2"): [(START + 60, 4.0)],
    }
    site.now = START + 155
    windows, cursor = read(source, cursor)
    assert [(window.start, window.end, window.stable, window.canary) for window in windows] == [
        (START, START + 60, Counts(120, 2), Counts(10)),
        (START + 60, START + 120, Counts(90), Counts(11, 4)),
    ]
    assert read(source, cursor) == ([], cursor)


def test_what_is_asked_has_the_sides_name_the_interval_and_the_keys_of_the_connection(site: Site) -> None:
    source = site.source()
    source.read(None)
    asked = site.server.asked[0]
    assert asked.path == "/api/v1/query"
    assert unquote(asked.parameters["query"]) == HITS.replace("$backend", "v1") + ".rollup(sum, 60)"
    assert int(asked.parameters["to"]) - int(asked.parameters["from"]) == 59
    assert asked.headers["DD-API-KEY"] == "api-key-0123456789"
    assert asked.headers["DD-APPLICATION-KEY"] == "application-key-0123456789"


def test_a_null_point_is_no_data_and_missing_errors_of_known_requests_are_none(site: Site) -> None:
    source = site.source()
    _, cursor = source.read(None)
    site.points = {
        ("hits", "v1"): [(START, None), (START + 60, 5.0)],
        ("errors", "v1"): [(START, 3.0), (START + 60, None)],
    }
    site.now = START + 155
    (first, second), _ = read(source, cursor)
    assert (first.stable, first.canary) == (None, None)
    assert second.stable == Counts(5)


def test_a_shift_is_counted_from_the_next_whole_interval_after_it_settled(site: Site) -> None:
    site.now = START + 10
    source = site.source(settle="55s")
    _, cursor = source.read(None)
    site.points = {("hits", "v1"): [(START + 60 * minute, 10.0) for minute in range(5)]}
    site.now = START + 220
    windows, _ = read(source, cursor)
    assert [window.start for window in windows] == [START + 120]


def test_other_counts_and_single_numbers_come_along(site: Site) -> None:
    source = site.source(events={"sales": "sum:shop.sales{version:$backend}.as_count()"}, values={"p95": LATENCY})
    _, cursor = source.read(None)
    site.points = {("hits", "v1"): [(START, 10.0)], ("sales", "v1"): [(START, 3.0)], ("p95", "v1"): [(START, 0.41)]}
    site.now = START + 90
    (window,), _ = read(source, cursor)
    assert window.stable == Counts(10, proportions={"sales": (3, 10)}, values={"p95": 0.41})
    assert any(asked.parameters["query"].endswith("rollup(avg, 60)") for asked in site.server.asked)


def test_more_errors_than_requests_break_the_window(site: Site) -> None:
    source = site.source()
    _, cursor = source.read(None)
    site.points = {("hits", "v1"): [(START, 2.0)], ("errors", "v1"): [(START, 3.0)]}
    site.now = START + 90
    (window,), _ = read(source, cursor)
    assert window.broken == "stable has 3 errors of 2 requests"


def test_a_rate_limit_is_kept_to_by_every_source_of_the_connection(site: Site) -> None:
    limit = {"X-RateLimit-Limit": "100", "X-RateLimit-Period": "3600", "X-RateLimit-Reset": "42"}
    site.server.answer = lambda _: Said({"errors": ["Too many requests"]}, status=429, headers=limit)
    with pytest.raises(MetricSourceError, match=r"\(100 requests in 3600 s\); asking again in 42 s"):
        site.source().read(None)
    asked = len(site.server.asked)
    with pytest.raises(MetricSourceError, match=r"left alone for 4[12] s more"):
        site.source().read(None)
    assert len(site.server.asked) == asked
    datadog._quiet_until["site"] -= 43
    site.server.answer = site.answer
    assert site.source().read(None)[0] == []


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (Said({"status": "error", "error": "Error parsing query"}), "could not run .*Error parsing query"),
        (Said({"errors": ["Forbidden"]}, status=403), "answered 403"),
        (Said("<html>"), "not JSON"),
        (Said('{"status": "ok", "ser'), "not JSON"),
        (Said({"status": "ok"}), "no list of series"),
        (Said([]), "could not run"),
        (Said(answer_of("q", [], [])), "2 series where one side was meant"),
        (Said(answer_of("q", [(START, 1)], interval=300)), "points of 300 s instead of 60 s"),
        (Said(answer_of("q", [(START - 60, "many")])), "'many', which is no number"),
        (Said(answer_of("q", [(START - 60, -4)])), "at least 0"),
    ],
)
def test_an_answer_that_is_none_is_an_error_without_the_keys(site: Site, said: Said, sentence: str) -> None:
    site.server.answer = lambda _: said
    source = site.source(delay="0s")
    with pytest.raises(MetricSourceError, match=sentence) as error:
        source.read(None)
    assert "0123456789" not in str(error.value)


def test_a_long_time_is_asked_for_in_pieces(site: Site) -> None:
    site.points = {("hits", "v1"): [(START + 60 * minute, 1.0) for minute in range(1500)]}
    windows = site.source().history(START, START + 1500 * 60)
    assert sum(window.stable.requests for window in windows if window.stable) == 1500
    spans = {(int(asked.parameters["to"]) - int(asked.parameters["from"])) for asked in site.server.asked}
    assert spans == {59_999, 29_999}


@pytest.mark.parametrize("lacks", ["password", "extra"])
def test_a_connection_without_a_key_is_refused(site: Site, monkeypatch: pytest.MonkeyPatch, lacks: str) -> None:
    keys = {name: value for name, value in KEYS.items() if name != lacks}
    monkeypatch.setenv("AIRFLOW_CONN_SITE", site.server.connection(**keys))
    with pytest.raises(ConnectionSettingsError, match=r"application key|api_key"):
        site.source().read(None)


def test_a_backend_that_would_end_the_filter_is_refused(site: Site) -> None:
    source = DatadogSource("site", "v1} by {host", "v2", site.source().options, clock=lambda: START)
    with pytest.raises(MetricSourceError, match="cannot stand in a query"):
        source.read(None)
    assert site.server.asked == []


@pytest.mark.parametrize(
    "options",
    [
        {"requests": "sum:hits{*}.as_count()"},
        {"requests": HITS + ".rollup(sum, 20)"},
        {"errors": f"default_zero({ERRORS})"},
        {"errors": ERRORS + ".fill(zero)"},
        {"interval": "0s"},
        {"interval": "60"},
    ],
)
def test_options_that_would_count_wrongly_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DatadogSource.Options.model_validate({"requests": HITS, "errors": ERRORS, **options})

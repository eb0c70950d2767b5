"""Graphite's render answers as they look, from a little server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from canary_release.core.problems import MetricSourceError
from canary_release.core.values import Counts, Cursor, Window
from canary_release.hooks.graphite import GraphiteSource
from hooks.store_server import Asked, Said, StoreServer, store_server

START = 1_800_000_000.0  # a whole minute
REQUESTS = "sumSeries(stats_counts.shop.$backend.*)"
ERRORS = "sumSeries(stats_counts.shop.$backend.5xx)"


class Graphite:
    """Answers each target with the points that a test gave for the target inside ``summarize``."""

    def __init__(self, server: StoreServer) -> None:
        self.server = server
        self.now = START
        self.points: dict[str, list[Any]] = {}
        server.answer = self.answer

    def answer(self, asked: Asked) -> Said:
        target = asked.parameters["target"]
        found = [points for name, points in self.points.items() if f"summarize({name}," in target]
        return Said([{"target": target, "tags": {"name": "x"}, "datapoints": points} for points in found])

    def source(self, **options: Any) -> GraphiteSource:
        given = {"requests": REQUESTS, "errors": ERRORS, "delay": "30s", **options}
        options_ = GraphiteSource.Options.model_validate(given)
        return GraphiteSource("graphite", "v1", "v2", options_, clock=lambda: self.now)


@pytest.fixture
def graphite(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphite]:
    with store_server(lambda _: Said([])) as server:
        monkeypatch.setenv("AIRFLOW_CONN_GRAPHITE", server.connection())
        yield Graphite(server)


def read(source: GraphiteSource, cursor: Cursor) -> tuple[list[Window], Cursor]:
    return source.read(json.loads(json.dumps(cursor)))


def requests(backend: str) -> str:
    return REQUESTS.replace("$backend", backend)


def errors(backend: str) -> str:
    return ERRORS.replace("$backend", backend)


def test_intervals_that_are_over_become_windows_and_null_points_are_no_data(graphite: Graphite) -> None:
    source = graphite.source()
    _, cursor = source.read(None)
    graphite.points = {
        requests("v1"): [[100.0, START], [90.0, START + 60], [8.0, START + 120]],
        errors("v1"): [[None, START], [3.0, START + 60], [1.0, START + 120]],
        requests("v2"): [[None, START], [4.0, START + 60], [1.0, START + 120]],
        errors("v2"): [[2.0, START], [None, START + 60], [None, START + 120]],
    }
    graphite.now = START + 150
    windows, cursor = read(source, cursor)
    assert [(window.start, window.stable, window.canary) for window in windows] == [
        (START, Counts(100), None),
        (START + 60, Counts(90, 3), Counts(4)),
    ]
    assert read(source, cursor) == ([], cursor)


def test_what_is_asked_is_summed_by_interval_and_begins_with_its_first_second(graphite: Graphite) -> None:
    graphite.source(interval="30s", values={"p95": "stats.timers.$backend.upper_95"}).read(None)
    first, last = graphite.server.asked[0], graphite.server.asked[-1]
    assert (first.path, first.parameters["format"]) == ("/render", "json")
    assert first.parameters["target"] == f'summarize({requests("v1")},"30s","sum",false)'
    # Graphite leaves out the first instant and takes the last.
    assert (first.parameters["from"], first.parameters["until"]) == (str(int(START) - 61), str(int(START) - 31))
    assert last.parameters["target"] == 'summarize(stats.timers.v2.upper_95,"30s","avg",false)'


def test_history_has_the_same_windows_as_looking_on(graphite: Graphite) -> None:
    graphite.points = {requests("v1"): [[10.0 * minute, START + 60 * minute] for minute in range(6)]}
    windows = graphite.source().history(START + 1, START + 300)
    assert [(window.start, window.stable) for window in windows] == [
        (START + 60 * minute, Counts(10 * minute)) for minute in range(1, 5)
    ]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (Said("no such function", status=400), "answered 400: no such function"),
        (Said("<html>Graphite Browser</html>"), "not JSON"),
        (Said('[{"target": "x", "datapoi'), "not JSON"),
        (Said({"target": "x"}), "no list of series"),
        (Said([{"target": "x"}]), "no list of series"),
        (Said([{"target": "x", "datapoints": [[1]]}]), "no list of series"),
        (Said([{"datapoints": []}, {"datapoints": []}]), r"2 series where one side was meant; put sumSeries"),
        (Said([{"datapoints": [["many", START - 60]]}]), "'many', which is no number"),
    ],
)
def test_an_answer_that_is_none_is_an_error_and_never_zero(graphite: Graphite, said: Said, sentence: str) -> None:
    graphite.server.answer = lambda _: said
    with pytest.raises(MetricSourceError, match=sentence):
        graphite.source(delay="0s").read(None)


@pytest.mark.parametrize("backend", ["v1.*", "v1),randomWalk(x", "{a,b}", ""])
def test_a_backend_that_would_mean_more_than_itself_is_refused(graphite: Graphite, backend: str) -> None:
    source = GraphiteSource("graphite", backend, "v2", graphite.source().options)
    with pytest.raises(MetricSourceError, match="cannot stand in a query"):
        source.read(None)


def test_a_target_that_is_the_same_for_both_sides_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"\$backend"):
        GraphiteSource.Options.model_validate({"requests": "stats.shop.requests", "errors": ERRORS})

"""Counts from raw samples: what a store that a test fills shows at each instant, and answers that are none."""

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from canary_release.core.ports import RemembersHistory, RemembersInstances
from canary_release.core.problems import MetricSourceError
from canary_release.core.values import Counts, Cursor, Window
from canary_release.hooks import prometheus_api
from canary_release.hooks.counters import Names
from canary_release.hooks.label_escape import promql_one_of, promql_string
from canary_release.hooks.prometheus_api import PrometheusSource
from hooks.store_server import Asked, Said, StoreServer, store_server

NAMES = Names(requests="requests_total", backend_label="backend", status_label="status", latency="seconds")
GAUGES = ("process_start_time_seconds", "servers_up")
START = 1_800_000_000.0
SCRAPE = 10.0


class Store:
    """A store that scrapes one target every 10 s. visible: the newest sample that can be read, if not all."""

    def __init__(self, server: StoreServer) -> None:
        self.server = server
        self.series: dict[tuple[tuple[str, str], ...], list[tuple[float, str]]] = {}
        self.now = START
        self.hidden: set[str] = set()
        server.answer = self.answer

    def scrape(self, *lines: tuple[str, dict[str, str], object], **target: str) -> None:
        """One scrape, SCRAPE seconds after the last: (metric, labels, value) of a target."""
        self.now += SCRAPE
        for metric, labels, value in lines:
            whole = {"__name__": metric, "job": "lb", "instance": "lb-1", **labels, **target}
            self.series.setdefault(tuple(sorted(whole.items())), []).append((self.now, str(value)))

    def source(self, **options: Any) -> PrometheusSource:
        given = PrometheusSource.Options.model_validate({"names": NAMES, "delay": "0s", **options})
        return PrometheusSource("store", "old", "new", given, clock=lambda: self.now)

    def answer(self, asked: Asked) -> Said:
        if asked.path == "/api/v1/query_range":
            return Said(
                matrix([{"metric": dict(key), "values": self._steps(p, asked)} for key, p in self.series.items()])
            )
        match = re.fullmatch(r"(.*)\[([0-9]+)ms\]", asked.parameters["query"])
        assert match is not None
        end = float(asked.parameters["time"])
        begin = end - float(match[2]) / 1000
        gauge = match[1].partition("{")[0]  # counters are asked for by a label of their own
        found = []
        for key, points in self.series.items():
            values = [[moment, value] for moment, value in points if begin <= moment <= end]
            labels = dict(key)
            shown = labels["__name__"] not in self.hidden and labels.get("status") not in self.hidden
            if values and shown and gauge == (labels["__name__"] if labels["__name__"] in GAUGES else ""):
                found.append({"metric": labels, "values": values})
        return Said(matrix(found))

    def _steps(self, points: list[tuple[float, str]], asked: Asked) -> list[list[Any]]:
        moment, end = float(asked.parameters["start"]), float(asked.parameters["end"])
        steps = []
        while moment <= end:
            held = [value for at, value in points if at <= moment]
            steps += [[moment, held[-1]]] if held else []
            moment += float(asked.parameters["step"])
        return steps


def matrix(result: list[Any]) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def requests(backend: str, status: str, value: object, **labels: str) -> tuple[str, dict[str, str], object]:
    return "requests_total", {"backend": backend, "status": status, **labels}, value


def histogram(backend: str, *counts: int) -> list[tuple[str, dict[str, str], object]]:
    edges = ("0.1", "0.5", "+Inf")
    return [("seconds_bucket", {"backend": backend, "le": le}, n) for le, n in zip(edges, counts, strict=True)]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    with store_server(lambda _: Said(matrix([]))) as server:
        monkeypatch.setenv("AIRFLOW_CONN_STORE", server.connection())
        yield Store(server)


def read(source: PrometheusSource, cursor: Cursor) -> tuple[list[Window], Cursor]:
    return source.read(json.loads(json.dumps(cursor)))


def one(source: PrometheusSource, cursor: Cursor) -> tuple[Window, Cursor]:
    windows, cursor = read(source, cursor)
    assert len(windows) == 1
    return windows[0], cursor


def test_counts_are_the_rise_between_scrapes_of_all_series_of_a_side(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    store.scrape(requests("old", "200", 100), requests("old", "404", 1), *histogram("old", 90, 99, 101))
    store.scrape(
        requests("old", "200", 160),
        requests("old", "404", 3),
        requests("old", "500", 4),
        requests("new", "200", 3),
        requests("new", "503", 2),
        *histogram("old", 140, 160, 167),
        *histogram("new", 1, 5, 5),
    )
    window, _ = one(source, cursor)
    assert (window.start, window.end, window.edges) == (START + 10, START + 20, (0.1, 0.5))
    assert window.stable == Counts(66, 4, (50, 11, 5))
    assert window.canary == Counts(5, 2, (1, 4, 0))


def test_errors_that_a_series_was_born_with_are_all_counted(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    store.scrape(requests("old", "200", 100), requests("new", "200", 5))
    store.scrape(requests("old", "200", 110), requests("new", "200", 5))
    _, cursor = one(source, cursor)
    store.scrape(requests("old", "200", 120), requests("new", "200", 5), requests("new", "500", 40))
    store.scrape(requests("old", "200", 130), requests("new", "200", 5), requests("new", "500", 42))
    window, _ = one(source, cursor)
    assert window.canary == Counts(42, 42)
    assert window.stable == Counts(20)


def test_without_a_new_scrape_there_is_no_window_and_nothing_is_lost(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    store.scrape(requests("old", "200", 100))
    assert read(source, cursor) == ([], cursor)
    store.scrape(requests("old", "200", 130))
    window, after = one(source, cursor)
    assert window.stable == Counts(30)
    store.now += 5
    assert read(source, after) == ([], after)
    store.scrape(requests("old", "200", 170))
    window, _ = one(source, after)
    assert window.stable == Counts(40)


def test_an_empty_store_gives_no_window_and_no_zero(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    store.now += 600
    assert read(source, cursor) == ([], cursor)


def test_a_side_without_series_is_absent_and_one_that_stands_still_has_zero(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    for count in (1, 2):
        store.scrape(requests("old", "200", count))
    window, cursor = one(source, cursor)
    assert (window.stable, window.canary) == (Counts(1), None)
    store.scrape(requests("old", "200", 2), requests("new", "200", 0))
    window, _ = one(source, cursor)
    assert (window.stable, window.canary) == (Counts(0), Counts(0))


def test_requests_from_before_the_shift_and_while_it_settles_are_not_counted(store: Store) -> None:
    store.scrape(requests("old", "200", 1000), requests("new", "200", 7))
    source = store.source(settle="15s")
    _, cursor = source.read(None)
    store.scrape(requests("old", "200", 2000), requests("new", "200", 9))
    store.scrape(requests("old", "200", 2500), requests("new", "200", 10))
    store.scrape(requests("old", "200", 2600), requests("new", "200", 20))
    window, _ = one(source, cursor)
    assert (window.stable, window.canary) == (Counts(100), Counts(10))
    assert window.start == START + 30


def test_late_samples_are_counted_once_they_are_there(store: Store) -> None:
    source = store.source(delay="10s")
    _, cursor = source.read(None)
    for count in (10, 20, 30):
        store.scrape(requests("old", "200", count))
    window, cursor = one(source, cursor)
    assert (window.stable, window.end) == (Counts(10), START + 20)
    store.scrape(requests("old", "200", 99))
    window, _ = one(source, cursor)
    assert window.stable == Counts(10)


def test_a_series_that_the_store_shows_late_counts_from_the_baseline_not_from_zero(store: Store) -> None:
    store.hidden = {"500"}
    source = store.source()
    _, cursor = source.read(None)
    store.scrape(requests("old", "200", 100), requests("old", "500", 40))
    store.scrape(requests("old", "200", 110), requests("old", "500", 41))
    window, cursor = one(source, cursor)
    assert window.stable == Counts(10)
    store.hidden = set()
    store.scrape(requests("old", "200", 120), requests("old", "500", 43))
    window, _ = one(source, cursor)
    assert window.stable == Counts(13, 3)


def test_a_counter_that_fell_between_two_looks_breaks_one_window(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    store.scrape(requests("old", "200", 100))
    store.scrape(requests("old", "200", 3))
    # Higher than before: only the raw samples give the reset away.
    store.scrape(requests("old", "200", 300))
    window, cursor = one(source, cursor)
    assert (window.broken, window.stable) == ("a counter went from 100 to 3", None)
    store.scrape(requests("old", "200", 310))
    window, _ = one(source, cursor)
    assert (window.broken, window.stable) == (None, Counts(10))


def test_a_restarted_target_breaks_the_window_even_when_its_counters_are_higher(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    began = ("process_start_time_seconds", {}, START - 100)
    store.scrape(requests("old", "200", 10), began)
    store.scrape(requests("old", "200", 12), began)
    _, cursor = one(source, cursor)
    store.scrape(requests("old", "200", 500), ("process_start_time_seconds", {}, START + 21))
    window, _ = one(source, cursor)
    assert window.broken == "the load balancer was restarted"


def test_a_target_that_was_born_counts_from_zero_and_one_that_was_found_late_from_its_first_sample(
    store: Store,
) -> None:
    source = store.source()
    _, cursor = source.read(None)
    for count in (10, 20):
        store.scrape(requests("old", "200", count))
    _, cursor = one(source, cursor)
    store.scrape(
        requests("old", "200", 20),
        requests("old", "200", 5, instance="born"),
        ("process_start_time_seconds", {"instance": "born"}, START + 25),
        requests("old", "200", 9000, instance="found"),
    )
    window, cursor = one(source, cursor)
    assert window.stable == Counts(5)
    store.scrape(requests("old", "200", 8, instance="born"), requests("old", "200", 9001, instance="found"))
    window, _ = one(source, cursor)
    assert window.stable == Counts(4)


def test_a_long_gap_is_read_in_pieces_without_loss(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    for count in range(200):
        store.scrape(requests("old", "200", 100 + count))
    windows, _ = read(source, cursor)
    assert sum(window.stable.requests for window in windows if window.stable) == 199
    assert all(before.end == after.start for before, after in pairwise(windows))


@pytest.mark.parametrize("label", ["cluster", "job", "prometheus_replica"])
def test_series_of_two_clusters_where_one_was_meant_are_an_error_that_says_how_to_choose(
    store: Store, label: str
) -> None:
    store.scrape(requests("old", "200", 1, **{label: "a"}), requests("old", "200", 1, **{label: "b"}))
    with pytest.raises(MetricSourceError, match=rf"2 different values of the label {label} \(a, b\).*metrics.where"):
        store.source().read(None)
    store.now += 1
    source = store.source(add_up=[label])
    _, cursor = source.read(None)
    for count in (5, 6):
        store.scrape(requests("old", "200", count, **{label: "a"}), requests("old", "200", count, **{label: "b"}))
    window, _ = one(source, cursor)
    assert window.stable == Counts(2)


def test_instances_are_counted_by_their_label(store: Store) -> None:
    source = store.source(instance_label="server")
    _, cursor = source.read(None)
    for count in (1, 2):
        store.scrape(requests("old", "200", count, server="s1"), requests("old", "200", count, server="s2"))
    window, _ = one(source, cursor)
    assert window.stable == Counts(2, instances=2)


def test_history_is_windows_of_a_minute_with_the_resets_broken(store: Store) -> None:
    for count in [*range(0, 100), *range(0, 50)]:
        store.scrape(requests("old", "200", 10 * count), *histogram("old", 10 * count, 10 * count, 10 * count))
    source = store.source()
    assert isinstance(source, RemembersHistory)
    windows = source.history(START + SCRAPE, store.now)
    assert len(windows) == 24
    assert [window.seconds for window in windows] == [60.0] * 24
    sound = [window for window in windows if window.broken is None]
    assert len(sound) == 23
    assert all(window.stable == Counts(60, 0, (60, 0, 0)) for window in sound)


def test_history_of_instances_has_a_window_for_each_and_breaks_only_the_one_that_was_reset(store: Store) -> None:
    for count in range(0, 60):
        other = count if count < 30 else count - 30
        store.scrape(
            requests("old", "200", 10 * count, pod="a"),
            requests("old", "500", count, pod="a"),
            requests("old", "200", 20 * other, pod="b"),
        )
    source = store.source(instance_label="pod")
    assert isinstance(source, RemembersInstances)
    moments = source.history_of_instances(START + SCRAPE, store.now)
    assert len(moments) == 9
    assert [set(moment) for moment in moments] == [{"a", "b"}] * 9
    assert all(moment["a"].stable == Counts(66, 6, instances=1) for moment in moments)
    assert [moment["b"].stable for moment in moments].count(Counts(120, instances=1)) == 8
    assert sum(moment["b"].broken is not None for moment in moments) == 1
    together = source.history(START + SCRAPE, store.now)
    assert [(window.start, window.end) for window in together] == [(m["a"].start, m["a"].end) for m in moments]


def test_without_a_label_for_them_no_instances_are_told_apart(store: Store) -> None:
    for count in range(0, 30):
        store.scrape(requests("old", "200", count, pod="a"), requests("old", "200", count, pod="b"))
    assert store.source().history_of_instances(START + SCRAPE, store.now) == []


def test_label_values_cannot_end_their_place_in_the_query(store: Store) -> None:
    evil = 'a"}) or vector(1) #\n\\'
    store.source(where={"zone": evil}, label_values={"old": "blue.*|x", "new": evil}).read(None)
    query = store.server.asked[-1].parameters["query"]
    assert query.startswith(
        r'{__name__=~"requests_total|seconds_bucket",'
        r'backend=~"blue\\.\\*\\|x|a\"\\}\\) or vector\\(1\\) #\n\\\\",'
        r'zone="a\"}) or vector(1) #\n\\"}['
    )


@pytest.mark.parametrize(("text", "literal"), [('a"b', r'"a\"b"'), ("a\\", r'"a\\"'), ("a\nb", r'"a\nb"')])
def test_a_string_keeps_what_it_says(text: str, literal: str) -> None:
    assert promql_string(text) == literal
    assert re.fullmatch(json.loads(promql_one_of([text, "z"])), text)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (Said({"status": "error", "error": "parse error"}, status=400), "answered 400"),
        (Said({"status": "error", "error": "parse error"}, status=422), "answered 422"),
        (Said("busy", status=503), "answered 503: busy"),
        (Said("", status=302, headers={"Location": "http://127.0.0.1:1/"}), "answered 302"),
        (Said("<html>please log in</html>"), "not JSON"),
        (Said('{"status":"success","data":{"resul'), "not JSON"),
        (Said('{"status":"success"}', length=400), "cannot be read|cannot be reached"),
        (Said({"status": "error", "error": "too many samples"}), "the query failed: too many samples"),
        (Said({"status": "success", "data": {"resultType": "vector", "result": []}}), "got a vector"),
        (Said({"status": "success", "data": {"resultType": "matrix", "result": [{}]}}), "no matrix of samples"),
        (Said({"status": "success", "data": {}}), "no matrix of samples"),
        (Said({"hello": 1}), "no Prometheus API"),
        (Said([1]), "no Prometheus API"),
        (Said({**matrix([]), "warnings": ["store b unavailable"]}), "only a part .*store b unavailable"),
        (Said({**matrix([]), "isPartial": True}), "only a part"),
        (Said(matrix([{"metric": {"backend": "third"}, "values": [[1, "1"]]}])), "not asked for"),
        (Said(matrix([{"metric": {"backend": "old", "__name__": "requests_total"}, "values": []}])), "no label status"),
        (Said(matrix([{"metric": {"backend": "old", "__name__": "seconds_bucket"}, "values": []}])), "without an edge"),
    ],
)
def test_an_answer_that_is_none_is_an_error_and_never_zero(store: Store, said: Said, sentence: str) -> None:
    source = store.source()
    _, cursor = source.read(None)
    store.server.answer = lambda _: said
    with pytest.raises(MetricSourceError, match=sentence):
        read(source, cursor)
    with pytest.raises(MetricSourceError, match=sentence):
        source.read(None)


@pytest.mark.parametrize("value", ["+Inf", "-1", "1.5"])
def test_a_value_that_no_counter_can_have_is_an_error(store: Store, value: str) -> None:
    source = store.source()
    _, cursor = source.read(None)
    store.scrape(requests("old", "200", value))
    store.scrape(requests("old", "200", value))
    with pytest.raises(MetricSourceError, match="is no count"):
        read(source, cursor)


def test_a_nan_is_no_sample(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    store.scrape(requests("old", "200", 4))
    store.scrape(requests("old", "200", "NaN"))
    assert read(source, cursor) == ([], cursor)
    store.scrape(requests("old", "200", 6))
    window, _ = one(source, cursor)
    assert window.stable == Counts(2)


def test_histograms_with_different_buckets_are_an_error(store: Store) -> None:
    source = store.source()
    _, cursor = source.read(None)
    for count in (1, 2):
        store.scrape(requests("old", "200", count), *histogram("old", 0, 0, count), *histogram("new", 0, 0, count)[1:])
    with pytest.raises(MetricSourceError, match="different buckets"):
        read(source, cursor)


@pytest.mark.parametrize("cursor", [{}, {"time": 1}, {"until": 1, "targets": {"a": 3}}, {"from": "noon"}])
def test_a_cursor_of_another_source_is_refused(store: Store, cursor: Cursor) -> None:
    with pytest.raises(MetricSourceError, match="cursor"):
        store.source().read(cursor)


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "apache"},
        {"preset": "traefik", "names": NAMES},
        {"where": {'a"}': "x"}},
        {"names": {**NAMES.model_dump(), "requests": "a{}"}},
        {"delay": "10"},
        {"query": "up"},
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PrometheusSource.Options.model_validate(options)


def test_instances_are_those_that_are_up_whichever_replica_of_the_load_balancer_says_so(store: Store) -> None:
    def up(backend: str, url: str, value: int) -> tuple[str, dict[str, str], object]:
        return "servers_up", {"backend": backend, "url": url}, value

    source = store.source(names=NAMES.model_copy(update={"instances": "servers_up"}))
    seen = [requests("old", "200", 5), up("old", "a", 1), up("old", "b", 1), up("old", "c", 0), up("new", "d", 0)]
    store.scrape(*seen, instance="lb-1")
    store.scrape(*seen[:2], instance="lb-2")
    _, cursor = source.read(None)
    store.scrape(*seen, requests("new", "200", 1), instance="lb-1")
    store.scrape(*seen[:2], instance="lb-2")
    store.scrape(*seen, requests("new", "200", 2), instance="lb-1")
    window, _ = one(source, cursor)
    assert window.stable is not None
    assert window.stable.instances == 2
    assert window.canary is not None
    assert window.canary.instances is None, "none that is up can have answered, so their number is not known"


def test_every_preset_can_be_asked_for(store: Store) -> None:
    for preset in prometheus_api.KNOWN:
        given = PrometheusSource.Options.model_validate({"preset": preset})
        source = PrometheusSource("store", "old", "new", given, clock=lambda: store.now)
        assert source.read(None)[0] == []
        assert prometheus_api.KNOWN[preset].requests in store.server.asked[-1].parameters["query"]


def test_two_backends_with_one_label_value_are_refused(store: Store) -> None:
    with pytest.raises(MetricSourceError, match="label_values"):
        store.source(label_values={"old": "shop", "new": "shop"}).read(None)

"""What every metric source must do, run against every one of them. A new source adds itself to ``CASES``."""

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from canary_release.core.ports import MetricSource
from canary_release.core.problems import ConnectionSettingsError, MetricSourceError
from canary_release.core.values import Counts, Cursor, Weights, Window
from canary_release.hooks import aws_client, prometheus_api
from canary_release.hooks.access_log import AccessLogSource
from canary_release.hooks.cloudwatch import CloudWatchOptions, CloudWatchSource
from canary_release.hooks.nginx import NginxHook
from canary_release.hooks.prometheus_api import PrometheusSource
from canary_release.hooks.registry import BACKENDS as REGISTERED
from canary_release.hooks.replayed import ReplayedSource
from canary_release.hooks.scrape import ScrapeSource
from canary_release.hooks.sql_source import SqlSource
from canary_release.hooks.traefik import TraefikHook
from contracts.broken_wire import DONE, REFUSED, broken, is_one_clear_sentence, wire
from contracts.fake_aws import FakeCloudWatch
from contracts.interval_stores import INTERVAL_STORES
from contracts.little_servers import Answer
from contracts.load_client import ask_many
from contracts.shop import BACKENDS, Shop
from contracts.source_case import Case
from contracts.waiting import wait_until
from debian import require_tool
from demo.free_ports import free_ports
from demo.moto_server import MotoServer
from demo.nginx_server import NginxServer
from demo.prometheus_server import PrometheusServer

STABLE, CANARY = BACKENDS
RECORD = """window,start,side,weight,instances,requests,errors,le_0.1,le_0.5,le_inf
0,1000,stable,0.1,2,90,1,80,9,1
0,1000,canary,0.1,1,10,0,9,1,0
1,1030,stable,0.1,2,91,0,81,9,1
1,1030,canary,0.1,1,11,2,9,1,1
2,1060,stable,0.1,2,92,0,82,9,1
"""


def replayed_case(request: pytest.FixtureRequest) -> Case:
    file: Path = request.getfixturevalue("tmp_path") / "record.csv"
    file.write_text(RECORD)
    connection = json.dumps({"conn_type": "generic", "extra": {"file": str(file)}})
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_RECORD", connection)
    recorded = iter([Counter({"stable": 90, "canary": 10}), Counter({"stable": 91, "canary": 11})])
    return Case(
        lambda: ReplayedSource("record", STABLE, CANARY, ReplayedSource.Options()),
        lambda: next(recorded),
        connection="record",
    )


def scrape_case(request: pytest.FixtureRequest) -> Case:
    shop = request.getfixturevalue("shop")
    give_canary(shop, "10")

    def happen() -> Counter[str]:
        answers = shop.ask(100)
        return Counter({"stable": answers[(STABLE, 200)], "canary": answers[(CANARY, 200)]})

    return Case(scrape, happen, connection="traefik_contract_metrics")


def prometheus_case(request: pytest.FixtureRequest) -> Case:
    stored: StoredShop = request.getfixturevalue("stored_shop")

    def happen() -> Counter[str]:
        answers = stored.ask(100)
        return Counter({"stable": answers[(STABLE, 200)], "canary": answers[(CANARY, 200)]})

    return Case(prometheus, happen, connection="store_contract")


def sql_case(request: pytest.FixtureRequest) -> Case:
    database = sqlite3.connect(request.getfixturevalue("tmp_path") / "shop.db", isolation_level=None)
    request.addfinalizer(database.close)
    database.execute("create table requests (at real, backend text, status int, seconds real)")
    connection = {"conn_type": "sqlite", "host": str(request.getfixturevalue("tmp_path") / "shop.db")}
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_SHOP_DATABASE", json.dumps(connection))
    query = """
        select backend as side, count(*) as requests, sum(status >= 500) as errors,
               sum(seconds <= 0.25) as "le_0.25", sum(seconds > 0.25) as le_inf
        from requests where at >= :start and at < :end group by backend
    """
    options = SqlSource.Options.model_validate({"query": query, "times": "epoch", "delay": "0s"})

    def happen() -> Counter[str]:
        rows = [(time(), STABLE, 200, 0.1)] * 90 + [(time(), CANARY, 200, 0.4)] * 10
        database.executemany("insert into requests values (?, ?, ?, ?)", rows)
        return Counter({"stable": 90, "canary": 10})

    return Case(lambda: SqlSource("shop_database", STABLE, CANARY, options), happen, connection="shop_database")


def cloudwatch_case(request: pytest.FixtureRequest) -> Case:
    """A strict fake: moto knows neither TC nor percentiles. tests/hooks/test_aws_policy.py has real traffic."""
    store, clock = FakeCloudWatch(), {"now": 1_800_014_400.0}
    request.getfixturevalue("monkeypatch").setattr(aws_client, "kept_client", lambda *_: store.client)
    backends = {name: {"TargetGroup": f"targetgroup/{name}/73e2d6bc24d8a067"} for name in BACKENDS}
    options = CloudWatchOptions(dimensions={"LoadBalancer": "app/shop/50dc6c495c0c9188"}, backends=backends)
    minutes = iter(range(int(clock["now"]), int(clock["now"]) + 6000, options.period))

    def happen() -> Counter[str]:
        start = next(minutes)
        for name, count in zip(BACKENDS, (90, 10), strict=True):
            dimensions = {**options.dimensions, **backends[name]}
            store.put(start + 30, "RequestCount", dimensions, [1.0] * count)
            store.put(start + 30, "TargetResponseTime", dimensions, [0.01 * place for place in range(count)])
        clock["now"] = start + options.period + options.delay
        return Counter({"stable": 90, "canary": 10})

    return Case(
        lambda: CloudWatchSource("aws", STABLE, CANARY, options, clock=lambda: clock["now"]),
        happen,
        interval=options.period,
    )


def access_log_case(request: pytest.FixtureRequest) -> Case:
    nginx: NginxServer = request.getfixturevalue("running_nginx")("njs")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_NGINX_CONTRACT", json.dumps(nginx.connection()))
    connection = {"conn_type": "generic", "extra": {"file": str(nginx.access_log)}}
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_NGINX_LOG", json.dumps(connection))
    hook = NginxHook("nginx_contract", BACKENDS, NginxHook.Options(route="shop"))
    hook.set_weights(Weights.split(stable=STABLE, canary=CANARY, canary_percent=Decimal(50)))

    def happen() -> Counter[str]:
        before = nginx.access_log.read_text().count("\n")
        answers = ask_many(nginx.url, 100)
        wait_until(lambda: nginx.access_log.read_text().count("\n") == before + 100, "100 lines in the log")
        return Counter({"stable": answers[(STABLE, 200)], "canary": answers[(CANARY, 200)]})

    return Case(
        lambda: AccessLogSource("nginx_log", STABLE, CANARY, AccessLogSource.Options()), happen, connection="nginx_log"
    )


CASES = {
    **INTERVAL_STORES,
    "access_log": access_log_case,
    "cloudwatch": cloudwatch_case,
    "prometheus": prometheus_case,
    "replayed": replayed_case,
    "scrape": scrape_case,
    "sql": sql_case,
}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param](request)


def scrape() -> ScrapeSource:
    return ScrapeSource("traefik_contract_metrics", STABLE, CANARY, ScrapeSource.Options())


def prometheus(**options: str) -> PrometheusSource:
    given = PrometheusSource.Options.model_validate({"delay": "0s", **options})
    return PrometheusSource("store_contract", STABLE, CANARY, given)


@pytest.fixture(autouse=True)
def metrics_connection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "shop" in request.fixturenames or "scrape" in request.node.name:
        shop = request.getfixturevalue("shop")
        connection = {key: value for key, value in shop.traefik.connection().items() if key != "extra"}
        monkeypatch.setenv("AIRFLOW_CONN_TRAEFIK_CONTRACT_METRICS", json.dumps(connection))


def give_canary(shop: Shop, percent: str) -> None:
    hook = TraefikHook("traefik_contract", BACKENDS, TraefikHook.Options(route="shop"))
    weights = Weights.split(stable=STABLE, canary=CANARY, canary_percent=Decimal(percent))
    hook.set_weights(weights)
    wait_until(lambda: hook.get_weights() == weights, f"{weights} read back")


@dataclass
class StoredShop:
    """The shop, and a real store that scrapes its Traefik."""

    shop: Shop
    server: PrometheusServer

    def ask(self, count: int) -> Counter[tuple[str, int]]:
        """Answers to ``count`` requests that began after a scrape and ended before the newest one in the store."""
        self.wait_for_scrape()
        answers = self.shop.ask(count)
        self.wait_until_stored()
        return answers

    def wait_until_stored(self) -> None:
        """Return once the store has every request. VictoriaMetrics shows a new series up to 10 s late."""
        wait_until(lambda: self._stored() == self.shop.asked, "the store has all requests", seconds=30)

    def wait_for_scrape(self) -> None:
        """Return once the store has a scrape of now or later."""
        now = time()
        wait_until(lambda: max(self._times(), default=0) > now, "a scrape", seconds=30)

    def _stored(self) -> float:
        newest = max(self._times(), default=0)
        return sum(float(value) for one in self._series() for moment, value in one["values"] if moment == newest)

    def _times(self) -> list[float]:
        return [moment for one in self._series() for moment, _ in one["values"]]

    def _series(self) -> list[dict[str, Any]]:
        query = urlencode({"query": '{__name__="traefik_service_requests_total"}[3s]', "time": f"{time():.3f}"})
        with urlopen(f"{self.server.url}/api/v1/query?{query}", timeout=5) as response:
            return list(json.load(response)["data"]["result"])


@pytest.fixture(scope="session")
def running_store(running_shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    binary = require_tool("victoria-metrics")
    targets = {"traefik": running_shop.traefik.metrics_url}
    with PrometheusServer(tmp_path_factory.mktemp("store"), binary, targets, interval=0.2) as server:
        yield server


@pytest.fixture
def stored_shop(shop: Shop, running_store: PrometheusServer, monkeypatch: pytest.MonkeyPatch) -> StoredShop:
    return stored_by(running_store, shop, monkeypatch)


@pytest.fixture
def freshly_stored_shop(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoredShop]:
    """With a store that has seen no Traefik of before a restart, whose counters could still be the newest it shows."""
    targets = {"traefik": shop.traefik.metrics_url}
    with PrometheusServer(tmp_path / "store", require_tool("victoria-metrics"), targets, interval=0.2) as server:
        yield stored_by(server, shop, monkeypatch)


def stored_by(store: PrometheusServer, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> StoredShop:
    """Both sides have had requests, and the store knows it."""
    monkeypatch.setenv("AIRFLOW_CONN_STORE_CONTRACT", json.dumps(store.connection()))
    give_canary(shop, "10")
    shop.ask(20)
    stored = StoredShop(shop, store)
    # Otherwise the counters of before the restart could still be the newest that the store shows.
    stored.wait_until_stored()
    return stored


def read_one(source: MetricSource, cursor: Cursor) -> tuple[Window, Cursor]:
    windows, cursor = source.read(cursor)
    assert len(windows) == 1
    return windows[0], cursor


def counted(window: Window) -> Counter[str]:
    assert window.broken is None
    assert window.stable is not None
    assert window.canary is not None
    return Counter({"stable": window.stable.requests, "canary": window.canary.requests})


def test_the_baseline_gives_a_cursor_and_no_window(case: Case) -> None:
    windows, cursor = case.make().read(None)
    assert windows == []
    assert json.loads(json.dumps(cursor)) is not None


def test_each_window_has_exactly_what_happened_since_the_cursor(case: Case) -> None:
    source = case.make()
    _, cursor = source.read(None)
    for _ in range(2):
        happened = case.happen()
        window, cursor = read_one(source, cursor)
        assert counted(window) == happened
        assert window.start < window.end


def test_a_cursor_from_json_goes_on_in_another_process_without_loss_or_double_count(case: Case) -> None:
    _, cursor = case.make().read(None)
    first = case.happen()
    window, cursor = read_one(case.make(), json.loads(json.dumps(cursor)))
    assert counted(window) == first
    second = case.happen()
    later, _ = read_one(case.make(), json.loads(json.dumps(cursor)))
    assert counted(later) == second
    assert later.start >= window.end


def test_latency_buckets_add_up_to_the_requests_where_there_are_any(case: Case) -> None:
    source = case.make()
    _, cursor = source.read(None)
    case.happen()
    window, _ = read_one(source, cursor)
    for side in (window.stable, window.canary):
        assert side is not None
        if case.latency:
            assert len(side.buckets) == len(window.edges) + 1
            assert sum(side.buckets) == side.requests
        else:
            assert (side.buckets, window.edges) == ((), ())


def test_windows_of_a_store_with_intervals_begin_and_end_with_one(case: Case) -> None:
    source = case.make()
    _, cursor = source.read(None)
    case.happen()
    window, _ = read_one(source, cursor)
    if case.interval:
        assert (window.start % case.interval, window.end - window.start) == (0, case.interval)
    else:
        assert window.end > window.start


def test_a_source_that_is_away_is_an_error_in_words_and_nothing_is_lost(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not case.connection:
        pytest.skip("moto is broken in its place: test_a_cloudwatch_that_is_broken_is_an_error_in_words")
    source = case.make()
    _, cursor = source.read(None)
    happened = case.happen()
    with monkeypatch.context() as away:
        away.setenv(f"AIRFLOW_CONN_{case.connection.upper()}", elsewhere(case.connection))
        with pytest.raises((MetricSourceError, ConnectionSettingsError)) as raised:
            case.make().read(cursor)
        assert is_one_clear_sentence(str(raised.value)), str(raised.value)
    window, _ = read_one(case.make(), cursor)
    assert counted(window) == happened


def elsewhere(connection: str) -> str:
    """The connection, to a place where nothing is."""
    settings = json.loads(os.environ[f"AIRFLOW_CONN_{connection.upper()}"])
    if "port" in settings:
        return json.dumps(settings | {"port": free_ports(1)[0]})
    if settings.get("extra", {}).get("file"):
        return json.dumps(settings | {"extra": {"file": "/nowhere/at/all"}})
    return json.dumps(settings | {"host": "/nowhere/at/all"})


@pytest.mark.parametrize("name", ["datadog", "graphite", "influxdb", "influxdb_flux", "prometheus", "scrape"])
def test_a_broken_server_is_an_error_in_words_and_the_next_read_has_everything(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name](request)
    with wire(case.connection, monkeypatch) as proxy:
        _, cursor = case.make().read(None)
        happened = case.happen()
        for what, fault in (REFUSED | DONE).items():
            for since in (cursor, None):
                with broken(proxy, fault), pytest.raises(MetricSourceError) as raised:
                    case.make().read(since)
                assert is_one_clear_sentence(str(raised.value)), f"{what}: {raised.value}"
        window, _ = read_one(case.make(), cursor)
        assert counted(window) == happened


def test_a_cloudwatch_that_is_broken_is_an_error_in_words(
    running_moto: MotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over moto, whose answers pass botocore's own reading; what is counted is tested on the strict fake."""
    monkeypatch.setenv("AIRFLOW_CONN_CLOUDWATCH_CONTRACT", json.dumps(running_moto.connection()))
    backends = {name: {"TargetGroup": f"targetgroup/{name}/73e2d6bc24d8a067"} for name in BACKENDS}
    dimensions = {"LoadBalancer": "app/shop/50dc6c495c0c9188"}
    options = CloudWatchOptions(dimensions=dimensions, backends=backends, latency="none")
    source = CloudWatchSource("cloudwatch_contract", STABLE, CANARY, options)
    cursor = {"end": int(time()) // 60 * 60 - 600, "period": 60}
    with wire("cloudwatch_contract", monkeypatch) as proxy:
        for what, fault in (REFUSED | DONE).items():
            with broken(proxy, fault), pytest.raises(MetricSourceError) as raised:
                source.read(cursor)
            assert is_one_clear_sentence(str(raised.value)), f"{what}: {raised.value}"
        windows, _ = source.read(cursor)
        assert {(window.stable, window.canary) for window in windows} == {(None, None)}


def test_every_metric_source_is_under_contract() -> None:
    assert {name.partition("_flux")[0] for name in CASES} == set(REGISTERED.metric_types())


def test_counts_on_real_traffic_equal_the_clients_own(shop: Shop) -> None:
    give_canary(shop, "25")
    source = scrape()
    _, cursor = source.read(None)
    answers = shop.ask(400)
    window, _ = read_one(source, cursor)
    assert answers == {(STABLE, 200): 300, (CANARY, 200): 100}
    assert counted(window) == {"stable": 300, "canary": 100}


def test_the_first_errors_of_a_canary_are_all_counted_although_their_series_is_new(shop: Shop) -> None:
    give_canary(shop, "50")
    source = scrape()
    shop.ask(40)
    _, cursor = source.read(None)
    shop.backends[CANARY].default = Answer(b"broken", status=503)
    answers = shop.ask(84)
    window, _ = read_one(source, cursor)
    assert answers[("broken", 503)] == 42
    assert window.canary is not None
    assert (window.canary.requests, window.canary.errors) == (42, 42)
    assert window.stable is not None
    assert window.stable.errors == 0


def test_client_errors_are_requests_and_no_errors(shop: Shop) -> None:
    source = scrape()
    _, cursor = source.read(None)
    shop.backends[STABLE].default = Answer(b"gone", status=404)
    shop.ask(7)
    window, _ = read_one(source, cursor)
    assert window.stable == Counts(7, 0, window.stable.buckets if window.stable else ())


def test_a_canary_that_never_had_a_request_is_absent_and_one_without_new_requests_has_zero(shop: Shop) -> None:
    source = scrape()
    _, cursor = source.read(None)
    shop.ask(10)
    window, cursor = read_one(source, cursor)
    assert window.canary is None
    give_canary(shop, "100")
    shop.ask(10)
    window, cursor = read_one(source, cursor)
    assert counted(window) == {"stable": 0, "canary": 10}
    window, _ = read_one(source, cursor)
    assert counted(window) == {"stable": 0, "canary": 0}


def test_a_restarted_load_balancer_breaks_one_window_even_when_its_counters_are_higher_than_before(shop: Shop) -> None:
    source = scrape()
    shop.ask(3)
    _, cursor = source.read(None)
    shop.restart()
    shop.ask(20)
    window, cursor = read_one(source, cursor)
    assert window.broken is not None
    assert "restarted" in window.broken
    shop.ask(5)
    window, _ = read_one(source, cursor)
    assert window.broken is None
    assert window.stable is not None
    assert window.stable.requests == 5


def test_a_shift_in_the_middle_of_a_window_loses_no_request(shop: Shop) -> None:
    source = scrape()
    _, cursor = source.read(None)
    answers = shop.ask(50)
    give_canary(shop, "50")
    answers += shop.ask(50)
    window, _ = read_one(source, cursor)
    assert counted(window) == {"stable": answers[(STABLE, 200)], "canary": answers[(CANARY, 200)]}
    assert answers[(CANARY, 200)] == 25


def test_a_store_knows_the_first_errors_of_a_canary_although_their_series_is_new(
    freshly_stored_shop: StoredShop,
) -> None:
    source = prometheus()
    _, cursor = source.read(None)
    freshly_stored_shop.wait_for_scrape()
    freshly_stored_shop.shop.backends[CANARY].default = Answer(b"broken", status=503)
    answers = freshly_stored_shop.ask(400)
    window, _ = read_one(source, cursor)
    assert answers == {(STABLE, 200): 360, ("broken", 503): 40}
    assert counted(window) == {"stable": 360, "canary": 40}
    assert window.canary is not None
    assert window.canary.errors == 40


def test_a_store_remembers_the_minutes_before(stored_shop: StoredShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_api, "HISTORY_STEP", 1.0)
    stored_shop.wait_for_scrape()
    began = time()
    stored_shop.wait_for_scrape()
    stored_shop.ask(100)

    def remembered() -> Counter[str]:
        return sum((counted(window) for window in prometheus().history(began, time())), Counter())

    # The last second is only told once it is over.
    wait_until(lambda: remembered().total() == 100, "the history has all requests")
    assert remembered() == {"stable": 90, "canary": 10}
    # Traefik knows no instances of a service; a label that splits its series in two is told apart as one that does.
    apart = prometheus(instance_label="method").history_of_instances(began, time())
    assert {name for moment in apart for name in moment} == {"GET"}
    of_get = sum((counted(moment["GET"]) for moment in apart if "GET" in moment), Counter[str]())
    assert of_get == {"stable": 90, "canary": 10}


def test_a_record_is_over_after_its_last_window_and_stays_over(request: pytest.FixtureRequest) -> None:
    source = replayed_case(request).make()
    _, cursor = source.read(None)
    seen = []
    while True:
        windows, cursor = source.read(cursor)
        if not windows:
            break
        seen += [window.start for window in windows]
    assert seen == [1000, 1030, 1060]
    assert source.read(cursor) == ([], cursor)

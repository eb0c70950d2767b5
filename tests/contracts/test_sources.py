"""What every metric source must do, run against every one of them. A new source adds itself to ``CASES``."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from canary_release.core.ports import MetricSource
from canary_release.core.values import Counts, Cursor, Weights, Window
from canary_release.hooks.replayed import ReplayedSource
from canary_release.hooks.scrape import ScrapeSource
from canary_release.hooks.traefik import TraefikHook
from contracts.conftest import BACKENDS, Shop
from contracts.little_servers import Answer
from contracts.waiting import wait_until

STABLE, CANARY = BACKENDS
RECORD = """window,start,side,weight,instances,requests,errors,le_0.1,le_0.5,le_inf
0,1000,stable,0.1,2,90,1,80,9,1
0,1000,canary,0.1,1,10,0,9,1,0
1,1030,stable,0.1,2,91,0,81,9,1
1,1030,canary,0.1,1,11,2,9,1,1
2,1060,stable,0.1,2,92,0,82,9,1
"""


@dataclass
class Case:
    """One metric source under test. happen: make n requests be counted, in a window of their own for a record.

    make: a new source over the same data, as another process would have.
    """

    make: Callable[[], MetricSource]
    happen: Callable[[], Counter[str]]


def replayed_case(request: pytest.FixtureRequest) -> Case:
    file: Path = request.getfixturevalue("tmp_path") / "record.csv"
    file.write_text(RECORD)
    connection = json.dumps({"conn_type": "generic", "extra": {"file": str(file)}})
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_RECORD", connection)
    recorded = iter([Counter({"stable": 90, "canary": 10}), Counter({"stable": 91, "canary": 11})])
    return Case(lambda: ReplayedSource("record", STABLE, CANARY, ReplayedSource.Options()), lambda: next(recorded))


def scrape_case(request: pytest.FixtureRequest) -> Case:
    shop = request.getfixturevalue("shop")
    give_canary(shop, "10")

    def happen() -> Counter[str]:
        answers = shop.ask(100)
        return Counter({"stable": answers[(STABLE, 200)], "canary": answers[(CANARY, 200)]})

    return Case(scrape, happen)


CASES = {"replayed": replayed_case, "scrape": scrape_case}


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param](request)


def scrape() -> ScrapeSource:
    return ScrapeSource("traefik_contract_metrics", STABLE, CANARY, ScrapeSource.Options())


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


def test_latency_buckets_add_up_to_the_requests(case: Case) -> None:
    source = case.make()
    _, cursor = source.read(None)
    case.happen()
    window, _ = read_one(source, cursor)
    for side in (window.stable, window.canary):
        assert side is not None
        assert len(side.buckets) == len(window.edges) + 1
        assert sum(side.buckets) == side.requests


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

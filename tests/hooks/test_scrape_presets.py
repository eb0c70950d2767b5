"""The metric names that come with the source ``scrape``, on the real servers they are for."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from time import time

import pytest

from canary_release.core.values import Weights, Window
from canary_release.hooks.envoy import EnvoyHook
from canary_release.hooks.haproxy import HaproxyHook
from canary_release.hooks.prometheus_api import PrometheusSource
from canary_release.hooks.scrape import PRESETS, ScrapeSource
from contracts.little_servers import Answer, LittleServer, little_server
from contracts.load_client import ask_many
from contracts.waiting import wait_until
from debian import require_tool
from demo.caddy_server import caddy_binary
from demo.envoy_server import EnvoyServer
from demo.free_ports import LOOPBACK, free_ports
from demo.haproxy_server import HaproxyServer
from demo.processes import Process, answers
from demo.prometheus_server import PrometheusServer
from demo.traefik_server import TraefikServer

BLUE, GREEN = "shop-blue", "shop-green"


@pytest.fixture
def backends() -> Iterator[dict[str, LittleServer]]:
    with ExitStack() as started:
        yield {name: started.enter_context(little_server(Answer(name.encode()))) for name in (BLUE, GREEN)}


def split(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def source(preset: str, **options: object) -> ScrapeSource:
    return ScrapeSource("metrics", BLUE, GREEN, ScrapeSource.Options.model_validate({"preset": preset, **options}))


def window_of(one: ScrapeSource, cursor: object, requests: int, times: bool) -> Window:
    """The window from the cursor to when the server has counted so many requests, and their times where it does."""
    found: list[Window] = []

    def counted() -> bool:
        found[:] = one.read(cursor)[0]  # type: ignore[arg-type]
        sides = [side for side in (found[0].stable, found[0].canary) if side]
        whole = sum(side.requests for side in sides) == requests
        return whole and (not times or all(sum(side.buckets) == side.requests for side in sides))

    wait_until(counted, f"{requests} requests counted")
    return found[0]


def check(one: ScrapeSource, url: str, backends: dict[str, LittleServer], times: bool) -> Window:
    """Both sides answer, the canary with errors that are its first: all must be counted."""
    _, cursor = one.read(None)
    backends[GREEN].default = Answer(b"broken", status=503)
    asked = ask_many(url, 200)
    window = window_of(one, cursor, 200, times)
    assert window.broken is None
    assert window.stable is not None
    assert window.canary is not None
    assert (window.stable.requests, window.stable.errors) == (asked[(BLUE, 200)], 0)
    assert (window.canary.requests, window.canary.errors) == (asked[("broken", 503)],) * 2
    assert window.canary.requests > 0
    return window


def instances(window: Window) -> tuple[int | None, ...]:
    """Of stable and of the canary."""
    return tuple(side and side.instances for side in (window.stable, window.canary))


def test_envoys_counters_say_what_the_clients_saw_with_times_in_seconds(
    tmp_path: Path, backends: dict[str, LittleServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with EnvoyServer(tmp_path, {name: one.url for name, one in backends.items()}) as envoy:
        monkeypatch.setenv("AIRFLOW_CONN_ENVOY", json.dumps(envoy.connection()))
        monkeypatch.setenv("AIRFLOW_CONN_METRICS", json.dumps(envoy.connection(file=False)))
        hook = EnvoyHook("envoy", (BLUE, GREEN), EnvoyHook.Options(route="shop"))
        hook.set_weights(split("50"))
        wait_until(lambda: hook.get_weights() == split("50"), "half and half")
        window = check(source("envoy", path="/stats/prometheus?usedonly"), envoy.url, backends, times=True)
        assert window.edges[:3] == (0.0005, 0.001, 0.005)
        assert window.edges[-1] > 100
        assert instances(window) == (1, 1)


def test_haproxys_counters_say_what_the_clients_saw(
    tmp_path: Path, backends: dict[str, LittleServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with HaproxyServer(tmp_path, {name: one.url for name, one in backends.items()}) as haproxy:
        monkeypatch.setenv("AIRFLOW_CONN_HAPROXY", json.dumps(haproxy.connection()))
        metrics = {"conn_type": "http", "host": haproxy.metrics_url.removesuffix("/metrics")}
        monkeypatch.setenv("AIRFLOW_CONN_METRICS", json.dumps(metrics))
        hook = HaproxyHook("haproxy", (BLUE, GREEN), HaproxyHook.Options())
        hook.renew_lease(time() + 60, BLUE)
        hook.set_weights(split("50"))
        window = check(source("haproxy"), haproxy.url, backends, times=False)
        assert window.edges == ()
        assert instances(window) == (1, 1)


@pytest.fixture
def checked_traefik(tmp_path: Path, backends: dict[str, LittleServer]) -> Iterator[TraefikServer]:
    """Two instances of stable and one of the canary, whose health Traefik checks."""
    with little_server(Answer(BLUE.encode())) as another:
        urls = {BLUE: [backends[BLUE].url, another.url], GREEN: [backends[GREEN].url]}
        with TraefikServer(tmp_path, urls, start_weights={BLUE: 1, GREEN: 1}) as traefik:
            ask_many(traefik.url, 20)
            yield traefik


def test_traefiks_health_checks_say_how_many_instances_each_side_has(
    checked_traefik: TraefikServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_METRICS", json.dumps({"conn_type": "http", "host": checked_traefik.api_url}))
    one = source("traefik")

    def counted() -> bool:
        (window,) = one.read(one.read(None)[1])[0]
        return instances(window) == (2, 1)

    wait_until(counted, "two instances of stable and one of the canary")


def test_a_store_that_scrapes_traefik_says_how_many_instances_each_side_has(
    checked_traefik: TraefikServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary, targets = require_tool("victoria-metrics"), {"traefik": checked_traefik.metrics_url}
    with PrometheusServer(tmp_path / "store", binary, targets, interval=0.2) as store:
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(store.connection()))
        options = PrometheusSource.Options.model_validate({"preset": "traefik", "scrape_interval": "1s", "delay": "0s"})
        one = PrometheusSource("store", BLUE, GREEN, options)
        cursor = one.read(None)[1]

        def counted() -> bool:
            windows, _ = one.read(cursor)
            return bool(windows) and instances(windows[-1]) == (2, 1)

        wait_until(counted, "two instances of stable and one of the canary", seconds=30)


def test_caddys_counters_tell_two_servers_of_one_caddy_apart(
    tmp_path: Path, backends: dict[str, LittleServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin, *ports = free_ports(3)
    servers = {
        name: {
            "listen": [f"{LOOPBACK}:{port}"],
            "automatic_https": {"disable": True},
            "routes": [
                {"handle": [{"handler": "reverse_proxy", "upstreams": [{"dial": one.url.removeprefix("http://")}]}]}
            ],
        }
        for (name, one), port in zip(backends.items(), ports, strict=True)
    }
    (tmp_path / "caddy.json").write_text(
        json.dumps({"admin": {"listen": f"{LOOPBACK}:{admin}"}, "apps": {"http": {"metrics": {}, "servers": servers}}})
    )
    own = {"XDG_CONFIG_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    argv = [caddy_binary(), "run", "--config", str(tmp_path / "caddy.json")]
    with Process(argv, log=tmp_path / "caddy.log", env=own, name="caddy") as caddy:
        caddy.wait_until(answers(f"http://{LOOPBACK}:{admin}/metrics"), 20, "show its metrics")
        monkeypatch.setenv("AIRFLOW_CONN_METRICS", json.dumps({"conn_type": "http", "host": LOOPBACK, "port": admin}))
        one = source("caddy")
        _, cursor = one.read(None)
        backends[GREEN].default = Answer(b"broken", status=503)
        for port, count in zip(ports, (30, 20), strict=True):
            ask_many(f"http://{LOOPBACK}:{port}", count)
        window = window_of(one, cursor, 50, times=True)
    assert window.stable is not None
    assert window.canary is not None
    assert (window.stable.requests, window.stable.errors) == (30, 0)
    assert (window.canary.requests, window.canary.errors) == (20, 20)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_may_stand_in_a_release_file(preset: str) -> None:
    assert ScrapeSource.Options.model_validate({"preset": preset}).preset == preset

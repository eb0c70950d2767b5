"""Cases of the contract suites on real proxies: Envoy, nginx, Caddy, and HAProxy by server weights."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from decimal import Decimal
from functools import partial
from typing import Any
from urllib.request import urlopen

import pytest

from canary_release.core.ports import LoadBalancer
from canary_release.core.problems import LoadBalancerError
from canary_release.core.values import Weights
from canary_release.hooks.caddy import CaddyHook
from canary_release.hooks.envoy import EnvoyHook
from canary_release.hooks.haproxy_weights import HaproxyWeightsHook
from canary_release.hooks.nginx import NginxHook
from canary_release.hooks.nginx_plus import NginxPlusHook
from contracts.case import Case, real
from contracts.little_servers import Answer, little_server
from contracts.nginx_plus_fake import NginxPlusFake, nginx_plus
from contracts.shop import BACKENDS
from contracts.waiting import wait_until
from demo.caddy_server import CaddyServer, caddy_binary
from demo.envoy_server import EnvoyServer, envoy_binary
from demo.haproxy_server import haproxy_binary
from demo.haproxy_weights_server import PROXY, HaproxyWeightsServer
from demo.nginx_server import Mode, NginxServer, nginx_binary

STABLE, CANARY = BACKENDS


def begin(balancer: LoadBalancer, again: Callable[[], None]) -> None:
    """Everything to stable: by a write where that will do, for a restart takes much longer."""
    first = Weights.split(stable=STABLE, canary=CANARY, canary_percent=Decimal(0))
    with suppress(LoadBalancerError):
        balancer.set_weights(first)
        if balancer.get_weights() == first:
            return
    again()


@pytest.fixture(scope="session")
def backend_urls() -> Iterator[dict[str, str]]:
    """Two backends that say their names."""
    with ExitStack() as started:
        yield {name: started.enter_context(little_server(Answer(name.encode()))).url for name in BACKENDS}


@pytest.fixture(scope="session")
def running_envoy(
    tmp_path_factory: pytest.TempPathFactory, backend_urls: dict[str, str]
) -> Iterator[Callable[[bool], EnvoyServer]]:
    """An Envoy whose runtime may override its routes, and one without, each started when first asked for."""
    with ExitStack() as started:
        servers: dict[bool, EnvoyServer] = {}

        def server(runtime: bool) -> EnvoyServer:
            if runtime not in servers:
                folder = tmp_path_factory.mktemp("envoy")
                servers[runtime] = started.enter_context(EnvoyServer(folder, backend_urls, runtime=runtime))
            return servers[runtime]

        yield server


def envoy_case(request: pytest.FixtureRequest, *, runtime: bool = False) -> Case:
    envoy: EnvoyServer = request.getfixturevalue("running_envoy")(runtime)
    connection = json.dumps(envoy.connection(file=not runtime))
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_ENVOY_CONTRACT", connection)
    envoy.reset_file()
    envoy.reset_runtime()
    options = EnvoyHook.Options(route="shop", mode="runtime" if runtime else "file")

    def make(*backends: str) -> EnvoyHook:
        return EnvoyHook("envoy_contract", (backends[0], backends[1]), options)

    def configuration() -> Any:
        whole = json.loads(envoy.route_file.read_text())
        for one in whole["resources"][0]["virtual_hosts"][0]["routes"][0]["route"]["weighted_clusters"]["clusters"]:
            del one["weight"]
        return {key: value for key, value in whole.items() if key != "version_info"}

    wait_until(lambda: make(*BACKENDS).get_weights()[CANARY] == 0, "the first configuration")
    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration if not runtime else envoy.route_file.read_text,
        envoy.restart,
        url=envoy.url,
        forgets=runtime,
        title="`envoy` (`mode: runtime`)" if runtime else "",
        tested_against=real("Envoy", [envoy_binary(), "--version"]),
    )


@pytest.fixture(scope="session")
def running_nginx(
    tmp_path_factory: pytest.TempPathFactory, backend_urls: dict[str, str]
) -> Iterator[Callable[[Mode], NginxServer]]:
    """An nginx with njs, and one without, each started when first asked for."""
    with ExitStack() as started:
        servers: dict[Mode, NginxServer] = {}

        def server(mode: Mode) -> NginxServer:
            if mode not in servers:
                folder = tmp_path_factory.mktemp("nginx")
                servers[mode] = started.enter_context(NginxServer(folder, backend_urls, mode))
            return servers[mode]

        yield server


def nginx_case(request: pytest.FixtureRequest, *, mode: Mode = "njs") -> Case:
    nginx: NginxServer = request.getfixturevalue("running_nginx")(mode)
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_NGINX_CONTRACT", json.dumps(nginx.connection()))

    def make(*backends: str) -> NginxHook:
        return NginxHook("nginx_contract", (backends[0], backends[1]), NginxHook.Options(route="shop", mode=mode))

    def again() -> None:
        nginx.process.stop()
        nginx.reset_file()
        nginx.restart()

    begin(make(*BACKENDS), again)

    def configuration() -> Any:
        kept = sorted(path.name for path in nginx.kept.iterdir() if path.suffix not in (".lock", ".json"))
        split = re.sub(r"^    .*$", "", nginx.split_file.read_text(), flags=re.MULTILINE)
        return kept, re.sub("\n+", "\n", split), nginx.config.read_text()

    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        nginx.restart,
        url=nginx.url,
        closes_idle=mode == "reload",
        title="`nginx` (`mode: reload`)" if mode == "reload" else "",
        tested_against=real("nginx", [nginx_binary(), "-v"]),
    )


@pytest.fixture(scope="session")
def running_caddy(tmp_path_factory: pytest.TempPathFactory, backend_urls: dict[str, str]) -> Iterator[CaddyServer]:
    with CaddyServer(tmp_path_factory.mktemp("caddy"), backend_urls) as server:
        yield server


def caddy_case(request: pytest.FixtureRequest) -> Case:
    caddy: CaddyServer = request.getfixturevalue("running_caddy")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_CADDY_CONTRACT", json.dumps(caddy.connection()))

    def make(*backends: str) -> CaddyHook:
        options = CaddyHook.Options(route="shop", upstreams=caddy.upstreams)
        return CaddyHook("caddy_contract", (backends[0], backends[1]), options)

    begin(make(*BACKENDS), caddy.reset)

    def configuration() -> Any:
        with urlopen(f"{caddy.admin_url}/config/", timeout=5) as answer:
            whole = json.load(answer)
        handler = whole["apps"]["http"]["servers"]["web"]["routes"][0]["handle"][-1]
        del handler["load_balancing"]["selection_policy"]["weights"]
        return whole

    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        caddy.restart,
        url=caddy.url,
        closes_idle=True,
        resets=True,
        kept_by="`--resume`",
        tested_against=real("Caddy", [caddy_binary(), "version"]),
    )


@pytest.fixture(scope="session")
def running_haproxy_weights(
    tmp_path_factory: pytest.TempPathFactory, backend_urls: dict[str, str]
) -> Iterator[HaproxyWeightsServer]:
    with HaproxyWeightsServer(tmp_path_factory.mktemp("weights"), backend_urls) as server:
        yield server


def haproxy_weights_case(request: pytest.FixtureRequest) -> Case:
    haproxy: HaproxyWeightsServer = request.getfixturevalue("running_haproxy_weights")
    connection = json.dumps(haproxy.connection())
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_WEIGHTS_CONTRACT", connection)

    def make(*backends: str) -> HaproxyWeightsHook:
        options = HaproxyWeightsHook.Options(proxy=PROXY)
        return HaproxyWeightsHook("weights_contract", (backends[0], backends[1]), options)

    begin(make(*BACKENDS), haproxy.reset)

    def configuration() -> Any:
        columns = [line.split() for line in haproxy.state_file.read_text().splitlines()]
        # Weights, and the seconds since they were changed.
        return haproxy.configuration.read_text(), [row[:7] + row[8:9] + row[10:] for row in columns]

    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        haproxy.restart,
        url=haproxy.url,
        kept_by="`state_file`",
        tested_against=real("HAProxy", [haproxy_binary()[0], "-v"], haproxy_binary()[1]),
    )


@pytest.fixture
def kept_plus() -> Iterator[NginxPlusFake]:
    with nginx_plus({"canary": {"shop": json.dumps({STABLE: 10_000, CANARY: 0}), "another": "7"}}) as fake:
        yield fake


def nginx_plus_case(request: pytest.FixtureRequest) -> Case:
    fake: NginxPlusFake = request.getfixturevalue("kept_plus")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_PLUS_CONTRACT", json.dumps(fake.connection()))

    def make(*backends: str) -> NginxPlusHook:
        return NginxPlusHook("plus_contract", (backends[0], backends[1]), NginxPlusHook.Options(route="shop"))

    def configuration() -> Any:
        return {name: {key: zone[key] for key in zone if key != "shop"} for name, zone in fake.zones.items()}

    # The zone's state file outlives a restart, and so does what the fake holds.
    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        lambda: None,
        restarts=False,
        tested_against="strict fake of the NGINX Plus API",
    )


CASES: dict[str, Callable[[pytest.FixtureRequest], Case]] = {
    "envoy": envoy_case,
    "envoy_runtime": partial(envoy_case, runtime=True),
    "caddy": caddy_case,
    "haproxy_weights": haproxy_weights_case,
    "nginx": nginx_case,
    "nginx_plus": nginx_plus_case,
    "nginx_reload": partial(nginx_case, mode="reload"),
}
IN_TRAFFIC = tuple(name for name in CASES if name != "nginx_plus")

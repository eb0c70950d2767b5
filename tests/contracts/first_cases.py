"""Cases of the contract suites for the memory balancer, Traefik, and HAProxy with its map and lease."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from canary_release.hooks.haproxy import HaproxyHook
from canary_release.hooks.memory_balancer import MemoryBalancer
from canary_release.hooks.traefik import TraefikHook
from contracts.case import Case, real
from contracts.little_servers import Answer, little_server
from contracts.shop import BACKENDS
from demo.haproxy_server import HaproxyServer, haproxy_binary
from demo.traefik_server import traefik_binary

STABLE, CANARY = BACKENDS


def memory_case(request: pytest.FixtureRequest) -> Case:
    file: Path = request.getfixturevalue("tmp_path") / "balancer.json"
    connection = json.dumps({"conn_type": "generic", "extra": {"file": str(file)}})
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_MEMORY_CONTRACT", connection)

    def make(*backends: str) -> MemoryBalancer:
        return MemoryBalancer("memory_contract", (backends[0], backends[1]), MemoryBalancer.Options())

    make(*BACKENDS).reset()

    def configuration() -> Any:
        state = json.loads(file.read_text())
        return {key: state[key] for key in state.keys() - {"weights", "writes"}}

    # A restart leaves the file and nothing of the process.
    restart = MemoryBalancer.forget_all
    return Case(make(*BACKENDS), make(*BACKENDS), make(STABLE, "nobody"), configuration, restart)


def traefik_case(request: pytest.FixtureRequest) -> Case:
    traefik = request.getfixturevalue("shop").traefik

    def make(*backends: str) -> TraefikHook:
        return TraefikHook("traefik_contract", (backends[0], backends[1]), TraefikHook.Options(route="shop"))

    def configuration() -> Any:
        whole = json.loads(traefik.dynamic_file.read_text())
        for entry in whole["http"]["services"]["shop"]["weighted"]["services"]:
            del entry["weight"]
        return whole

    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        traefik.restart,
        url=traefik.url,
        tested_against=real("Traefik", [traefik_binary(), "version"]),
    )


@pytest.fixture(scope="session")
def running_haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaproxyServer]:
    folder = tmp_path_factory.mktemp("haproxy")
    with ExitStack() as started:
        urls = {name: started.enter_context(little_server(Answer(name.encode()))).url for name in BACKENDS}
        yield started.enter_context(HaproxyServer(folder, urls))


def haproxy_case(request: pytest.FixtureRequest) -> Case:
    haproxy: HaproxyServer = request.getfixturevalue("running_haproxy")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_HAPROXY_CONTRACT", json.dumps(haproxy.connection()))
    haproxy.process.stop()
    haproxy.reset_file()
    with haproxy.map_file.open("a") as file:
        file.write("another-service.share 700\n")
    haproxy.restart()

    def make(*backends: str) -> HaproxyHook:
        return HaproxyHook("haproxy_contract", (backends[0], backends[1]), HaproxyHook.Options())

    def configuration() -> Any:
        entries = [line.split()[1:] for line in haproxy.command(f"show map {haproxy.map_file}").splitlines() if line]
        return haproxy.map_file.read_text(), [entry for entry in entries if not entry[0].startswith(CANARY)]

    make(*BACKENDS).renew_lease(time.time() + 600, STABLE)
    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        haproxy.restart,
        url=haproxy.url,
        leased=True,
        tested_against=real("HAProxy", [haproxy_binary()[0], "-v"], haproxy_binary()[1]),
    )


CASES = {"memory": memory_case, "traefik": traefik_case, "haproxy": haproxy_case}
IN_TRAFFIC = ("traefik", "haproxy")

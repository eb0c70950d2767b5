"""Real servers for the contract suites: two backends of a service behind a real Traefik."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from contracts.little_servers import Answer, LittleServer, little_server
from contracts.load_client import ask_many
from contracts.waiting import wait_until
from demo.traefik_server import TraefikServer, dynamic_configuration

BACKENDS = ("shop-blue", "shop-green")


@dataclass
class Shop:
    """A service with two backends that say their names, and the Traefik in front of them."""

    traefik: TraefikServer
    backends: dict[str, LittleServer]
    asked: int = 0

    def ask(self, count: int) -> Counter[tuple[str, int]]:
        """Answers to ``count`` requests, once Traefik has counted them: it does so after the client has its answer."""
        answers = ask_many(self.traefik.url, count)
        self.asked += count
        wait_until(self._all_counted, f"Traefik has counted {self.asked} requests")
        return answers

    def restart(self) -> None:
        self.traefik.restart()
        self.asked = 0

    def _all_counted(self) -> bool:
        metrics = ("traefik_service_requests_total", "traefik_service_request_duration_seconds_count")
        return all(self._counted(metric) == self.asked for metric in metrics)

    def _counted(self, metric: str) -> float:
        with urlopen(self.traefik.metrics_url, timeout=5) as response:
            lines = response.read().decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(metric + "{"))


@pytest.fixture(scope="session")
def running_shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder: Path = tmp_path_factory.mktemp("traefik")
    with ExitStack() as started:
        backends = {name: started.enter_context(little_server(Answer(name.encode()))) for name in BACKENDS}
        urls = {name: server.url for name, server in backends.items()}
        yield Shop(started.enter_context(TraefikServer(folder, urls)), backends)


@pytest.fixture
def shop(running_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The running shop with its first configuration, all counters at zero, and its connection ``traefik_contract``."""
    urls = {name: server.url for name, server in running_shop.backends.items()}
    for server, name in zip(running_shop.backends.values(), BACKENDS, strict=True):
        server.default = Answer(name.encode())
    configuration = dynamic_configuration("shop", urls, {BACKENDS[0]: 10_000, BACKENDS[1]: 0})
    running_shop.traefik.process.stop()
    running_shop.traefik.dynamic_file.write_text(json.dumps(configuration, indent=2))
    running_shop.restart()
    monkeypatch.setenv("AIRFLOW_CONN_TRAEFIK_CONTRACT", json.dumps(running_shop.traefik.connection()))
    return running_shop

"""Real servers for the contract suites: a shop behind a real Traefik, and whatever the cases bring along."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contracts.every_case import fixtures
from contracts.little_servers import Answer, little_server
from contracts.shop import BACKENDS, Shop
from demo.traefik_server import TraefikServer, dynamic_configuration

# Fixtures of the cases, as if they stood here: whoever adds a case need not name them anywhere.
globals().update(fixtures())


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

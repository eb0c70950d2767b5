"""WebSockets through a real HAProxy and a real Traefik while the canary is taken off."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path

import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import Request, Response, ServerConnection, serve

from canary_release.control.safe_writes import SafeWriter
from canary_release.control.system_clock import SystemClock
from canary_release.core.ports import KeepsLease, LoadBalancer
from canary_release.core.values import Weights
from canary_release.hooks.haproxy import HaproxyHook
from canary_release.hooks.traefik import TraefikHook
from canary_release.ledger.store import Ledger
from demo.haproxy_server import HaproxyServer
from demo.traefik_server import TraefikServer
from faults_real.results import Results

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

BLUE, GREEN = "chat-blue", "chat-green"
CONNECTIONS = 40
HALF = Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(50))


class Side:
    """A server that answers every message of a WebSocket with its own name in front of it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = serve(self._talk, sock=self._listener, process_request=self._health)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _talk(self, client: ServerConnection) -> None:
        for message in client:
            client.send(f"{self._name} {message!s}")

    @staticmethod
    def _health(client: ServerConnection, request: Request) -> Response | None:
        """Whoever does not want a WebSocket is a health check."""
        return None if "Upgrade" in request.headers else client.respond(HTTPStatus.OK, "well\n")

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)


@pytest.fixture(params=["HAProxy", "Traefik"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str, LoadBalancer]]:
    """(the load balancer's name, its address for clients, its hook)"""
    with ExitStack() as stack:
        urls = {name: stack.enter_context(closing(Side(name))).url for name in (BLUE, GREEN)}
        hook: LoadBalancer
        if request.param == "HAProxy":
            haproxy = stack.enter_context(HaproxyServer(tmp_path / "haproxy", urls))
            monkeypatch.setenv("AIRFLOW_CONN_CHAT_LB", json.dumps(haproxy.connection()))
            hook, url = HaproxyHook("chat_lb", (BLUE, GREEN), HaproxyHook.Options()), haproxy.url
        else:
            traefik = stack.enter_context(TraefikServer(tmp_path / "traefik", urls, route="chat"))
            monkeypatch.setenv("AIRFLOW_CONN_CHAT_LB", json.dumps(traefik.connection()))
            hook, url = TraefikHook("chat_lb", (BLUE, GREEN), TraefikHook.Options(route="chat")), traefik.url
        yield request.param, url.replace("http://", "ws://"), hook


def side_of(client: ClientConnection, message: str) -> str:
    """Who answers a message, which must come back whole."""
    client.send(message)
    name, _, rest = str(client.recv(timeout=10)).partition(" ")
    assert rest == message
    return name


def settled(hook: LoadBalancer, weights: Weights) -> bool:
    """Whether the load balancer says so within some seconds."""
    deadline = time.monotonic() + 10
    while hook.get_weights() != weights and time.monotonic() < deadline:
        time.sleep(0.05)
    return hook.get_weights() == weights


def test_row_23_open_websockets_live_on_after_a_rollback_and_no_new_one_reaches_the_canary(
    place: tuple[str, str, LoadBalancer], tmp_path: Path, results: Results
) -> None:
    name, url, hook = place
    if isinstance(hook, KeepsLease):
        hook.renew_lease(time.time() + 60, BLUE)
    hook.set_weights(HALF)
    assert settled(hook, HALF)
    with ExitStack() as stack, closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        old = [stack.enter_context(connect(url)) for _ in range(CONNECTIONS)]
        before = [side_of(client, "before") for client in old]
        assert {BLUE, GREEN} == set(before), "no WebSocket was on the canary, so nothing would be shown"
        writer = SafeWriter(ledger, hook, SystemClock(), actor="test", page=lambda service, sentence: None)
        writer.to_safe_side("chat", None, safe=BLUE, other=GREEN, why="test", patience=10)
        after = [side_of(client, "after") for client in old]
        new = [stack.enter_context(connect(url)) for _ in range(CONNECTIONS)]
        late = sum(side_of(client, "new") == GREEN for client in new)
    moved = sum(one != other for one, other in zip(before, after, strict=True))
    fault = f"{CONNECTIONS} open WebSockets"
    for what, count in ((f"{fault}: lost or moved by the rollback", moved), ("new WebSockets to the canary", late)):
        assert results.add(23, what, name, bound=0, seen=count, unit="connections").held

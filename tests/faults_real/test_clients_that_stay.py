"""Clients that keep their connections, or wait for a long answer, while the canary is taken off; and dying servers."""

import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from canary_release.control.ending import roll_back
from faults_real.patience import wait_for
from faults_real.results import Results
from faults_real.store import POLL, Store
from faults_real.watched_rollout import Hands

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(120)]

CONNECTIONS = 20
# Of 100 requests a second a fifth, of which all fail: the breaker wants 120 errors, and a look comes every second.
EVIDENCE = 120 / 20.0
SLOW = 100.0  # relative: 10 ms become a second


@pytest.fixture
def hands(tmp_path: Path, shop: Store, till: Store) -> Iterator[Hands]:
    made = Hands(tmp_path)
    yield made
    made.clean(shop, till)
    made.close()


class Client:
    """One connection that is kept, as a browser's."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self._socket: object = None

    def ask(self) -> tuple[int, str]:
        """(status, the version that answered), always over the same connection."""
        self._connection.request("GET", "/api/products")
        assert self._socket in (None, self._connection.sock), "the connection was not kept"
        self._socket = self._connection.sock
        answer = self._connection.getresponse()
        answer.read()
        return answer.status, answer.headers["X-Version"]

    def close(self) -> None:
        self._connection.close()


@pytest.mark.parametrize("name", ["shop", "till"])
def test_row_23_kept_connections_and_long_requests_survive_a_rollback_and_reach_no_canary(
    name: str, hands: Hands, results: Results, request: pytest.FixtureRequest
) -> None:
    store: Store = request.getfixturevalue(name)
    with hands.exposed(store) as (rollout,):
        clients = [Client(store.server.url) for _ in range(CONNECTIONS)]
        try:
            before = [client.ask() for client in clients for _ in range(10)]
            assert any(version == rollout.version for _, version in before), "no kept connection ever saw the canary"
            store.slow_down(rollout.canary, rollout.version, SLOW)
            under_way: list[tuple[int, str]] = []
            waiting = [threading.Thread(target=lambda each=each: under_way.append(each.ask())) for each in clients]
            for thread in waiting:
                thread.start()
            time.sleep(0.2)  # by now each request is at a shop, and those at the canary stay there for a second
            roll_back(hands.desk, hands.again(rollout), "test", actor="test", patience=10)
            for thread in waiting:
                thread.join(30)
            after = [client.ask() for client in clients for _ in range(10)]
        finally:
            for client in clients:
                client.close()
    lost = sum(status != 200 for status, _ in (*before, *under_way, *after))
    late = sum(version == rollout.version for _, version in after)
    assert len(under_way) == CONNECTIONS
    fault = f"{CONNECTIONS} kept connections, requests of a second under way at the rollback"
    assert results.add(23, f"{fault}: lost", store.balancer, bound=0, seen=lost, unit="requests").held
    assert results.add(
        23, f"{fault}: to the canary afterwards", store.balancer, bound=0, seen=late, unit="requests"
    ).held


@pytest.mark.parametrize("name", ["shop", "till"])
def test_row_24_canary_whose_server_dies_has_no_traffic_soon_after_the_evidence(
    name: str, hands: Hands, results: Results, request: pytest.FixtureRequest
) -> None:
    store: Store = request.getfixturevalue(name)
    with hands.exposed(store) as (rollout,):
        died = time.time()
        store.kill_side(rollout.canary)
        try:
            wait_for("the canary is off", lambda: store.weights()[rollout.canary] == 0, 30, every=0.05)
            took = time.time() - died
        finally:
            store.revive_side(rollout.canary)
    fault = f"kill -9 of the canary's server: until weight 0 ({EVIDENCE:g} s of it until there is enough evidence)"
    assert results.add(24, fault, store.balancer, bound=EVIDENCE + 2 * POLL + 2, seen=took).held

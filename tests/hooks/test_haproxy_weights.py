"""What is HAProxy's server weights' own: the order of two writes, restarts, algorithms, and answers in words."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path

import pytest

from canary_release.core.ports import KeepsLease
from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import haproxy_socket
from canary_release.hooks.haproxy_socket import StatsSocket
from canary_release.hooks.haproxy_weights import HaproxyWeightsHook
from contracts.little_servers import Answer, little_server
from contracts.load_client import ask_many
from demo.free_ports import LOOPBACK, free_port
from demo.haproxy_weights_server import PROXY, HaproxyWeightsServer

BLUE, GREEN = "shop-blue", "shop-green"
COLUMNS = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight"


def split(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def hook_of(proxy: str = PROXY) -> HaproxyWeightsHook:
    return HaproxyWeightsHook("weights", (BLUE, GREEN), HaproxyWeightsHook.Options(proxy=proxy))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaproxyWeightsServer]:
    with ExitStack() as started:
        urls = {name: started.enter_context(little_server(Answer(name.encode()))).url for name in (BLUE, GREEN)}
        yield started.enter_context(HaproxyWeightsServer(tmp_path_factory.mktemp("lb"), urls))


@pytest.fixture
def haproxy(server: HaproxyWeightsServer, monkeypatch: pytest.MonkeyPatch) -> HaproxyWeightsServer:
    """A real HAProxy just started, with everything on blue, and the connection ``weights``."""
    server.reset()
    monkeypatch.setenv("AIRFLOW_CONN_WEIGHTS", json.dumps(server.connection()))
    return server


def command(haproxy: HaproxyWeightsServer, line: str) -> str:
    connection = haproxy.connection()
    return StatsSocket("test", (connection["host"], connection["port"])).ask(line)


def test_every_half_percent_is_exact_and_a_tenth_is_refused(haproxy: HaproxyWeightsServer) -> None:
    for percent in ("0.5", "1", "1.5", "33", "99.5"):
        hook_of().set_weights(split(percent))
        assert hook_of().get_weights() == split(percent)
    for percent in ("0.1", "0.4", "33.3"):
        with pytest.raises(LoadBalancerError, match=r"multiples of 0\.5 %"):
            hook_of().set_weights(split(percent))


def test_the_share_that_was_set_is_the_share_that_clients_get(haproxy: HaproxyWeightsServer) -> None:
    hook_of().set_weights(split("5"))
    # HAProxy's round robin is exact over a whole turn of 200.
    assert ask_many(haproxy.url, 400)[(GREEN, 200)] == pytest.approx(20, abs=1)


def test_the_side_that_gains_is_raised_before_the_other_is_lowered(
    haproxy: HaproxyWeightsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    ask = StatsSocket.ask

    def listen(self: StatsSocket, line: str) -> str:
        if line.startswith("set server"):
            sent.append(line.removeprefix(f"set server {PROXY}/"))
        return ask(self, line)

    monkeypatch.setattr(StatsSocket, "ask", listen)
    hook_of().set_weights(split("100"))
    hook_of().set_weights(split("0"))
    assert sent == [
        "shop-green weight 200",
        "shop-blue weight 0",
        "shop-blue weight 200",
        "shop-green weight 0",
    ]


def test_without_a_state_file_a_restart_brings_the_configurations_weights_and_that_is_seen(
    haproxy: HaproxyWeightsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WEIGHTS", json.dumps(haproxy.connection(state_file=False)))
    hook_of().set_weights(split("5"))
    haproxy.restart()
    assert hook_of().get_weights() == split("0")


def test_a_state_file_that_cannot_be_written_is_an_error_although_the_weights_are_set(
    haproxy: HaproxyWeightsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = haproxy.connection()
    connection["extra"]["state_file"] = str(tmp_path / "gone" / "state")
    monkeypatch.setenv("AIRFLOW_CONN_WEIGHTS", json.dumps(connection))
    with pytest.raises(LoadBalancerError, match="cannot be written"):
        hook_of().set_weights(split("5"))
    assert hook_of().get_weights() == split("5")


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_a_server_out_of_rotation_is_an_error_and_not_its_weight(haproxy: HaproxyWeightsServer, state: str) -> None:
    hook_of().set_weights(split("5"))
    command(haproxy, f"set server {PROXY}/{GREEN} state {state}")
    with pytest.raises(LoadBalancerError, match="shop-green is in maintenance or draining"):
        hook_of().get_weights()
    command(haproxy, f"set server {PROXY}/{GREEN} state ready")
    assert hook_of().get_weights() == split("5")


def test_weights_that_somebody_set_without_a_care_for_the_sum_are_read_as_the_shares_they_are(
    haproxy: HaproxyWeightsServer,
) -> None:
    command(haproxy, f"set server {PROXY}/{BLUE} weight 3")
    command(haproxy, f"set server {PROXY}/{GREEN} weight 1")
    assert hook_of().get_weights() == split("25")
    command(haproxy, f"set server {PROXY}/{BLUE} weight 0")
    command(haproxy, f"set server {PROXY}/{GREEN} weight 0")
    with pytest.raises(LoadBalancerError, match="share out nothing"):
        hook_of().get_weights()


@pytest.mark.parametrize(
    ("algorithm", "told"),
    # HAProxy 2.8 has no name for random.
    [("random", "unknown"), ("leastconn", "leastconn"), ("source", "source"), ("static-rr", "static-rr")],
)
def test_an_algorithm_that_does_not_follow_weights_exactly_is_refused(
    server: HaproxyWeightsServer, monkeypatch: pytest.MonkeyPatch, algorithm: str, told: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WEIGHTS", json.dumps(server.connection()))
    before = server.configuration.read_text()
    server.configuration.write_text(before.replace("balance roundrobin", f"balance {algorithm}"))
    server.reset()
    try:
        with pytest.raises(LoadBalancerError, match=f"balances by {told}.*`balance roundrobin`"):
            hook_of().set_weights(split("5"))
    finally:
        server.configuration.write_text(before)


def test_a_backend_that_haproxy_does_not_have_is_an_unknown_target(haproxy: HaproxyWeightsServer) -> None:
    with pytest.raises(UnknownTargetError, match="Can't find backend"):
        hook_of("gone").set_weights(split("5"))


def test_it_keeps_no_lease(haproxy: HaproxyWeightsServer) -> None:
    assert not isinstance(hook_of(), KeepsLease)


@contextmanager
def talking(answers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A stats socket that answers a line with what is kept for its first words."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            line = self.rfile.readline().decode()
            self.wfile.write(next((said for words, said in answers.items() if line.startswith(words)), "\n").encode())

    with socketserver.ThreadingTCPServer((LOOPBACK, 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        connection = {"conn_type": "generic", "host": LOOPBACK, "port": server.server_address[1]}
        monkeypatch.setenv("AIRFLOW_CONN_WEIGHTS", json.dumps(connection))
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def servers(*rows: str) -> str:
    return "\n".join(["1", COLUMNS, *rows]) + "\n\n"


GOOD = servers(f"3 {PROXY} 1 {BLUE} - 2 0 200", f"3 {PROXY} 2 {GREEN} - 2 0 0")
STAT = f"# pxname,svname,algo,\n{PROXY},BACKEND,roundrobin,\n\n"


@pytest.mark.parametrize(
    ("line", "said", "error", "words"),
    [
        ("show servers", "Unknown command\n", LoadBalancerError, "level admin"),
        ("show servers", "HTTP/1.1 400 Bad request\r\n\r\n", LoadBalancerError, "HTTP/1.1 400 Bad request"),
        ("show servers", "\n", LoadBalancerError, "nothing"),
        ("show servers", "", LoadBalancerError, "is no HAProxy"),
        ("show servers", servers(f"3 {PROXY} 1 {BLUE}"), LoadBalancerError, "will not show the servers"),
        ("show servers", servers(f"3 {PROXY} 1 {BLUE} - 2 0 x"), LoadBalancerError, "will not show the servers"),
        ("show servers", servers(f"3 {PROXY} 1 {BLUE} - 2 0 5"), UnknownTargetError, "no server shop-green"),
        (
            "show servers",
            GOOD.rstrip("\n") + f"\n3 {PROXY} 3 red - 2 0 5\n\n",
            LoadBalancerError,
            "others, too: red, shop-blue, shop-green",
        ),
        ("show stat", "Permission denied\n", LoadBalancerError, "level admin"),
        ("show stat", STAT.replace("roundrobin", ""), LoadBalancerError, "something it does not tell"),
        ("set server", "Permission denied\n", LoadBalancerError, "level admin"),
        ("set server", "No such server.\n", UnknownTargetError, "No such server"),
    ],
)
def test_an_answer_in_words_becomes_the_error_it_means(
    line: str, said: str, error: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"show servers": GOOD, "show stat": STAT, line: said}
    with talking(answers, monkeypatch), pytest.raises(LoadBalancerError, match=words) as failed:
        hook_of().set_weights(split("5"))
    assert type(failed.value) is error
    assert "\n" not in str(failed.value)


def test_nobody_at_the_address_and_a_socket_that_hangs_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nobody = {"conn_type": "generic", "host": LOOPBACK, "port": free_port()}
    gone = {"conn_type": "generic", "extra": {"socket": str(tmp_path / "gone.sock")}}
    for connection in (nobody, gone):
        monkeypatch.setenv("AIRFLOW_CONN_WEIGHTS", json.dumps(connection))
        with pytest.raises(LoadBalancerError, match="cannot be reached"):
            hook_of().get_weights()
    monkeypatch.setattr(haproxy_socket, "WHOLE_SECONDS", 0.2)
    with socketserver.TCPServer((LOOPBACK, 0), socketserver.StreamRequestHandler) as silent:
        # Nobody accepts: the connection stands, and no answer comes.
        connection = {"conn_type": "generic", "host": LOOPBACK, "port": silent.server_address[1]}
        monkeypatch.setenv("AIRFLOW_CONN_WEIGHTS", json.dumps(connection))
        with pytest.raises(LoadBalancerError, match="did not answer in time"):
            hook_of().get_weights()


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        ({"conn_type": "http", "host": "lb", "port": 9}, "must be generic"),
        ({"conn_type": "generic", "host": "lb"}, "either host and port, or socket"),
        ({"conn_type": "generic", "host": "lb", "port": 9, "extra": {"socket": "/s"}}, "either host and port"),
        ({"conn_type": "generic", "host": "lb", "port": 9, "extra": {"state_file": "relative"}}, "state_file"),
    ],
)
def test_a_connection_that_names_no_stats_socket_is_refused(
    connection: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WEIGHTS", json.dumps(connection))
    with pytest.raises(ConnectionSettingsError, match=words):
        hook_of().get_weights()

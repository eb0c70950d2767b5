"""What is HAProxy's own: leases that end without a controller, its map and file, and answers that are only words."""

import http.client
import json
import math
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest

from canary_release.core.ports import KeepsLease
from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import haproxy as haproxy_module
from canary_release.hooks.haproxy import HaproxyHook
from contracts.little_servers import Answer, little_server
from contracts.load_client import Client
from contracts.waiting import wait_until
from demo.free_ports import LOOPBACK, free_port
from demo.haproxy_server import HaproxyServer

BLUE, GREEN = "shop-blue", "shop-green"


def split(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def hook_of(backends: tuple[str, str] = (BLUE, GREEN), clock: Callable[[], float] = time.time) -> HaproxyHook:
    return HaproxyHook("haproxy", backends, HaproxyHook.Options(), clock=clock)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaproxyServer]:
    with ExitStack() as started:
        urls = {name: started.enter_context(little_server(Answer(name.encode()))).url for name in (BLUE, GREEN)}
        yield started.enter_context(HaproxyServer(tmp_path_factory.mktemp("lb"), urls))


@pytest.fixture
def haproxy(server: HaproxyServer, monkeypatch: pytest.MonkeyPatch) -> HaproxyServer:
    """A real HAProxy just started, with everything on blue, no lease, and the connection ``haproxy``."""
    server.process.stop()
    server.reset_file()
    server.restart()
    monkeypatch.setenv("AIRFLOW_CONN_HAPROXY", json.dumps(server.connection()))
    return server


@dataclass
class Seen:
    """What clients saw. sent: for each backend, when the requests were sent that it answered."""

    sent: dict[str, list[float]] = field(default_factory=lambda: {BLUE: [], GREEN: []})
    failures: list[str] = field(default_factory=list)

    def after(self, backend: str, instant: float) -> int:
        return sum(sent > instant for sent in self.sent[backend])

    def wait_past(self, instant: float, *, requests: int = 100) -> None:
        """Return once so many requests sent after ``instant`` were answered."""
        wait_until(lambda: self.after(BLUE, instant) + self.after(GREEN, instant) >= requests, "requests after it")


@contextmanager
def clients(url: str, count: int = 3) -> Iterator[Seen]:
    """Ask from ``count`` keep-alive connections until the block ends; nobody tries again."""
    seen, over = Seen(), threading.Event()

    def ask_on() -> None:
        client = Client(url)
        while not over.wait(0.002):
            sent = time.time()
            try:
                body, status = client.ask()
            except (OSError, http.client.HTTPException) as error:
                seen.failures.append(repr(error))
                client.close()
                continue
            if status == 200:
                seen.sent[body].append(sent)
            else:
                seen.failures.append(f"{status}: {body}")
        client.close()

    threads = [threading.Thread(target=ask_on, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_controller_that_is_gone_leaves_no_canary_after_its_lease(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    until = time.time() + 2.5
    hook.renew_lease(until, BLUE)
    hook.set_weights(split("50"))
    with clients(haproxy.url) as seen:
        seen.wait_past(until + 1)
    assert seen.failures == []
    assert seen.after(GREEN, math.floor(until) - 1) > 20, "the canary had its share up to the lease's end"
    assert seen.after(GREEN, math.floor(until) + 1) == 0
    assert hook.get_weights() == split("0")


def test_a_renewed_lease_keeps_the_canary(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    first = time.time() + 2
    hook.renew_lease(first, BLUE)
    hook.set_weights(split("50"))
    hook.renew_lease(first + 60, BLUE)
    with clients(haproxy.url) as seen:
        seen.wait_past(first + 0.5)
    assert seen.failures == []
    assert seen.after(GREEN, first) > 20
    assert hook.get_weights() == split("50")


def test_after_a_promotion_the_new_side_stays_beyond_the_old_lease_and_a_restart(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    until = time.time() + 2
    hook.renew_lease(until, BLUE)
    hook.set_weights(split("100"))
    hook.end_lease(GREEN)
    promoted = time.time()
    with clients(haproxy.url) as seen:
        seen.wait_past(until + 0.5)
    assert seen.failures == []
    assert seen.after(BLUE, promoted) == 0
    haproxy.restart()
    assert hook.get_weights() == split("100")
    with clients(haproxy.url) as seen:
        seen.wait_past(0)
    assert seen.sent[BLUE] == []


def test_a_promotion_that_comes_after_the_lease_has_ended_still_moves_everything(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    until = time.time() + 2.5
    hook.renew_lease(until, BLUE)
    hook.set_weights(split("100"))
    wait_until(lambda: hook.get_weights() == split("0"), "the lease's end")
    hook.end_lease(GREEN)
    assert hook.get_weights() == split("100")


def test_a_killed_haproxy_comes_back_with_everything_on_the_safe_side(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    hook.renew_lease(time.time() + 60, BLUE)
    hook.set_weights(split("50"))
    haproxy.process.kill()
    haproxy.restart()
    assert hook.get_weights() == split("0")
    with clients(haproxy.url) as seen:
        seen.wait_past(0)
    assert seen.sent[GREEN] == []


def test_the_release_after_a_promotion_goes_the_other_way_and_comes_back_to_the_promoted_side(
    haproxy: HaproxyServer,
) -> None:
    hook = hook_of()
    hook.end_lease(GREEN)
    until = time.time() + 2.5
    hook.renew_lease(until, GREEN)
    hook.set_weights(split("70"))
    assert hook.get_weights() == split("70")
    wait_until(lambda: hook.get_weights() == split("100"), "the lease's end")


def test_a_rollback_ends_the_lease_at_once(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    hook.renew_lease(time.time() + 60, BLUE)
    hook.set_weights(split("50"))
    with clients(haproxy.url) as seen:
        seen.wait_past(0)
        hook.end_lease(BLUE)
        rolled_back = time.time()
        seen.wait_past(rolled_back)
    assert seen.failures == []
    assert len(seen.sent[GREEN]) > 0
    assert seen.after(GREEN, rolled_back) == 0


def test_a_raise_that_arrives_after_the_rollback_moves_nothing(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    hook.renew_lease(time.time() + 60, BLUE)
    hook.end_lease(BLUE)
    # What the last write of a raise looks like that was authorised before the rollback.
    assert haproxy.command(f"set map {haproxy.map_file} {GREEN}.share 5000").strip() == ""
    assert hook.get_weights() == split("0")
    with clients(haproxy.url) as seen:
        seen.wait_past(0)
    assert seen.sent[GREEN] == []


def test_a_renewal_that_arrives_after_the_rollback_brings_no_weight_back(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    hook.renew_lease(time.time() + 60, BLUE)
    hook.set_weights(split("50"))
    hook.end_lease(BLUE)
    hook.renew_lease(time.time() + 60, BLUE)
    assert hook.get_weights() == split("0")


def test_a_renewal_that_arrives_after_the_promotion_is_refused(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    hook.renew_lease(time.time() + 60, BLUE)
    hook.end_lease(GREEN)
    with pytest.raises(LoadBalancerError, match=f"{BLUE} cannot be the safe side"):
        hook.renew_lease(time.time() + 60, BLUE)
    assert hook.get_weights() == split("100")


def test_a_lease_begun_anew_does_not_bring_back_the_weights_of_the_one_that_ended(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    hook.renew_lease(time.time() + 2.5, BLUE)
    hook.set_weights(split("50"))
    wait_until(lambda: hook.get_weights() == split("0"), "the lease's end")
    hook.renew_lease(time.time() + 60, BLUE)
    assert hook.get_weights() == split("0")


def test_without_a_lease_a_raise_is_refused_and_the_safe_side_may_be_written(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    with pytest.raises(LoadBalancerError, match="renew the lease first"):
        hook.set_weights(split("5"))
    hook.set_weights(split("0"))
    assert hook.get_weights() == split("0")


@pytest.mark.parametrize("until", [-60.0, 0.0, math.nan, math.inf, 1e12])
def test_a_lease_that_does_not_end_in_the_near_future_is_refused(haproxy: HaproxyServer, until: float) -> None:
    hook = hook_of()
    hook.renew_lease(time.time() + 60, BLUE)
    hook.set_weights(split("5"))
    before = haproxy.command(f"show map {haproxy.map_file}")
    with pytest.raises(LoadBalancerError, match="in the future"):
        hook.renew_lease(time.time() + until, BLUE)
    assert haproxy.command(f"show map {haproxy.map_file}") == before


@pytest.mark.parametrize(("skew", "words"), [(-4.0, "4 s ahead of ours"), (4.0, "4 s behind ours")])
def test_clocks_that_differ_get_no_lease_but_a_rollback(haproxy: HaproxyServer, skew: float, words: str) -> None:
    hook_of().renew_lease(time.time() + 60, BLUE)
    hook_of().set_weights(split("5"))
    hook = hook_of(clock=lambda: time.time() + skew)
    with pytest.raises(LoadBalancerError, match=words):
        hook.renew_lease(time.time() + 60, BLUE)
    assert hook.get_weights() == split("5")
    hook.end_lease(BLUE)
    assert hook.get_weights() == split("0")


def test_clocks_that_differ_by_a_second_get_a_lease(haproxy: HaproxyServer) -> None:
    for skew in (-1.0, 1.0):
        hook_of(clock=lambda skew=skew: time.time() + skew).renew_lease(time.time() + 60, BLUE)


def test_a_safe_side_that_is_neither_backend_is_refused(haproxy: HaproxyServer) -> None:
    for act in (lambda: hook_of().renew_lease(time.time() + 60, "shop-red"), lambda: hook_of().end_lease("shop-red")):
        with pytest.raises(UnknownTargetError, match="shop-red cannot be the safe side"):
            act()


def test_the_order_of_the_backends_does_not_matter(haproxy: HaproxyServer) -> None:
    hook_of().renew_lease(time.time() + 60, BLUE)
    hook_of().set_weights(split("5"))
    assert hook_of((GREEN, BLUE)).get_weights() == split("5")


def test_a_unix_socket_serves_as_well(haproxy: HaproxyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HAPROXY", json.dumps(haproxy.connection(unix=True)))
    hook = hook_of()
    assert isinstance(hook, KeepsLease)
    hook.renew_lease(time.time() + 60, BLUE)
    hook.set_weights(split("0.01"))
    assert hook.get_weights() == split("0.01")


def test_clients_get_the_share_that_was_set_give_or_take_chance(haproxy: HaproxyServer) -> None:
    hook = hook_of()
    hook.renew_lease(time.time() + 60, BLUE)
    hook.set_weights(split("20"))
    with clients(haproxy.url) as seen:
        seen.wait_past(0, requests=2000)
    total = len(seen.sent[BLUE]) + len(seen.sent[GREEN])
    # Six standard deviations of a binomial draw.
    assert len(seen.sent[GREEN]) == pytest.approx(0.2 * total, abs=6 * math.sqrt(0.2 * 0.8 * total))


def test_the_file_changes_only_with_a_promotion_and_keeps_everything_else(haproxy: HaproxyServer) -> None:
    before, inode = haproxy.map_file.read_text(), haproxy.map_file.stat().st_ino
    hook = hook_of()
    hook.renew_lease(time.time() + 60, BLUE)
    hook.set_weights(split("50"))
    hook.end_lease(BLUE)
    assert haproxy.map_file.stat().st_ino == inode
    hook.end_lease(GREEN)
    expected = before.replace(".share 0", ".share 10000").replace(".after 0", ".after 10000")
    assert haproxy.map_file.read_text() == expected


@pytest.mark.parametrize("text", [None, "", f"{GREEN}.share 0\n{GREEN}.share 0\n{GREEN}.until 0\n{GREEN}.after 0\n"])
def test_without_a_good_file_for_a_restart_no_lease_begins(
    haproxy: HaproxyServer, tmp_path: Path, text: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "another.map"
    if text is not None:
        file.write_text(text)
    connection = haproxy.connection()
    connection["extra"]["file"] = str(file)
    monkeypatch.setenv("AIRFLOW_CONN_HAPROXY", json.dumps(connection))
    hook = hook_of()
    with pytest.raises(LoadBalancerError, match=r"another\.map"):
        hook.renew_lease(time.time() + 60, BLUE)
    with pytest.raises(LoadBalancerError, match="renew the lease first"):
        hook.set_weights(split("5"))


class TalkingSocket:
    """A stats socket that answers a line with what is kept for its first words."""

    def __init__(self) -> None:
        self.entries = {f"{GREEN}.share": "500", f"{GREEN}.until": "0", f"{GREEN}.after": "0"}
        self.answers = {
            "show backend": f"# name\n{BLUE}\n{GREEN}\n\n",
            "experimental-mode": f"\n\nproc.canary_clock: type=sint value=<{int(time.time() * 1000)}>\n\n",
            "set map": "\n",
        }
        self.heard: list[str] = []
        self.hang = threading.Event()

    def reply(self, line: str) -> str | None:
        """None: keep the connection open and silent."""
        self.heard.append(line)
        for words, answer in self.answers.items():
            if line.startswith(words):
                return None if answer == "hang" else answer
        return "".join(f"0x1f {key} {value}\n" for key, value in self.entries.items()) + "\n"


@pytest.fixture
def talking(monkeypatch: pytest.MonkeyPatch) -> Iterator[TalkingSocket]:
    talking = TalkingSocket()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            answer = talking.reply(self.rfile.readline().decode())
            if answer is None:
                talking.hang.wait(30)
                return
            self.wfile.write(answer.encode())

    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        extra = {"map_file": "/etc/haproxy/canary.map"}
        connection = {"conn_type": "generic", "host": LOOPBACK, "port": server.server_address[1], "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_HAPROXY", json.dumps(connection))
        yield talking
        talking.hang.set()
        server.shutdown()
        thread.join()


NO_MAP = "Unknown map identifier. Please use #<id> or <file>.\n\n"
DENIED = "This command is restricted to experimental mode only.\n\nVariable not found.\n\n"


@pytest.mark.parametrize(
    ("command", "answer", "error", "words"),
    [
        ("show backend", f"# name\n{BLUE}\n\n", UnknownTargetError, "no backend shop-green; it has shop-blue"),
        ("show backend", "HTTP/1.1 400 Bad request\r\n\r\n", LoadBalancerError, "HTTP/1.1 400 Bad request"),
        ("show backend", "", LoadBalancerError, "is no HAProxy"),
        ("show backend", "# name\nshop-", LoadBalancerError, "broke off"),
        ("show backend", "Unknown command: 'show backend'\n\n", LoadBalancerError, "level admin"),
        ("show backend", "hang", LoadBalancerError, "in time"),
        ("show backend", "# name\n" + "x" * 10_000 + "\n\n", LoadBalancerError, "answered more than"),
        ("show map", NO_MAP, UnknownTargetError, "has no map /etc/haproxy/canary.map"),
        ("show map", "0x1f half", LoadBalancerError, "broke off"),
        ("show map", "out of memory\n\n", LoadBalancerError, "will not show the map .*: out of memory"),
        ("experimental-mode", DENIED, LoadBalancerError, "level admin"),
        ("experimental-mode", "Permission denied\n\n", LoadBalancerError, "level admin"),
        ("set map", "entry not found.\n\n", UnknownTargetError, "no such entry"),
        ("set map", "unable to parse '0'.\n\n", LoadBalancerError, "unable to parse '0'"),
        ("set map", NO_MAP, UnknownTargetError, "has no map"),
    ],
)
def test_an_answer_in_words_becomes_the_error_it_means(
    talking: TalkingSocket,
    command: str,
    answer: str,
    error: type[Exception],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(haproxy_module, "WHOLE_SECONDS", 0.3)
    monkeypatch.setattr(haproxy_module, "LARGEST_ANSWER", 5000)
    talking.answers[command] = answer
    with pytest.raises(LoadBalancerError, match=words) as failed:
        hook_of().set_weights(split("0"))
    assert type(failed.value) is error
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({f"{GREEN}.share": "10001"}, "'10001' for shop-green.share"),
        ({f"{GREEN}.until": "soon"}, "'soon' for shop-green.until"),
        ({f"{GREEN}.after": "-1"}, "'-1' for shop-green.after"),
        ({f"{BLUE}.{name}": "0" for name in ("share", "until", "after")}, "entries for both"),
    ],
)
def test_entries_that_are_no_split_are_an_error_that_names_them(
    talking: TalkingSocket, entries: dict[str, str], words: str
) -> None:
    talking.entries.update(entries)
    with pytest.raises(LoadBalancerError, match=words):
        hook_of().get_weights()


def test_an_entry_that_is_missing_or_there_twice_is_an_error_that_names_it(talking: TalkingSocket) -> None:
    talking.answers["show map"] = f"0x1f {GREEN}.share 0\n0x2f {GREEN}.share 1\n\n"
    with pytest.raises(LoadBalancerError, match=r"shop-green\.share twice"):
        hook_of().get_weights()
    talking.answers["show map"] = f"0x1f {GREEN}.share 0\n\n"
    with pytest.raises(UnknownTargetError, match="no complete entries for either"):
        hook_of().get_weights()


def test_a_backend_that_would_be_a_command_of_its_own_never_reaches_haproxy(talking: TalkingSocket) -> None:
    evil = "x;quit"
    talking.entries = {f"{evil}.share": "0", f"{evil}.until": "0", f"{evil}.after": "0"}
    with pytest.raises(UnknownTargetError, match="cannot have a backend"):
        hook_of((BLUE, evil)).end_lease(BLUE)
    assert not [line for line in talking.heard if "quit" in line]


def test_nobody_at_the_address_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extra = {"map_file": "/etc/haproxy/canary.map"}
    nobody = {"conn_type": "generic", "host": LOOPBACK, "port": free_port(), "extra": extra}
    gone = {"conn_type": "generic", "extra": {**extra, "socket": str(tmp_path / "gone.sock")}}
    for connection in (nobody, gone):
        monkeypatch.setenv("AIRFLOW_CONN_HAPROXY", json.dumps(connection))
        with pytest.raises(LoadBalancerError, match="cannot be reached"):
            hook_of().get_weights()


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        ({"conn_type": "http", "host": "lb", "port": 9, "extra": {"map_file": "/m"}}, "must be generic"),
        ({"conn_type": "generic", "host": "lb", "port": 9}, "map_file"),
        ({"conn_type": "generic", "host": "lb", "port": 9, "extra": {"map_file": "m"}}, "map_file"),
        ({"conn_type": "generic", "host": "lb", "port": 9, "extra": {"map_file": "/m;quit"}}, "map_file"),
        ({"conn_type": "generic", "host": "lb", "port": 9, "extra": {"map_file": "/m", "fiel": "/m"}}, "fiel"),
        ({"conn_type": "generic", "host": "lb", "extra": {"map_file": "/m"}}, "either host and port, or socket"),
        ({"conn_type": "generic", "extra": {"map_file": "/m"}}, "either host and port, or socket"),
        ({"conn_type": "generic", "host": "lb", "port": 9, "extra": {"map_file": "/m", "socket": "/s"}}, "either"),
    ],
)
def test_a_connection_that_names_no_stats_socket_or_map_is_refused(
    connection: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HAPROXY", json.dumps(connection))
    with pytest.raises(ConnectionSettingsError, match=words):
        hook_of().get_weights()

"""The proxy that breaks things does to a call what it was told, and nothing to the others."""

import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import requests

from demo.fault_proxy import HUGE, Fault, FaultProxy, Kind
from faults_real.patience import wait_for


class Counting(http.server.BaseHTTPRequestHandler):
    """Answers with how often it was asked."""

    protocol_version = "HTTP/1.1"
    asked = 0

    def do_POST(self) -> None:
        Counting.asked += 1
        body = self.rfile.read(int(self.headers["Content-Length"])) + f" {Counting.asked}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    Counting.asked = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with FaultProxy("127.0.0.1", server.server_address[1]) as started:
            yield started
        server.shutdown()


def ask(proxy: FaultProxy, path: str = "/", seconds: float = 5.0) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(proxy.url + path, data=b"hello", timeout=seconds)


def test_call_without_a_rule_passes_whole(proxy: FaultProxy) -> None:
    assert ask(proxy).text == "hello 1"
    assert [(call.request, call.fault) for call in proxy.calls()] == [(b"POST / HTTP/1.1", None)]


def test_rule_breaks_as_many_calls_as_it_says_and_only_those_it_means(proxy: FaultProxy) -> None:
    proxy.play(Fault(Kind.STATUS, status=503), only=b"/here", times=2)
    statuses = [ask(proxy, path).status_code for path in ("/here", "/there", "/here", "/here")]
    assert statuses == [503, 200, 503, 200]


def test_call_dropped_before_never_reaches_the_server(proxy: FaultProxy) -> None:
    proxy.play(Fault(Kind.DROP_BEFORE), times=1)
    with pytest.raises(requests.ConnectionError):
        ask(proxy)
    assert Counting.asked == 0


def test_call_dropped_after_has_been_done(proxy: FaultProxy) -> None:
    proxy.play(Fault(Kind.DROP_AFTER), times=1)
    with pytest.raises(requests.ConnectionError):
        ask(proxy)
    assert Counting.asked == 1


def test_held_call_names_its_process_and_is_let_go(proxy: FaultProxy) -> None:
    proxy.play(Fault(Kind.HOLD_ANSWER, seconds=60), times=1)
    heard: list[str] = []
    caller = threading.Thread(target=lambda: heard.append(ask(proxy, seconds=30).text))
    caller.start()
    (call,) = wait_for("the call is held", proxy.held, 10)
    assert proxy.pid_of(call) == os.getpid()
    assert (Counting.asked, heard) == (1, [])
    proxy.let_go()
    caller.join(10)
    assert heard == ["hello 1"]


def test_delayed_call_goes_on_after_its_time(proxy: FaultProxy) -> None:
    proxy.play(Fault(Kind.DELAY, seconds=0.3), times=1)
    began = time.monotonic()
    assert ask(proxy).text == "hello 1"
    assert time.monotonic() - began >= 0.3


def test_answers_that_no_server_gives(proxy: FaultProxy) -> None:
    proxy.play(Fault(Kind.GARBAGE), times=1)
    proxy.play(Fault(Kind.HUGE), times=1)
    assert b"\x00" in ask(proxy).content
    assert len(ask(proxy).content) == HUGE
    proxy.play(Fault(Kind.SLOW_BODY, seconds=1), times=1)
    with pytest.raises(requests.RequestException):
        ask(proxy)
    assert Counting.asked == 0


def test_protocol_of_lines_is_passed_and_broken_as_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_lines, args=(server,), daemon=True).start()
        with FaultProxy("127.0.0.1", server.getsockname()[1], lines=True) as proxy:
            proxy.play(Fault(Kind.TRUNCATED), only=b"second")
            assert say(proxy, b"first\n") == b"you said first\n"
            assert b"you said second\n".startswith(half := say(proxy, b"second\n"))
            assert 0 < len(half) < len(b"you said second\n")


def answer_lines(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"you said " + connection.recv(100))


def say(proxy: FaultProxy, line: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as connection:
        connection.sendall(line)
        with connection.makefile("rb") as answer:
            return answer.read()

"""Small HTTP servers on the loopback that do as they are told: a service's backends, and APIs that misbehave."""

import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from demo.free_ports import LOOPBACK


def ill(name: str) -> str:
    """The path that only the server with this name for a body answers with an error, as a bad version would."""
    return f"/ill/{name}"


@dataclass
class Answer:
    """What a path answers. hold: seconds before the first byte, cut short when the server stops."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hold: float = 0.0


class LittleServer:
    """Answers a path with what ``answers`` holds for it, any other with ``default``; counts requests by path."""

    def __init__(self, default: Answer, answers: dict[str, Answer] | None = None) -> None:
        self.default = default
        self.answers = dict(answers or {})
        self.seen: Counter[str] = Counter()
        self.headers: dict[str, str] = {}
        self.stopping = threading.Event()
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(owner: LittleServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def setup(self) -> None:
            super().setup()
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def do_GET(self) -> None:
            owner.seen[self.path] += 1
            owner.headers = dict(self.headers)
            answer = owner.answers.get(self.path, owner.default)
            if self.path == ill(owner.default.body.decode(errors="replace")):
                answer = Answer(owner.default.body, 500)
            if answer.hold:
                owner.stopping.wait(answer.hold)
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            """Silence: pytest shows what matters."""

    return Handler


@contextmanager
def little_server(default: Answer, answers: dict[str, Answer] | None = None) -> Iterator[LittleServer]:
    server = LittleServer(default, answers)
    try:
        yield server
    finally:
        server.stop()

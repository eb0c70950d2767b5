"""A metric store on the loopback that answers what a test tells it to, and remembers what it was asked."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from demo.free_ports import LOOPBACK


@dataclass(frozen=True)
class Asked:
    """One request. parameters: of the URL and, where it is a form, of the body; the last of each name."""

    method: str
    path: str
    parameters: dict[str, str]
    body: str
    headers: dict[str, str]


@dataclass(frozen=True)
class Said:
    """One answer. length: the Content-Length to claim when it shall not be the body's."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None

    def text(self) -> bytes:
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


class StoreServer:
    """``answer`` makes the answer to each request; ``asked`` holds all of them."""

    def __init__(self, answer: Callable[[Asked], Said]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def connection(self, **more: Any) -> str:
        return json.dumps({"conn_type": "http", "host": LOOPBACK, "port": self.port, **more})

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(owner: StoreServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._any()

        def do_POST(self) -> None:
            self._any()

        def _any(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            form = body if "form-urlencoded" in (self.headers.get("Content-Type") or "") else ""
            parameters = {name: values[-1] for name, values in parse_qs(f"{parts.query}&{form}").items()}
            asked = Asked(self.command, parts.path, parameters, body, dict(self.headers))
            owner.asked.append(asked)
            said = owner.answer(asked)
            text = said.text()
            self.send_response(said.status)
            length = len(text) if said.length is None else said.length
            for name, value in {"Content-Length": str(length), **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:
            """Silence: pytest shows what matters."""

    return Handler


@contextmanager
def store_server(answer: Callable[[Asked], Said]) -> Iterator[StoreServer]:
    server = StoreServer(answer)
    try:
        yield server
    finally:
        server.stop()

"""A small fake of an HTTP API that keeps JSON documents, for load balancers that cannot be had in a test.

Subclasses say what the real API accepts and refuses; whoever starts one may be told of every accepted change, and so
drive a real proxy's weights by what the fake holds.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from demo.free_ports import LOOPBACK

Json = dict[str, Any]


class RefusedByApi(Exception):
    """status and words of an answer that is not 200."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.words = words


@dataclass(frozen=True)
class Asked:
    """One request as the fake saw it."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any = field(default=None)


@dataclass(frozen=True)
class RawAnswer:
    """An answer that ``FakeApiServer`` sends as it is; headers go beside its own."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class FakeApiServer:
    """Answers on a free port of the loopback; keeps its documents over ``restart``, as the real one's store does.

    changed: called with the path and the new document after every accepted change.
    """

    def __init__(self, changed: Callable[[str, Any], None] = lambda path, document: None) -> None:
        self.documents: dict[str, Any] = {}
        self.changed = changed
        self.lock = threading.RLock()
        self.port = 0
        self._start()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def answer(self, asked: Asked) -> Any:
        """The JSON value that answers ``asked``, or a RawAnswer; raises RefusedByApi. Called under the lock."""
        raise NotImplementedError

    def connection(self, *, password: str = "", headers: Mapping[str, str] | None = None) -> Json:
        """The Airflow connection to this server, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        extra = {"headers": dict(headers)} if headers else {}
        where = {"conn_type": "http", "host": LOOPBACK, "port": self.port, "schema": "http"}
        return {**where, "password": password, "extra": extra}

    def restart(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _start(self) -> None:
        self._server = ThreadingHTTPServer((LOOPBACK, self.port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _handler(owner: FakeApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def _handle(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length)
            query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
            try:
                body = json.loads(text) if text else None
                with owner.lock:
                    asked = Asked(self.command, unquote(parts.path), query, dict(self.headers), body)
                    self._send(200, owner.answer(asked))
            except ValueError as error:
                self._send(400, {"message": f"the body is not JSON: {error}"})
            except RefusedByApi as error:
                self._send(error.status, {"message": error.words, "code": error.status})

        do_GET = do_PUT = do_PATCH = do_POST = _handle

        def _send(self, status: int, value: Any) -> None:
            raw = value if isinstance(value, RawAnswer) else RawAnswer(json.dumps(value).encode(), status)
            self.send_response(raw.status)
            for name, text in {"Content-Type": "application/json", **raw.headers}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(raw.body)))
            self.end_headers()
            self.wfile.write(raw.body)

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

    return Handler

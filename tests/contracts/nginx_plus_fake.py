"""A strict fake of the part of NGINX Plus' API that the hook uses: key-value zones, as the API's reference says.

https://nginx.org/en/docs/http/ngx_http_api_module.html: GET a zone, POST one new entry, PATCH one that is there.
"""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from demo.free_ports import LOOPBACK

VERSIONS = range(1, 10)
PATH = re.compile(r"/api/(\d+)/http/keyvals/([^/?]+)/?")


class NginxPlusFake:
    """Key-value zones that outlive a restart, as with ``state=``. seen: method and path of each request."""

    def __init__(self, zones: dict[str, dict[str, str]]) -> None:
        self.zones = zones
        self.seen: list[str] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def connection(self) -> dict[str, Any]:
        return {"conn_type": "http", "host": LOOPBACK, "port": self.port, "schema": "http"}

    def answer(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, Any]:
        """Status and what the body says; None for no body."""
        found = PATH.fullmatch(path)
        if found is None:
            return _refused(404, "path not found", "PathNotFound")
        if int(found[1]) not in VERSIONS:
            return _refused(404, "unknown version", "UnknownVersion")
        zone = self.zones.get(found[2])
        if zone is None:
            return _refused(404, "keyval not found", "KeyvalNotFound")
        if method == "GET":
            return 200, dict(zone)
        if content_type != "application/json":
            return _refused(415, "JSON error", "JsonError")
        try:
            entry = json.loads(body)
        except ValueError:
            return _refused(415, "JSON error", "JsonError")
        if not isinstance(entry, dict) or len(entry) != 1 or not all(isinstance(one, str) for one in entry.values()):
            return _refused(400, "exactly one key with a string is required", "KeyvalFormatError")
        return self._changed(method, zone, entry)

    @staticmethod
    def _changed(method: str, zone: dict[str, str], entry: dict[str, str]) -> tuple[int, Any]:
        known = set(entry) <= set(zone)
        if method == "PATCH" and not known:
            return _refused(404, "keyval key not found", "KeyvalKeyNotFound")
        if method == "POST" and known:
            return _refused(409, "entry already exists", "KeyvalKeyExists")
        zone.update(entry)
        return (204 if method == "PATCH" else 201), None


def _refused(status: int, text: str, code: str) -> tuple[int, Any]:
    return status, {"error": {"status": status, "text": text, "code": code}}


def _handler(owner: NginxPlusFake) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with owner.lock:
                owner.seen.append(f"{self.command} {self.path}")
                status, said = owner.answer(self.command, self.path, self.headers.get("Content-Type", ""), body)
            text = b"" if said is None else json.dumps(said).encode()
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PATCH = do_POST = _do

        def log_message(self, format: str, *args: object) -> None:
            """Silence: pytest shows what matters."""

    return Handler


@contextmanager
def nginx_plus(zones: dict[str, dict[str, str]]) -> Iterator[NginxPlusFake]:
    fake = NginxPlusFake(zones)
    try:
        yield fake
    finally:
        fake.stop()

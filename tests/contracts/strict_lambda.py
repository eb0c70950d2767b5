"""moto's Lambda with what AWS checks and moto does not: RevisionId, and weights between 0 and 1 of one other version.

A proxy on the loopback: everything goes to moto; for aliases it keeps revisions of its own and refuses stale ones.
"""

import json
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from demo.free_ports import LOOPBACK

PASSED_ON = ("Content-Type", "Authorization", "X-Amz-Date", "X-Amz-Security-Token")


class StrictLambda:
    """before_update: called right before an update is checked, for tests of somebody who is faster."""

    def __init__(self, moto_url: str) -> None:
        self.moto_url = moto_url
        self.revisions: dict[str, str] = {}
        self.refused = 0
        self.before_update: Callable[[], None] = lambda: None
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def somebody_else_writes(self, alias: str) -> None:
        """The alias has another revision than a moment ago."""
        self.revisions[alias] = str(uuid.uuid4())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def why_refused(strict: StrictLambda, alias: str, asked: dict[str, Any]) -> tuple[int, str, str] | None:
    """Status, error code and words for an update that Lambda would not make."""
    if asked.get("RevisionId") not in (None, strict.revisions.get(alias)):
        return 412, "PreconditionFailedException", "The RevisionId provided does not match the latest one."
    weights = (asked.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or {}
    if len(weights) > 1 or any(not 0.0 <= weight <= 1.0 for weight in weights.values()):
        return 400, "InvalidParameterValueException", "At most one additional version, with a weight of 0.0 to 1.0."
    if asked.get("FunctionVersion") in weights:
        return 400, "InvalidParameterValueException", "The additional version must be another one."
    return None


def asked_of_moto(
    strict: StrictLambda, method: str, path: str, headers: dict[str, str], body: bytes
) -> tuple[int, str, bytes]:
    """moto's status, error code and body, with the alias's revision as this proxy keeps it."""
    request = urllib.request.Request(strict.moto_url + path, data=body or None, headers=headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as response:
            answer = json.loads(response.read())
            if "AliasArn" in answer:
                answer["RevisionId"] = strict.revisions.setdefault(answer["Name"], answer["RevisionId"])
            return response.status, "", json.dumps(answer).encode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("X-Amzn-ErrorType", ""), error.read()


def _handler(strict: StrictLambda) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._pass_on(b"")

        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            alias = urlsplit(self.path).path.rpartition("/aliases/")[2]
            strict.before_update()
            with strict.lock:
                refused = why_refused(strict, alias, json.loads(body))
                if refused is None:
                    strict.revisions[alias] = str(uuid.uuid4())
                    self._pass_on(body)
                    return
            strict.refused += 1
            status, code, words = refused
            self._answer(status, code, json.dumps({"Type": "User", "message": words}).encode())

        def _pass_on(self, body: bytes) -> None:
            headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
            self._answer(*asked_of_moto(strict, self.command, self.path, headers, body))

        def _answer(self, status: int, code: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if code:
                self.send_header("X-Amzn-ErrorType", code)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Silence: pytest shows what matters."""

    return Handler

"""A proxy on the loopback that breaks what passes through it, as told: for tests of what follows when a server fails.

    with FaultProxy("127.0.0.1", 8080) as proxy:
        proxy.play(Fault(Kind.STATUS, status=500), times=2)                    # the next two calls
        proxy.play(Fault(Kind.DROP_AFTER), only=b"set map", times=1)           # applied, but the caller never hears so
        proxy.play(Fault(Kind.HANG, seconds=30))                               # every call, until ``heal``

One exchange a connection: a request (HTTP, or with ``lines`` one line, as for HAProxy's stats socket), then everything
the server answers until it closes.  It runs in threads of the process that made it.
"""

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Self

import psutil

from demo.free_ports import LOOPBACK

LARGEST_REQUEST = 1024 * 1024  # bytes
SERVER_SECONDS = 30.0
GARBAGE = b"\x00\xff\xfe<html>what you wanted is elsewhere</html>\r\n\x80"
HUGE = 8 * 1024 * 1024  # bytes, more than any reader of ours accepts
DRIP_SECONDS = 0.2
_LENGTH = re.compile(rb"^content-length:\s*(\d+)", re.IGNORECASE | re.MULTILINE)
_CONNECTION = re.compile(rb"^connection:[^\r\n]*\r\n", re.IGNORECASE | re.MULTILINE)


class Kind(StrEnum):
    """What happens to a call."""

    STATUS = "status"  # HTTP: this status with ``body``; with ``lines`` just the body. Nothing reaches the server
    DELAY = "delay"  # ``seconds`` pass before the request goes on to the server
    HOLD_ANSWER = "hold_answer"  # the server has done it; its answer waits for ``seconds``
    HANG = "hang"  # nothing reaches the server and nothing comes back for ``seconds``, then a reset
    DROP_BEFORE = "drop_before"  # reset at once; nothing reaches the server
    DROP_AFTER = "drop_after"  # the server has done it; then a reset instead of its answer
    GARBAGE = "garbage"  # bytes that are no sensible answer, with status 200
    SLOW_BODY = "slow_body"  # the answer's bytes drip, one every 0.2 s, for ``seconds``, then a reset
    HUGE = "huge"  # 8 MiB instead of the answer, with status 200
    TRUNCATED = "truncated"  # the first half of the server's answer, then the end


@dataclass(frozen=True)
class Fault:
    """kind, and what it needs. seconds: for what waits.  status, body: for STATUS."""

    kind: Kind
    seconds: float = 0.0
    status: int = 500
    body: bytes = b"broken on purpose\n"


@dataclass(frozen=True)
class Call:
    """One exchange. at: seconds since the epoch.  request: its first line.  peer: the caller's port."""

    at: float
    request: bytes
    peer: int
    fault: Kind | None


@dataclass
class _Rule:
    fault: Fault
    only: bytes
    left: int | None


@dataclass
class _Waiting:
    call: Call
    released: threading.Event = field(default_factory=threading.Event)


class FaultProxy:
    """Passes calls on to ``host``:``port`` and breaks those that a rule says. A context manager; ``url`` is its own."""

    def __init__(self, host: str, port: int, *, lines: bool = False) -> None:
        self._upstream = (host, port)
        self._lines = lines
        self._rules: list[_Rule] = []
        self._calls: list[Call] = []
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://{LOOPBACK}:{self.port}"
        threading.Thread(target=self._accept, name=f"fault proxy {self.port}", daemon=True).start()

    # --- what a test says and asks

    def play(self, fault: Fault, *, only: bytes = b"", times: int | None = None) -> None:
        """Break the next ``times`` calls (all of them when None) whose request contains ``only``; rules add up."""
        with self._lock:
            self._rules.append(_Rule(fault, only, times))

    def heal(self) -> None:
        """Forget every rule, and let go of every call that waits."""
        with self._lock:
            self._rules.clear()
        self.let_go()

    def let_go(self) -> None:
        """End the waiting of every call that waits now; the rules stay."""
        with self._lock:
            for each in self._waiting:
                each.released.set()

    def calls(self, containing: bytes = b"", since: float = 0.0) -> list[Call]:
        """What was asked, oldest first."""
        with self._lock:
            return [call for call in self._calls if containing in call.request and call.at >= since]

    def held(self) -> list[Call]:
        """The calls that a fault makes wait right now."""
        with self._lock:
            return [each.call for each in self._waiting]

    def pid_of(self, call: Call) -> int | None:
        """The process that made a call which is still open; None when it is gone."""
        for connection in psutil.net_connections("tcp"):
            here, there = connection.laddr, connection.raddr
            if here and there and (here.port, there.port) == (call.peer, self.port) and connection.pid:
                return int(connection.pid)
        return None

    def close(self) -> None:
        self._closed.set()
        self.heal()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # --- how a call passes

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, (_, peer) = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, peer), daemon=True).start()

    def _serve(self, connection: socket.socket, peer: int) -> None:
        # Whoever hangs up in the middle is what this program is about.
        with connection, contextlib.suppress(OSError):
            connection.settimeout(SERVER_SECONDS)
            request = self._read_request(connection)
            if not request:
                return
            fault = self._fault_for(request)
            call = Call(time.time(), request.splitlines()[0], peer, fault.kind if fault else None)
            with self._lock:
                self._calls.append(call)
            if fault is None:
                connection.sendall(self._ask(request))
            else:
                self._break(connection, request, call, fault)

    def _break(self, connection: socket.socket, request: bytes, call: Call, fault: Fault) -> None:
        canned = self._canned(fault)
        if canned is not None:
            connection.sendall(canned)
            return
        if fault.kind in (Kind.DELAY, Kind.HANG):
            self._wait(call, fault.seconds)
        if fault.kind is Kind.SLOW_BODY:
            self._drip(connection, call, fault.seconds)
        if fault.kind in (Kind.HANG, Kind.DROP_BEFORE, Kind.SLOW_BODY):
            _reset(connection)
            return
        answer = self._ask(request)
        if fault.kind is Kind.HOLD_ANSWER:
            self._wait(call, fault.seconds)
        if fault.kind is Kind.DROP_AFTER:
            _reset(connection)
        else:
            connection.sendall(answer[: len(answer) // 2] if fault.kind is Kind.TRUNCATED else answer)

    def _canned(self, fault: Fault) -> bytes | None:
        """What is answered without asking the server, None for a fault that is no answer of ours."""
        match fault.kind:
            case Kind.STATUS:
                return self._answer(fault.body, fault.status)
            case Kind.GARBAGE:
                return self._answer(GARBAGE)
            case Kind.HUGE:
                return self._answer(b"x" * 1023 + b"\n", repeat=HUGE // 1024)
            case _:
                return None

    def _fault_for(self, request: bytes) -> Fault | None:
        with self._lock:
            for rule in self._rules:
                if rule.only in request and rule.left != 0:
                    rule.left = None if rule.left is None else rule.left - 1
                    return rule.fault
        return None

    def _wait(self, call: Call, seconds: float) -> None:
        with self._counted(call) as waiting:
            waiting.released.wait(seconds)

    def _drip(self, connection: socket.socket, call: Call, seconds: float) -> None:
        connection.sendall(b"" if self._lines else b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        end = time.monotonic() + seconds
        with self._counted(call) as waiting:
            while time.monotonic() < end and not waiting.released.wait(DRIP_SECONDS):
                connection.sendall(b"x")

    @contextlib.contextmanager
    def _counted(self, call: Call) -> Iterator[_Waiting]:
        waiting = _Waiting(call)
        with self._lock:
            self._waiting.append(waiting)
        try:
            yield waiting
        finally:
            with self._lock:
                self._waiting.remove(waiting)

    def _answer(self, body: bytes, status: int = 200, *, repeat: int = 1) -> bytes:
        whole = body * repeat
        if self._lines:
            return whole
        head = f"HTTP/1.1 {status} Broken\r\nContent-Length: {len(whole)}\r\nConnection: close\r\n\r\n"
        return head.encode() + whole

    def _ask(self, request: bytes) -> bytes:
        """The server's whole answer, which says that this connection ends with it, as it will."""
        answer = bytearray()
        with socket.create_connection(self._upstream, timeout=SERVER_SECONDS) as server:
            server.sendall(request)
            while chunk := server.recv(64 * 1024):
                answer += chunk
        head, end, body = bytes(answer).partition(b"\r\n\r\n")
        if self._lines or not end:
            return bytes(answer)
        return _CONNECTION.sub(b"", head + b"\r\n") + b"Connection: close\r\n\r\n" + body

    def _read_request(self, connection: socket.socket) -> bytes:
        """One request, changed so that the server closes after its answer; empty when the caller sent none."""
        received = bytearray()
        end = b"\n" if self._lines else b"\r\n\r\n"
        while end not in received:
            chunk = connection.recv(64 * 1024)
            received += chunk
            if not chunk or len(received) > LARGEST_REQUEST:
                return b""
        if self._lines:
            return bytes(received)
        head, _, body = bytes(received).partition(end)
        length = _LENGTH.search(head)
        while length is not None and len(body) < int(length[1]):
            chunk = connection.recv(64 * 1024)
            if not chunk:
                return b""
            body += chunk
        return _CONNECTION.sub(b"", head + b"\r\n") + b"Connection: close\r\n\r\n" + body


def _reset(connection: socket.socket) -> None:
    """Close with a reset, as a crashed server's kernel does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

"""Many clients of a service: sends requests at a steady rate and counts what came back, by version.

    python -m demo.traffic --url http://127.0.0.1:8080 --rate 300 --folder .demo --port 8090

An open loop: requests are due by the clock, whether earlier ones have been answered or not, as with real users.
It writes one line of JSON a second to a new ``traffic.jsonl`` in the folder, and answers on its own port:
``GET /counts`` (everything since the start) and ``GET /seconds?from=<seconds since the epoch>`` (complete seconds).
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from canary_release.core.problems import CanaryError
from demo.free_ports import LOOPBACK
from demo.shop import PATHS, port_number
from demo.traffic_log import Second, answers_to_json, to_json
from demo.traffic_recorder import Recorder

LOG_NAME = "traffic.jsonl"
MAX_OPEN = 400  # requests waiting for an answer at the same time
REQUEST_TIMEOUT = 5.0  # seconds
TICK = 0.01  # seconds; sending what is due in small batches halves the cost of waking up for each request
KEPT_SECONDS = 3600  # records that /seconds can give; the log has all
MAX_RATE = 5000


class TrafficError(CanaryError):
    """The load generator cannot run."""


class Traffic:
    """Clients of ``url`` at ``rate`` requests per second; ``log`` gets one line of JSON a second."""

    def __init__(self, url: str, rate: float, log: IO[str], *, timeout: float = REQUEST_TIMEOUT) -> None:
        self.url = url.rstrip("/")
        self.rate = rate
        self.timeout = timeout
        self.started = time.time()
        self.recorder = Recorder(self.started)
        self.seconds: deque[Second] = deque(maxlen=KEPT_SECONDS)
        self._log = log
        self._monotonic = time.monotonic()
        self._open: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """Seconds since the epoch that never go back, even when someone sets the machine's clock."""
        return self.started + time.monotonic() - self._monotonic

    async def run(self, stop: asyncio.Event) -> None:
        """Send until ``stop`` is set, then wait for the open requests and write the last record."""
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_count_attempt)
        trace.on_connection_create_end.append(_count_attempt)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=MAX_OPEN),
            timeout=aiohttp.ClientTimeout(total=self.timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
        ) as session:
            writing = asyncio.create_task(self._write_every_second())
            writing.add_done_callback(lambda task: stop.set())
            try:
                await self._send_what_is_due(session, stop)
                if self._open:
                    await asyncio.wait(self._open, timeout=self.timeout + 1)
            finally:
                writing.cancel()
                # A log that cannot be written must end the run in words, not go unnoticed.
                with contextlib.suppress(asyncio.CancelledError):
                    await writing
                self._write(self.recorder.close_all(self.now()))

    async def _send_what_is_due(self, session: aiohttp.ClientSession, stop: asyncio.Event) -> None:
        start, sent = time.monotonic(), 0
        while not stop.is_set():
            due = int((time.monotonic() - start) * self.rate)
            room = MAX_OPEN - len(self._open)
            if due - sent > room:
                self.recorder.hold_back(self.now(), due - sent - room)
            for _ in range(min(due - sent, room)):
                task = asyncio.create_task(self._request(session))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            sent = due
            await asyncio.sleep(max(TICK, start + (sent + 1) / self.rate - time.monotonic()))

    async def _request(self, session: aiohttp.ClientSession) -> None:
        attempts = SimpleNamespace(count=0)
        began = time.monotonic()
        try:
            async with session.get(
                self.url + random.choice(PATHS), allow_redirects=False, trace_request_ctx=attempts
            ) as response:
                await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # aiohttp repeats a GET when a kept connection breaks under it; every try without an answer was lost.
            for _ in range(max(1, attempts.count)):
                self.recorder.lose(self.now(), why_lost(error))
            return
        now = self.now()
        if attempts.count > 1:
            self.recorder.lose(now, "reset")
        backend = response.headers.get("X-Backend")
        if backend is None:
            self.recorder.lose(now, str(response.status))
            return
        self.recorder.answer(
            now,
            version=response.headers.get("X-Version", ""),
            backend=backend,
            error=response.status >= 500,
            seconds=time.monotonic() - began,
        )

    async def _write_every_second(self) -> None:
        while True:
            await asyncio.sleep(1 - self.now() % 1)
            self._write(self.recorder.close_until(self.now()))

    def _write(self, closed: Sequence[Second]) -> None:
        self.seconds.extend(closed)
        for second in closed:
            self._log.write(json.dumps(to_json(second), separators=(",", ":")) + "\n")
        self._log.flush()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/counts", self.read_counts)
        application.router.add_get("/seconds", self.read_seconds)
        return application

    async def read_counts(self, request: web.Request) -> web.Response:
        total = self.recorder.total()
        counts: dict[str, Any] = {
            "since": self.started,
            "now": self.now(),
            "rate": self.rate,
            "open": len(self._open),
            "requests": sum(answers.requests for answers in total.answers) + sum(total.lost.values()),
            "errors": sum(answers.errors for answers in total.answers),
            "lost": dict(total.lost),
            "held_back": total.held_back,
            "answers": [answers_to_json(answers) for answers in total.answers],
        }
        return web.json_response(counts)

    async def read_seconds(self, request: web.Request) -> web.Response:
        text = request.query.get("from", "0")
        try:
            start = float(text)
        except ValueError:
            sentence = f"from={text[:40]}: seconds since the epoch are needed, for example from={int(self.now())}."
            return web.json_response({"error": sentence}, status=400)
        return web.json_response([to_json(second) for second in self.seconds if second.second >= start])


def why_lost(error: BaseException) -> str:
    """One word for what happened to a request that got no whole answer."""
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorError | ConnectionRefusedError):
        return "refused"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "cut"
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return "reset"
    return "broken"


async def _count_attempt(session: aiohttp.ClientSession, context: SimpleNamespace, parameters: object) -> None:
    context.trace_request_ctx.count += 1


async def serve(traffic: Traffic, port: int) -> None:
    """Send traffic and answer questions on the port until SIGINT or SIGTERM. Raises TrafficError: the port is taken."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(traffic.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, port).start()
        await traffic.run(stop)
    except OSError as error:
        raise TrafficError(f"traffic: port {port} or the log cannot be used ({error}).") from error
    finally:
        await runner.cleanup()


def _rate(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (rate := float(text)) <= MAX_RATE:
            return rate
    raise argparse.ArgumentTypeError(f"{text!r} is not a rate; use requests per second, above 0 and up to {MAX_RATE}")


def _url(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme == "http" and parts.hostname and parts.port != 0 and not parts.query and not parts.fragment:
            return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a base URL; use for example http://127.0.0.1:8080")


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM. 1 when the port or the folder cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m demo.traffic", description="Clients for the demo's shop.")
    parser.add_argument("--url", type=_url, required=True, help="what to call, for example http://127.0.0.1:8080")
    parser.add_argument("--rate", type=_rate, default=300.0, help="requests per second (default 300)")
    parser.add_argument("--folder", type=Path, required=True, help=f"where {LOG_NAME} is written")
    parser.add_argument("--port", type=port_number, required=True, help="port on 127.0.0.1 for questions")
    wanted = parser.parse_args(argv)
    try:
        wanted.folder.mkdir(parents=True, exist_ok=True)
        with (wanted.folder / LOG_NAME).open("w", encoding="utf-8") as log:
            asyncio.run(serve(Traffic(wanted.url, wanted.rate, log), wanted.port))
    except (TrafficError, OSError) as error:
        print(f"{error}" if isinstance(error, TrafficError) else f"traffic: {error}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

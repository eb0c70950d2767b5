"""A running load generator as a child process, and the handle by which others read what the clients saw."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from demo.free_ports import LOOPBACK, free_port
from demo.processes import Process, answers
from demo.shop_server import CHILD_ENVIRONMENT, START_SECONDS, ask
from demo.traffic import LOG_NAME, REQUEST_TIMEOUT
from demo.traffic_log import Second, from_json, read_log

STOP_SECONDS = REQUEST_TIMEOUT + 5


class TrafficServer:
    """Clients of ``url`` at ``rate`` requests per second; sending when constructed. folder: log and records.

    Raises ProcessError when it does not come up.
    """

    def __init__(self, folder: Path, url: str, rate: float = 300.0) -> None:
        self.log_file = folder / LOG_NAME
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        argv = [sys.executable, "-m", "demo.traffic", "--url", url, "--rate", f"{rate:g}"]
        argv += ["--folder", str(folder), "--port", str(port)]
        self.process = Process(argv, log=folder / "traffic.log", env=CHILD_ENVIRONMENT, name="traffic")
        try:
            self.process.wait_until(answers(f"{self.url}/counts"), START_SECONDS, f"answer on {self.url}")
        except BaseException:
            self.process.stop()
            raise

    def counts(self) -> dict[str, Any]:
        """Everything since the start, the running second included, as ``GET /counts`` answers it."""
        found: dict[str, Any] = ask("GET", f"{self.url}/counts")
        return found

    def seconds(self, start: float = 0.0) -> list[Second]:
        """The complete seconds from ``start`` (seconds since the epoch) on."""
        return [from_json(value) for value in ask("GET", f"{self.url}/seconds?from={start!r}")]

    def stop(self) -> None:
        """Send no more, wait for the open requests, write the last record, end."""
        self.process.stop(grace=STOP_SECONDS)

    def recorded(self) -> list[Second]:
        """The records in the log; all of them once it has been stopped."""
        return read_log(self.log_file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

"""A real HAProxy on the loopback that runs ``include/haproxy/weights.cfg``, for the hook for server weights."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from demo.free_ports import LOOPBACK, free_ports
from demo.haproxy_server import haproxy_binary
from demo.processes import Process, ProcessError, answers

EXAMPLE = Path(__file__).resolve().parent.parent / "haproxy" / "weights.cfg"
PROXY = "catalogue"
START_SECONDS = 20


class HaproxyWeightsServer:
    """One HAProxy whose backend ``catalogue`` has one server for each side; the first one gets everything.

    folder: where its log, configuration and server states stand; made when missing.  backends: two names to URLs.
    Ready when constructed.  Raises ProcessError when there is no HAProxy, or it does not come up.
    """

    def __init__(self, folder: Path, backends: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.state_file = folder / "canary.state"
        self.configuration = folder / "haproxy.cfg"
        self._web, self._admin, self._metrics = free_ports(3)
        self.url = f"http://{LOOPBACK}:{self._web}"
        self.metrics_url = f"http://{LOOPBACK}:{self._metrics}/metrics"
        self.configuration.write_text(self._adapted(EXAMPLE.read_text(), backends))
        self.process = self._start()

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        """End it and start it again on the same ports; weights are what the state file says, else the first ones."""
        self.process.stop()
        self.process = self._start()

    def reset(self) -> None:
        """End it and start it again with its first weights."""
        self.process.stop()
        self.state_file.unlink(missing_ok=True)
        self.process = self._start()

    def connection(self, *, state_file: bool = True) -> dict[str, Any]:
        """The Airflow connection for the hook, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        extra = {"state_file": str(self.state_file)} if state_file else {}
        return {"conn_type": "generic", "host": LOOPBACK, "port": self._admin, "extra": extra}

    def metrics_connection(self) -> dict[str, Any]:
        """The Airflow connection for the metric source that scrapes this HAProxy."""
        return {"conn_type": "http", "host": LOOPBACK, "port": self._metrics, "schema": "http"}

    def _start(self) -> Process:
        binary, environment = haproxy_binary()
        argv: list[str | Path] = [binary, "-db", "-f", self.configuration]
        process = Process(argv, log=self.folder / "haproxy.log", env=environment, cwd=self.folder, name="haproxy")
        try:
            process.wait_until(answers(self.metrics_url), START_SECONDS, f"answer on {self.metrics_url}")
        except BaseException:
            process.stop()
            raise
        return process

    def _adapted(self, text: str, backends: Mapping[str, str]) -> str:
        """The example with this server's names and addresses instead of its own."""
        (blue, blue_url), (green, green_url) = backends.items()
        exchanged = {
            "/run/haproxy/canary.sock mode 660 level admin": f"ipv4@{LOOPBACK}:{self._admin} level admin",
            "/var/lib/haproxy/canary.state": str(self.state_file),
            "bind :80\n": f"bind {LOOPBACK}:{self._web}\n",
            "bind 127.0.0.1:8405": f"bind {LOOPBACK}:{self._metrics}",
            "server blue 10.0.0.11:8080": f"server {blue} {urlsplit(blue_url).netloc}",
            "server green 10.0.0.12:8080": f"server {green} {urlsplit(green_url).netloc}",
        }
        for old, new in exchanged.items():
            if old not in text:
                raise ProcessError(f"{EXAMPLE} no longer has {old!r}; change what stands for it here, too.")
            text = text.replace(old, new)
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

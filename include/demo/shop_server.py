"""A running shop as a child process, and the handle by which the demo and the tests deploy to it."""

import sys
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process, ProcessError, answers
from demo.shop import Knobs

START_SECONDS = 20
IMPORT_ROOTS = [Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2] / "plugins"]
CHILD_ENVIRONMENT = {"PYTHONPATH": ":".join(str(root) for root in IMPORT_ROOTS)}


class ShopServer:
    """A shop on free ports of the loopback, one for each of its instances; ready when constructed.

    folder: where its log stands.  url, urls: of the first instance, of all.  Raises ProcessError when one of them does
    not come up.
    """

    def __init__(self, folder: Path, name: str, version: str, *, instances: int = 1) -> None:
        self.name = name
        ports = free_ports(instances)
        self.urls = tuple(f"http://{LOOPBACK}:{port}" for port in ports)
        self.url = self.urls[0]
        argv = [sys.executable, "-m", "demo.shop", "--version", version, "--name", name, "--port", *map(str, ports)]
        self.process = Process(argv, log=folder / f"{name}.log", env=CHILD_ENVIRONMENT, name=name)
        try:
            for url in self.urls:
                self.process.wait_until(answers(f"{url}/health"), START_SECONDS, f"answer on {url}")
        except BaseException:
            self.process.stop()
            raise

    def deploy(self, version: str, *, error_rate: float = 0.0, slow_by: float = 0.0) -> Knobs:
        """Run this version on every instance from now on, as good or as bad as asked; what was set before is gone.

        Raises ProcessError with the shop's own words when it refuses.
        """
        wanted = {"version": version, "error_rate": error_rate, "slow_by": slow_by}
        *_, last = [Knobs(**ask("PUT", f"{url}/knobs", wanted)) for url in self.urls]
        return last

    def knobs(self) -> Knobs:
        """Of the first instance; ``deploy`` sets all alike."""
        return Knobs(**ask("GET", f"{self.url}/knobs"))

    def counts(self) -> dict[str, dict[str, int]]:
        """What the instances themselves counted, together: ``{"v1": {"requests": 900, "errors": 4}}``."""
        together: dict[str, Counter[str]] = {}
        for url in self.urls:
            for version, counted in ask("GET", f"{url}/counts").items():
                together.setdefault(version, Counter()).update(counted)
        return {version: dict(counted) for version, counted in together.items()}

    def stop(self) -> None:
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def ask(method: str, url: str, body: object = None) -> Any:
    """The JSON that one of the demo's servers answers. Raises ProcessError with its words when it refuses."""
    try:
        with requests.Session() as session:
            # A proxy of the environment must not see, or lose, what stays on the loopback.
            session.trust_env = False
            response = session.request(method, url, json=body, timeout=5)
    except requests.RequestException as error:
        raise ProcessError(f"{method} {url} got no answer ({type(error).__name__}): is it still running?") from error
    if response.status_code != 200:
        raise ProcessError(f"{method} {url} was refused with {response.status_code}: {response.text.strip()[:300]}")
    return response.json()

"""A running shop as a child process, and the handle by which the demo and the tests deploy to it."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

from demo.free_ports import LOOPBACK, free_port
from demo.processes import Process, ProcessError, answers
from demo.shop import Knobs

START_SECONDS = 20
IMPORT_ROOTS = [Path(__file__).resolve().parents[1], Path(__file__).resolve().parents[2] / "plugins"]
CHILD_ENVIRONMENT = {"PYTHONPATH": ":".join(str(root) for root in IMPORT_ROOTS)}


class ShopServer:
    """One shop on a free port of the loopback; ready when constructed. folder: where its log stands.

    Raises ProcessError when it does not come up.
    """

    def __init__(self, folder: Path, name: str, version: str) -> None:
        self.name = name
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        argv = [sys.executable, "-m", "demo.shop", "--port", str(port), "--version", version, "--name", name]
        self.process = Process(argv, log=folder / f"{name}.log", env=CHILD_ENVIRONMENT, name=name)
        try:
            self.process.wait_until(answers(f"{self.url}/health"), START_SECONDS, f"answer on {self.url}")
        except BaseException:
            self.process.stop()
            raise

    def deploy(self, version: str, *, error_rate: float = 0.0, slow_by: float = 0.0) -> Knobs:
        """Run this version from now on, as good or as bad as asked; what was set before is gone.

        Raises ProcessError with the shop's own words when it refuses.
        """
        wanted = {"version": version, "error_rate": error_rate, "slow_by": slow_by}
        return Knobs(**ask("PUT", f"{self.url}/knobs", wanted))

    def knobs(self) -> Knobs:
        return Knobs(**ask("GET", f"{self.url}/knobs"))

    def counts(self) -> dict[str, dict[str, int]]:
        """What the shop itself counted: ``{"v1": {"requests": 900, "errors": 4}}``."""
        found: dict[str, dict[str, int]] = ask("GET", f"{self.url}/counts")
        return found

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

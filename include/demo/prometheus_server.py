"""A real metric store on the loopback that scrapes what it is told to: Prometheus or VictoriaMetrics."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from demo.free_ports import LOOPBACK, free_port
from demo.processes import Process, answers

START_SECONDS = 30


class PrometheusServer:
    """One store that scrapes each of ``targets`` (job to URL) every ``interval`` seconds. Ready when constructed.

    binary: ``prometheus`` or ``victoria-metrics``.  folder: where its log, configuration and data stand; made when
    missing.  Raises ProcessError when it does not come up.
    """

    def __init__(self, folder: Path, binary: Path, targets: Mapping[str, str], interval: float = 1.0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.binary = binary
        self._port = free_port()
        self.url = f"http://{LOOPBACK}:{self._port}"
        self._configuration = folder / "scrape.yml"
        # JSON is YAML.
        self._configuration.write_text(json.dumps(scrape_configuration(targets, interval), indent=2))
        self.process = self._start()

    def stop(self) -> None:
        self.process.stop()

    def connection(self) -> dict[str, Any]:
        """The Airflow connection for the metric source, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        return {"conn_type": "http", "host": LOOPBACK, "port": self._port, "schema": "http"}

    def _start(self) -> Process:
        argv = [str(self.binary), *self._flags()]
        process = Process(argv, log=self.folder / f"{self.binary.name}.log", cwd=self.folder, name=self.binary.name)
        try:
            process.wait_until(answers(f"{self.url}/-/healthy"), START_SECONDS, f"answer on {self.url}")
        except BaseException:
            process.stop()
            raise
        return process

    def _flags(self) -> list[str]:
        data = str(self.folder / "data")
        if self.binary.name == "prometheus":
            return [
                f"--config.file={self._configuration}",
                f"--web.listen-address={LOOPBACK}:{self._port}",
                f"--storage.tsdb.path={data}",
            ]
        return [
            f"-promscrape.config={self._configuration}",
            f"-httpListenAddr={LOOPBACK}:{self._port}",
            f"-storageDataPath={data}",
            # VictoriaMetrics hides the last 30 s of a range query by default.
            "-search.latencyOffset=0s",
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def scrape_configuration(targets: Mapping[str, str], interval: float) -> dict[str, Any]:
    """Prometheus' configuration file, which VictoriaMetrics reads, too. interval: seconds, to the millisecond."""
    often = f"{math.ceil(interval * 1000)}ms"
    jobs = []
    for job, url in targets.items():
        parts = urlsplit(url)
        jobs.append(
            {
                "job_name": job,
                "metrics_path": parts.path or "/metrics",
                "static_configs": [{"targets": [parts.netloc]}],
            }
        )
    return {"global": {"scrape_interval": often, "scrape_timeout": often}, "scrape_configs": jobs}

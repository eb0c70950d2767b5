"""Makes moto's Application Load Balancer carry real traffic: a Traefik follows its weights, CloudWatch gets its counts.

Ten times a second the rule's weights are read and written into Traefik's file; once a second what Traefik counted since
the last time is added to moto's CloudWatch, under the names and dimensions of ``AWS/ApplicationELB``.  Sessions are not
sticky and nobody logs in: the mirror follows weights only.
"""

import json
import os
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from canary_release.hooks.prometheus_text import parse
from demo.moto_server import Alb, MotoServer
from demo.processes import ProcessError
from demo.traefik_server import TraefikServer, dynamic_configuration

POLL = 0.1  # seconds between two looks at the weights
PUSH = 1.0  # seconds between two pushes of counts
NAMESPACE = "AWS/ApplicationELB"
REQUESTS = "traefik_service_requests_total"
SECONDS = "traefik_service_request_duration_seconds"
SLOWEST = 20.0  # seconds that stand for "slower than the last bucket"


class AlbMirror:
    """A Traefik over the backends of one rule of moto's, and the thread that keeps the two in step.

    urls: each backend's URL by name.  Use it as a context manager: leaving the block ends both.
    """

    def __init__(self, folder: Path, moto: MotoServer, alb: Alb, urls: Mapping[str, str]) -> None:
        self.alb = alb
        self.urls = dict(urls)
        self.pushed: Counter[str] = Counter()  # requests by backend that CloudWatch knows of
        self.traefik = TraefikServer(folder, urls, route="alb")
        self.url = self.traefik.url
        self._elb, self._metrics = moto.client("elbv2"), moto.client("cloudwatch")
        self._written: dict[str, int] = {}
        self._seen: Counter[tuple[str, str, float]] = Counter()
        self._over = threading.Event()
        self._wanted = threading.Event()
        self._wanted.set()
        self._lock = threading.Lock()
        self.failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="alb-mirror")
        self._thread.start()

    def pause(self) -> None:
        """Look no more until ``resume``: the processors are for somebody else."""
        self._wanted.clear()

    def resume(self) -> None:
        self._wanted.set()

    def weights(self) -> dict[str, int]:
        """What moto's rule says now, by backend."""
        actions = self._elb.describe_rules(RuleArns=[self.alb.rule])["Rules"][0]["Actions"]
        forward = next(action for action in actions if action["Type"] == "forward")
        groups = {one["TargetGroupArn"]: int(one["Weight"]) for one in forward["ForwardConfig"]["TargetGroups"]}
        return {name: groups[arn] for name, arn in self.alb.target_groups.items()}

    def wait_until_followed(self, seconds: float = 10.0) -> None:
        """Return once Traefik itself says the weights that moto says. ProcessError when it takes longer."""
        deadline = time.monotonic() + seconds
        while (wanted := self.weights()) != self._in_force():
            if time.monotonic() > deadline:
                raise ProcessError(
                    f"the mirror does not follow: moto says {wanted}, Traefik {self._in_force()}; the last failure of "
                    f"the mirror was {self.failure!r}."
                )
            time.sleep(0.03)

    def wait_until_pushed(self, requests: int, seconds: float = 10.0) -> None:
        """Return once CloudWatch has been told of so many requests in all. ProcessError when it takes longer."""
        deadline = time.monotonic() + seconds
        while (told := sum(self.pushed.values())) < requests:
            if time.monotonic() > deadline:
                raise ProcessError(f"CloudWatch was told of {told} requests, not of {requests}: {self.failure!r}.")
            time.sleep(0.02)

    def push(self, at: float | None = None) -> None:
        """Add what was counted since the last push to CloudWatch, at the instant ``at`` (seconds since the epoch)."""
        with self._lock:
            now = self._counters()
            # A restarted Traefik counts from zero.
            fresh = now - self._seen if all(now[key] >= count for key, count in self._seen.items()) else now
            self._seen = now
            stamp = datetime.fromtimestamp(time.time() if at is None else at, UTC)
            data = [self._datum(*key, count, stamp) for key, count in fresh.items()]
            if data:
                self._metrics.put_metric_data(Namespace=NAMESPACE, MetricData=data)
            for (backend, name, _), count in fresh.items():
                self.pushed[backend] += count if name == "RequestCount" else 0

    def _run(self) -> None:
        next_push = time.monotonic() + PUSH
        while not self._over.wait(POLL):
            self._wanted.wait()
            try:
                self._follow()
                if time.monotonic() >= next_push:
                    next_push += PUSH
                    self.push()
            except Exception as error:  # noqa: BLE001  Traefik may be restarting; whoever waits for the mirror is told
                self.failure = error

    def _follow(self) -> None:
        weights = self.weights()
        if weights == self._written:
            return
        file = self.traefik.dynamic_file
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(dynamic_configuration("alb", self.urls, weights), indent=2))
        os.replace(fresh, file)
        self._written = weights

    def _in_force(self) -> dict[str, int]:
        service = json.loads(_get(f"{self.traefik.api_url}/api/http/services/alb@file"))
        return {one["name"].removesuffix("@file"): one["weight"] for one in service["weighted"]["services"]}

    def _counters(self) -> Counter[tuple[str, str, float]]:
        """Traefik's counters so far, by backend, CloudWatch's name and the value that was counted."""
        found: Counter[tuple[str, str, float]] = Counter()
        edges: dict[str, dict[float, int]] = {}
        for sample in parse(_get(self.traefik.metrics_url), {REQUESTS, f"{SECONDS}_bucket"}):
            backend, count = sample.labels["service"].removesuffix("@file"), int(sample.value)
            if sample.name == REQUESTS:
                found[(backend, "RequestCount", 1.0)] += count
                found[(backend, f"HTTPCode_Target_{sample.labels['code'][0]}XX_Count", 1.0)] += count
            else:
                cumulative = edges.setdefault(backend, {})
                edge = min(float(sample.labels["le"]), SLOWEST)
                cumulative[edge] = cumulative.get(edge, 0) + count
        for backend, cumulative in edges.items():
            below = 0
            for edge in sorted(cumulative):
                found[(backend, "TargetResponseTime", edge)] += cumulative[edge] - below
                below = cumulative[edge]
        return found

    def _datum(self, backend: str, name: str, value: float, count: int, stamp: datetime) -> dict[str, Any]:
        dimensions = [
            {"Name": "LoadBalancer", "Value": self.alb.dimension(self.alb.load_balancer)},
            {"Name": "TargetGroup", "Value": self.alb.dimension(self.alb.target_groups[backend])},
        ]
        unit = "Seconds" if name == "TargetResponseTime" else "Count"
        numbers = {"Values": [value], "Counts": [count], "Unit": unit}
        return {"MetricName": name, "Dimensions": dimensions, "Timestamp": stamp, **numbers}

    def stop(self) -> None:
        self._over.set()
        self._wanted.set()
        self._thread.join()
        self.traefik.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _get(url: str) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5) as response:
        return str(response.read().decode())

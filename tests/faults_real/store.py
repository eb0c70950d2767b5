"""One service with everything in front of and behind it: two sides, a real load balancer, clients, broken wires."""

import json
import sys
import time
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from canary_release.core.ports import LoadBalancer
from canary_release.core.values import Weights
from canary_release.hooks.haproxy import HaproxyHook
from canary_release.hooks.traefik import TraefikHook
from canary_release.ledger.records import Rollout, State
from demo import traffic_log
from demo.fault_proxy import FaultProxy
from demo.haproxy_server import HaproxyServer
from demo.processes import Process, answers
from demo.shop_server import CHILD_ENVIRONMENT, ShopServer
from demo.traefik_server import TraefikServer
from demo.traffic_server import TrafficServer
from faults_real.patience import wait_for

RATE = 100.0
CANARY_PERCENT = Decimal(20)
LEASE = 20.0  # a shorter one would run out on a busy machine while Airflow goes from shift to bake
POLL = 1.0

TRAEFIK = """\
load_balancer: {type: traefik, connection: shop_lb, route: shop, backends: [shop-blue, shop-green]}
metrics: {type: scrape, connection: shop_metrics, preset: traefik}
"""
HAPROXY = """\
load_balancer: {type: haproxy, connection: till_lb, backends: [till-blue, till-green]}
metrics:
  type: scrape
  connection: till_metrics
  names:
    requests: haproxy_backend_http_responses_total
    backend_label: proxy
    started: haproxy_process_start_time_seconds
"""
LONG = """\
service: {service}
{target}poll: 1s
lease: {lease}s
blind: {{max: {blind}s}}
early_promotion: false
steps:
  - {{weight: 20%, bake: 200s}}
  - {{weight: 100%, bake: 9s}}
checks:
  - {{metric: error_rate, max_increase: 0.5pp}}
"""
QUICK = """\
service: {service}
{target}poll: 1s
lease: 30s
early_promotion: false
steps:
  - {{weight: 50%, bake: 9s}}
  - {{weight: 100%, bake: 9s}}
checks:
  - {{metric: error_rate, max_increase: 0.5pp}}
"""


class Store:
    """A service named ``shop`` behind Traefik, or ``till`` behind HAProxy. A context manager; leaving ends it all.

    balancer_wire, metrics_wire: what stands between us and its load balancer's API and its metrics.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.dag = f"release_{name}"
        self.sides = (f"{name}-blue", f"{name}-green")
        self._folder = folder / name
        self._folder.mkdir(parents=True)
        self._exit = ExitStack()
        self._versions = 0

    @property
    def leases(self) -> bool:
        """Does the load balancer itself end a lease?"""
        return self.name == "till"

    @property
    def balancer(self) -> str:
        return "HAProxy" if self.leases else "Traefik"

    def release_text(self, *, quick: bool = False, lease: float = LEASE, blind: float = 40.0) -> str:
        target = HAPROXY if self.leases else TRAEFIK
        chosen = QUICK if quick else LONG
        return chosen.format(service=self.name, target=target, lease=f"{lease:g}", blind=f"{blind:g}")

    def connections(self) -> dict[str, str]:
        """Airflow connections as environment variables: through the wires, and past them for the tests' own looks."""
        prefix = f"AIRFLOW_CONN_{self.name.upper()}"
        direct = self.server.connection()
        broken = direct | {"port": self.balancer_wire.port}
        metrics = {"conn_type": "http", "host": "127.0.0.1", "port": self.metrics_wire.port, "schema": "http"}
        wired = {f"{prefix}_LB": broken, f"{prefix}_DIRECT": direct, f"{prefix}_METRICS": metrics}
        return {name: json.dumps(value) for name, value in wired.items()}

    def idle_side(self) -> str:
        return min(self.weights().shares.items(), key=lambda item: item[1])[0]

    def next_version(self, *, error_rate: float = 0.0) -> str:
        """Deploy a new version to the side without traffic."""
        self._versions += 1
        version = f"v{self._versions}"
        self._shops[self.idle_side()].deploy(version, error_rate=error_rate)
        return version

    def turn_bad(self, side: str, version: str, error_rate: float = 0.3) -> None:
        """The version goes wrong while it runs."""
        self._shops[side].deploy(version, error_rate=error_rate)

    def slow_down(self, side: str, version: str, slow_by: float) -> None:
        """The version takes its time from now on. slow_by: relative, 1 is twice as long."""
        self._shops[side].deploy(version, slow_by=slow_by)

    def kill_side(self, side: str) -> None:
        """The side's server is gone at once, with whatever it was answering."""
        self._shops[side].process.kill()

    def revive_side(self, side: str) -> None:
        """Again, on the same port, as it was first."""
        dead = self._shops[side]
        port = str(urlsplit(dead.url).port)
        argv = [sys.executable, "-m", "demo.shop", "--port", port, "--version", "v0", "--name", side]
        dead.process = self._exit.enter_context(
            Process(argv, log=self._folder / f"{side}-again.log", env=CHILD_ENVIRONMENT, name=side)
        )
        dead.process.wait_until(answers(f"{dead.url}/health"), 20, f"answer on {dead.url}")

    def weights(self) -> Weights:
        """What the load balancer itself says, asked past the wire."""
        return self._direct().get_weights()

    def heal(self) -> None:
        self.balancer_wire.heal()
        self.metrics_wire.heal()

    def let_clients_speak(self) -> None:
        """Until the clients' records reach two seconds beyond now: a second's record is written when it is over."""
        until = time.time() + 2
        wait_for("the clients' records", lambda: any(each.second >= until for each in self.traffic.seconds(until)), 15)

    def last_answer(self, version: str) -> float:
        """When clients got the last answer of a version, seconds since the epoch; 0 when they never did."""
        own = traffic_log.answers_of(self.traffic.seconds(), version)
        return own.last if own else 0.0

    def answers_after(self, version: str, instant: float) -> int:
        """How many answers of a version clients got in the whole seconds after this instant."""
        seconds = [each for each in self.traffic.seconds() if each.second > instant]
        own = traffic_log.answers_of(seconds, version)
        return own.requests if own else 0

    def _direct(self) -> LoadBalancer:
        if self.leases:
            return HaproxyHook(f"{self.name}_direct", self.sides, HaproxyHook.Options())
        return TraefikHook(f"{self.name}_direct", self.sides, TraefikHook.Options(route=self.name))

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._exit.close()

    def _start(self) -> None:
        enter = self._exit.enter_context
        self._shops = {side: enter(ShopServer(self._folder, side, "v0")) for side in self.sides}
        urls = {side: shop.url for side, shop in self._shops.items()}
        self.server: TraefikServer | HaproxyServer = (
            enter(HaproxyServer(self._folder / "haproxy", urls))
            if self.leases
            else enter(TraefikServer(self._folder / "traefik", urls, route=self.name))
        )
        api, metrics = int(self.server.connection()["port"]), int(self.server.metrics_url.split(":")[2].split("/")[0])
        self.balancer_wire = enter(FaultProxy("127.0.0.1", api, lines=self.leases))
        self.metrics_wire = enter(FaultProxy("127.0.0.1", metrics))
        self.traffic = enter(TrafficServer(self._folder, self.server.url, rate=RATE))


def require_exposed(store: Store, rollout: Rollout) -> None:
    """A fault that strikes when there is no canary any more would show nothing."""
    weight = store.weights()[rollout.canary]
    assert (rollout.state, weight) != (State.RUNNING, 0), f"{rollout.id} has no traffic: somebody moved the weights"
    assert weight > 0, f"{rollout.id} is {rollout.state} already: {rollout.outcome_reason}"
    wait_for(f"clients are served by {rollout.version}", lambda: store.last_answer(rollout.version), 5)

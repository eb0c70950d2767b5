"""Takes a release file through a whole rollout on a load balancer under test, with real requests and little waiting.

Requests are real and so are the weights; only the clock is wound forward by one poll at each look, and the counts are
what the clients got.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from canary_release.control.desk import Desk, plan_of
from canary_release.control.ending import promote, roll_back
from canary_release.control.starting import StartRequest, start
from canary_release.control.stepping import observe, shift
from canary_release.core.ports import LoadBalancer
from canary_release.core.release import Calendar, Release, Step
from canary_release.core.values import Counts, Cursor, Decision, Window
from canary_release.ledger.records import Rollout
from canary_release.ledger.store import Ledger
from contracts.little_servers import ill
from contracts.load_client import Client

REQUESTS = 200  # at each look
MOST_LOOKS = 100
LONGEST_BAKE = 60.0  # seconds
EDGES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SLOWER = float("inf")


class WoundClock:
    """Real time, and what ``sleep`` added to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self) -> float:
        return time.time() + self.ahead

    def sleep(self, seconds: float) -> None:
        """A wait of less than a second is a real one: a real server is being waited for."""
        if seconds < 1:
            time.sleep(seconds)
        else:
            self.ahead += seconds


class Clients:
    """A metric source: each read asks the service some hundred times and counts who answered what, and how fast."""

    def __init__(self, url: str, clock: WoundClock, backends: tuple[str, str]) -> None:
        self.url, self.clock, self.path = url, clock, "/"
        self.stable, self.canary = backends

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        now = self.clock.now()
        if cursor is None:
            return [], {"at": now}
        asked: Counter[tuple[str, int, float]] = Counter()
        client = Client(self.url)
        for _ in range(REQUESTS):
            began = time.perf_counter()
            name, status = client.ask(self.path)
            seconds = time.perf_counter() - began
            asked[(name, status, next((edge for edge in EDGES if seconds <= edge), float("inf")))] += 1
        client.close()
        sides = [self._side(asked, side) for side in (self.stable, self.canary)]
        return [Window(cursor["at"], now, *sides, edges=EDGES)], {"at": now}

    @staticmethod
    def _side(asked: Counter[tuple[str, int, float]], side: str) -> Counts:
        mine = [(status, seconds, count) for (name, status, seconds), count in asked.items() if name == side]
        buckets = [sum(count for _, edge, count in mine if edge == wanted) for wanted in (*EDGES, SLOWER)]
        errors = sum(count for status, _, count in mine if status >= 500)
        return Counts(sum(buckets), errors=errors, instances=1, buckets=tuple(buckets))


class Shares(Clients):
    """Where no traffic goes through what was tested: counts as the balancer's own weights would share them out."""

    def __init__(self, balancer: LoadBalancer, clock: WoundClock, backends: tuple[str, str]) -> None:
        super().__init__("", clock, backends)
        self._balancer = balancer

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        now = self.clock.now()
        if cursor is None:
            return [], {"at": now}
        sides = [self._share(side) for side in (self.stable, self.canary)]
        return [Window(cursor["at"], now, *sides, edges=EDGES)], {"at": now}

    def _share(self, side: str) -> Counts:
        requests = round(REQUESTS * self._balancer.get_weights()[side] / 100)
        buckets = (0, requests, *[0] * (len(EDGES) - 1))
        return Counts(requests, errors=requests if self.path == ill(side) else 0, instances=1, buckets=buckets)


@dataclass
class Rehearsal:
    """One service with a ledger of its own, behind the load balancer under test."""

    release: Release
    balancer: LoadBalancer
    clients: Clients
    ledger: Ledger
    desk: Desk
    versions: int = 0

    @classmethod
    def of(cls, release: Release, balancer: LoadBalancer, url: str, folder: Path) -> "Rehearsal":
        clock = WoundClock()
        backends = release.backends
        clients = Clients(url, clock, backends) if url else Shares(balancer, clock, backends)
        ledger = Ledger.open(f"sqlite:///{folder / 'ledger.db'}")

        def source(release: Release, stable: str, canary: str) -> Clients:
            clients.stable, clients.canary = stable, canary
            return clients

        return cls(
            release, balancer, clients, ledger, Desk(ledger, clock, lambda _: balancer, source, lambda *_: release)
        )

    def run(self, *, path_for: Callable[[Rollout], str]) -> Rollout:
        """A whole rollout of the next version, asking the path that ``path_for`` gives for it; its last record."""
        self.versions += 1
        rollout = start(self.desk, self._request()).rollout
        self.clients.path = path_for(rollout)
        for index in range(len(plan_of(rollout).weight_steps)):
            shift(self.desk, self.ledger.rollout(rollout.id), index, actor="rehearsal")
            if self._bake(rollout, index) is Decision.ROLL_BACK:
                roll_back(self.desk, rollout, "shown to be worse", actor="rehearsal")
                return self.ledger.rollout(rollout.id)
        promote(self.desk, self.ledger.rollout(rollout.id), actor="rehearsal")
        return self.ledger.rollout(rollout.id)

    def _bake(self, rollout: Rollout, index: int) -> Decision:
        for _ in range(MOST_LOOKS):
            self.desk.clock.sleep(max(1.0, self.release.poll))
            seen = observe(self.desk, rollout.id, index, actor="rehearsal")
            if seen.decision is not Decision.HOLD:
                return seen.decision
        raise AssertionError(f"step {index + 1} is still on hold: {seen.reason}")

    def _request(self) -> StartRequest:
        weights = sorted({step.weight for step in self.release.steps if isinstance(step, Step)})[-2:]
        return StartRequest(
            release=self.release,
            release_name="example.yaml",
            version=f"v{self.versions}",
            dag_id="release_example",
            run_id=f"run-{self.versions}",
            by="ada",
            steps=",".join(str(weight) for weight in weights),
        )


def behind(release: Release, backends: tuple[str, str]) -> Release:
    """The example's release on the balancer under test; bakes cut short, and nobody to wait for."""
    steps = [replace(step, bake=min(step.bake, LONGEST_BAKE)) for step in release.steps if isinstance(step, Step)]
    return replace(release, backends=backends, steps=tuple(steps), calendar=Calendar(), hooks={}, notify=())

"""A guardian's tick takes the time that it may, whatever hangs: the next one must come when it is due."""

import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from canary_release.control.desk import Desk
from canary_release.control.guardian import Guardian, Kind
from canary_release.control.side_by_side import SideBySide
from canary_release.control.starting import StartRequest, start
from canary_release.control.stepping import shift
from canary_release.core.ports import LoadBalancer
from canary_release.core.problems import LoadBalancerError
from canary_release.core.release import Release
from canary_release.core.values import Weights
from control.world import GREEN, World, WorldBalancer, WorldMetrics, a_release

DEAD, ALIVE = 60, 5
TICK = 1.0
LEASE = 20.0


class HangingBalancer(WorldBalancer):
    """Answers nothing until it is let go, as a host behind a firewall that swallows every packet."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False
        self.calls = 0
        self.let_go = threading.Event()

    def get_weights(self) -> Weights:
        self._wait()
        return super().get_weights()

    def set_weights(self, weights: Weights) -> None:
        self._wait()
        super().set_weights(weights)

    def _wait(self) -> None:
        self.calls += 1
        if self.hangs and not self.let_go.wait(60):
            raise LoadBalancerError("no answer")


class Fleet:
    """Many services, each with an exposed canary that nobody watches any more."""

    def __init__(self, world: World) -> None:
        self.world = world
        names = [f"s{number:02d}" for number in range(DEAD + ALIVE)]
        self.balancers = {name: HangingBalancer() for name in names}
        self.releases = {
            f"{name}.yaml": replace(a_release(), service=name, text=name, sha256=f"{name:0<64}") for name in names
        }
        desk = self.desk()
        for name in names:
            request = StartRequest(
                release=self.releases[f"{name}.yaml"], release_name=f"{name}.yaml", version="v2",
                dag_id=f"release_{name}", run_id="v2", by="ada",
            )  # fmt: skip
            shift(desk, start(desk, request).rollout, 0, actor="task")
        world.clock.sleep(LEASE + 1)
        self.dead = names[:DEAD]
        for name in self.dead:
            self.balancers[name].hangs = True

    def desk(self) -> Desk:
        def balancer(release: Release) -> LoadBalancer:
            return self.balancers[release.service]

        def source(release: Release, stable: str, canary: str) -> WorldMetrics:
            return WorldMetrics(self.world.clock, self.balancers[release.service])

        return Desk(self.world.ledger, self.world.clock, balancer, source, lambda text, name: self.releases[name])

    def let_go(self) -> None:
        for balancer in self.balancers.values():
            balancer.let_go.set()


def test_sixty_dead_balancers_neither_delay_a_tick_nor_the_services_that_answer(world: World, tmp_path: Path) -> None:
    fleet = Fleet(world)
    guardian = Guardian(fleet.desk, name="test", longest_tick=TICK)
    try:
        began = time.monotonic()
        findings = guardian.tick()
        took = time.monotonic() - began
        print(f"a tick over {DEAD} dead and {ALIVE} living load balancers took {took:.2f} s of {TICK:g} s allowed")
        assert took < TICK + 1.0
        assert Counter(finding.kind for finding in findings) == {Kind.NOT_SAFE: DEAD, Kind.TAKEN_OFF: ALIVE}
        late = next(finding for finding in findings if finding.kind is Kind.NOT_SAFE)
        assert "has not answered" in late.sentence
        asked = {name: fleet.balancers[name].calls for name in fleet.dead}
        guardian.tick()
        assert {name: fleet.balancers[name].calls for name in fleet.dead} == asked, "what hangs is not asked twice"
        assert sum(thread.name == "side by side" for thread in threading.enumerate()) <= 64
    finally:
        fleet.let_go()
    ends = time.monotonic() + 30
    while any(balancer.weights[GREEN] > 0 for balancer in fleet.balancers.values()) and time.monotonic() < ends:
        guardian.tick()
    assert not [name for name, balancer in fleet.balancers.items() if balancer.weights[GREEN] > 0]


def test_what_came_after_the_end_of_a_run_is_given_by_the_next() -> None:
    gate = threading.Event()
    slow: SideBySide[str] = SideBySide(4)

    def hang() -> str:
        gate.wait(30)
        return "late"

    assert slow.run({"a": hang, "b": lambda: "b"}, seconds=0.2) == {"b": "b"}
    gate.set()
    ends = time.monotonic() + 10
    while (found := slow.run({"b": lambda: "b"}, seconds=5)) == {"b": "b"} and time.monotonic() < ends:
        continue
    assert found == {"a": "late", "b": "b"}


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_with_every_thread_hanging_nothing_new_is_begun_and_nobody_waits_longer(seconds: float) -> None:
    gate = threading.Event()
    full: SideBySide[None] = SideBySide(2)
    try:
        full.run({"a": lambda: gate.wait(30) and None, "b": lambda: gate.wait(30) and None}, seconds=0.1)
        began = time.monotonic()
        assert full.run({"c": lambda: None}, seconds=seconds) == {}
        assert time.monotonic() - began < 5
    finally:
        gate.set()

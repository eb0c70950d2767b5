"""How many bakes one triggerer's event loop holds: each is looked at when its poll is due."""

import asyncio
import statistics
import time
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from canary_release.control.desk import Desk
from canary_release.control.starting import StartRequest, start
from canary_release.control.stepping import shift
from canary_release.control.system_clock import SystemClock
from canary_release.core.release import Release
from canary_release.triggers import bake_trigger
from canary_release.triggers.bake_trigger import BakeTrigger
from control.world import World, WorldBalancer, WorldMetrics, a_release

LATE = 1.0  # seconds that 99 of 100 looks may come behind their poll


class Fleet:
    """Many services on one ledger, all by the real clock; counts when each metric source was read."""

    def __init__(self, folder: Path, count: int, poll: float) -> None:
        self.world, self.poll = World(folder), poll
        self.clock = SystemClock()
        self.reads: dict[str, list[float]] = {}
        self.releases: dict[str, Release] = {}
        self.balancers: dict[str, WorldBalancer] = {}
        self.desk = self.new_desk()
        self.rollouts = [self._begin(f"s{number:04d}") for number in range(count)]

    def new_desk(self) -> Desk:
        return Desk(
            self.world.ledger,
            self.clock,
            lambda release: self.balancers[release.service],
            lambda release, stable, canary: CountedMetrics(self, release.service),
            lambda text, name: self.releases[name],
        )

    def _begin(self, name: str) -> str:
        file = f"{name}.yaml"
        release = replace(
            a_release(10, 100, bake=3600.0, poll=self.poll, lease=60.0), service=name, text=name, sha256=f"{name:0<64}"
        )
        self.releases[file], self.balancers[name] = release, WorldBalancer()
        request = StartRequest(release, file, "v2", dag_id=f"release_{name}", run_id="v2", by="ada")
        rollout = start(self.desk, request).rollout
        shift(self.desk, rollout, 0, actor="task")
        # Starting so many takes longer than a lease.
        self.desk.ledger.begin_step(rollout.id, at=time.time(), cursor={}, lease_until=time.time() + 3600.0)
        return rollout.id

    def source_time(self, service: str) -> None:
        self.reads.setdefault(service, []).append(time.monotonic())


class CountedMetrics(WorldMetrics):
    def __init__(self, fleet: Fleet, service: str) -> None:
        super().__init__(fleet.clock, fleet.balancers[service])  # type: ignore[arg-type]
        self._fleet, self._service = fleet, service

    def read(self, cursor):  # type: ignore[no-untyped-def]
        self._fleet.source_time(self._service)
        return super().read(cursor)


async def hold(rollouts: list[str], poll: float, seconds: float) -> None:
    """All bakes on this loop for so long, begun evenly over one poll."""

    async def one(rollout: str, wait: float) -> None:
        await asyncio.sleep(wait)
        async for _ in BakeTrigger(rollout, 0, poll).run():
            return

    tasks = [asyncio.create_task(one(rollout, place * poll / len(rollouts))) for place, rollout in enumerate(rollouts)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


def measured(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[float]:
    """How late each look was, in seconds."""
    monkeypatch.setattr(bake_trigger, "open_desk", lambda: fleet.desk)
    fleet.reads.clear()
    busy = time.process_time()
    asyncio.run(hold(fleet.rollouts, fleet.poll, seconds))
    busy = time.process_time() - busy
    gaps = [later - earlier for reads in fleet.reads.values() for earlier, later in pairwise(reads)]
    late = sorted(max(0.0, gap - fleet.poll) for gap in gaps)
    p99 = late[int(0.99 * len(late))]
    behind = f"late by {statistics.mean(late):.3f} s on average, p99 {p99:.3f} s, at most {late[-1]:.3f} s"
    print(f"{len(fleet.rollouts)} bakes at a poll of {fleet.poll:g} s, {len(gaps)} looks: {behind}")
    print(f"{busy / seconds:.0%} of one core")
    assert len(fleet.reads) == len(fleet.rollouts), "a bake was never looked at"
    return late


@pytest.mark.figures
@pytest.mark.slow
@pytest.mark.timeout(120)
def test_hundred_bakes_at_two_seconds_are_polled_on_time_by_one_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many looks a second as of five hundred at ten seconds."""
    late = measured(Fleet(tmp_path, 100, 2.0), monkeypatch, 8.0)
    assert late[int(0.99 * len(late))] <= LATE


@pytest.mark.figures
@pytest.mark.timeout(600)
def test_five_hundred_bakes_at_ten_seconds_are_polled_on_time_by_one_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = measured(Fleet(tmp_path, 500, 10.0), monkeypatch, 60.0)
    assert late[int(0.99 * len(late))] <= LATE

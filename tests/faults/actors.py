"""Who acts in a story: a run of Airflow with its tasks and trigger, the guardian, a person, a stranger.

The tasks here do what the operators do with the control part (retries, order, what ends a task for good).
"""

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from tempfile import mkstemp
from typing import Any

import sqlalchemy as sa

from canary_release.control.desk import Desk
from canary_release.control.ending import abort, promote, roll_back, settle
from canary_release.control.guardian import Guardian
from canary_release.control.starting import StartRequest, start
from canary_release.control.stepping import ruling_of, shift, take_off
from canary_release.control.watching import Watcher
from canary_release.core.problems import CanaryError, RefusedError
from canary_release.core.release import Check, CheckKind, Limit, LimitKind, Release, Step, Target
from canary_release.core.values import Decision, Weights
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger
from faults.faults import (
    BLUE,
    GREEN,
    HUNDRED,
    FaultyLedger,
    LeasingBalancer,
    Outages,
    SimulatedBalancer,
    SimulatedMetrics,
)
from faults.oracle import GUARDIAN_PERIOD, Oracle
from faults.simulator import START, CrashError, Hub, Process, SimulatedClock

GOOD_RATE, BAD_RATE = 0.002, 0.06
RETRY_SECONDS = 2.0
EARLIEST_EVENT = 10.0
DEFER_MARGIN = 300.0
LONGEST_STORY = 4 * 3600.0
QUIET = GUARDIAN_PERIOD + 10.0


def shop_release(*weights: int, bake: float = 20.0, **changes: object) -> Release:
    """The shop's release, polled every 10 s."""
    text = f"service: shop {weights} {bake} {changes}"
    release = Release(
        service="shop",
        load_balancer=Target("simulated", "none"),
        backends=(BLUE, GREEN),
        metrics=Target("simulated", "none"),
        steps=tuple(Step(Decimal(weight), bake, min_requests=200) for weight in (weights or (10, 100))),
        checks=(Check("error_rate", CheckKind.PROPORTION, max_change=Limit(LimitKind.POINTS, 0.005, "0.5pp")),),
        poll=10.0,
        lease=60.0,
        max_blind=120.0,
        max_no_data=120.0,
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    return replace(release, **changes)  # type: ignore[arg-type]


class Databases:
    """Ledger databases with an open engine each, used again and again: making one anew takes longer than a story."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._empty = folder / "empty.db"
        Ledger.open(f"sqlite:///{self._empty}").close()
        self._free: list[tuple[Path, sa.Engine]] = []
        self._statements: dict[Any, Any] = {}

    def take(self, contents: Path | None = None) -> tuple[Path, sa.Engine]:
        """A database with these contents, or with an empty ledger."""
        if not self._free:
            handle, name = mkstemp(".db", dir=self._folder)
            os.close(handle)
            shutil.copyfile(self._empty, name)
            engine = Ledger.open(f"sqlite:///{name}")._engine
            engine.update_execution_options(compiled_cache=self._statements)
            return self._filled((Path(name), engine), contents)
        return self._filled(self._free.pop(), contents)

    def give_back(self, database: tuple[Path, sa.Engine]) -> None:
        self._free.append(database)

    def _filled(self, database: tuple[Path, sa.Engine], contents: Path | None) -> tuple[Path, sa.Engine]:
        with (
            closing(sqlite3.connect(contents or self._empty)) as source,
            closing(sqlite3.connect(database[0])) as target,
        ):
            source.backup(target)
        return database


class Story:
    """One service, its load balancer, metrics and ledger, and everything that happens to them."""

    def __init__(
        self,
        databases: Databases,
        seed: int,
        *,
        bad: bool = False,
        release: Release | None = None,
        leasing: bool = False,
        mend: bool = False,
        ledger_from: Path | None = None,
    ) -> None:
        """leasing: the load balancer keeps a lease.  mend: the guardian mends.  ledger_from: begin with this one."""
        self.release = release or shop_release()
        self.bad = bad
        self.error_rates = {BLUE: GOOD_RATE, GREEN: BAD_RATE if bad else GOOD_RATE}
        self.hub = Hub(seed)
        self.clock = SimulatedClock(self.hub)
        self.outages = Outages(self.hub)
        self._databases, self._database = databases, databases.take(ledger_from)
        database = self.database = self._database[0]
        self.ledger = FaultyLedger(self._database[1], self.hub, self.outages)
        self.oracle = Oracle(self.hub, self.clock, self.outages, database, bad, wrote=lambda: self.ledger.wrote)
        kind = LeasingBalancer if leasing else SimulatedBalancer
        self.balancer = kind(self.hub, self.outages, self.oracle.told, self.oracle.asked)
        self.hub.after_step = self.oracle.check
        self.runs: list[Run] = []
        self.airflow_back = 0.0
        self.guardian_up = True
        self.mend = mend
        self.closed = False
        self.guarded: list[str] = []
        self.pages: list[tuple[float, str]] = []

    def desk(self) -> Desk:
        """A new process's view of the same ledger, load balancer and metrics."""

        def source(release: Release, stable: str, canary: str) -> SimulatedMetrics:
            return SimulatedMetrics(
                self.hub, self.clock, self.outages, self.oracle.served, self.error_rates, stable=stable, canary=canary
            )

        return Desk(
            self.ledger, self.clock, lambda release: self.balancer, source, lambda text, name: self.release, self.page
        )

    def page(self, service: str, sentence: str) -> None:
        """Somebody is woken."""
        self.pages.append((self.hub.time, sentence))

    def begin(self, run_id: str = "run-1", *, recovery: float = 5.0) -> "Run":
        """Trigger a run. recovery: seconds until Airflow runs a crashed task again."""
        run = Run(self, run_id, recovery=recovery)
        self.runs.append(run)
        run.process = self.hub.spawn(f"scheduler of {run_id}", run.live)
        return run

    def guard(self, *, first: float = 7.0) -> None:
        """The guardian's own DAG: a tick every minute."""

        def live() -> None:
            while True:
                if self.guardian_up and self.hub.time >= self.airflow_back:
                    self.hub.join(self.hub.spawn("guardian", self._tick))
                self.hub.sleep(GUARDIAN_PERIOD)

        self.hub.spawn("scheduler of the guardian", live, at=self.hub.time + first)

    def _tick(self) -> None:
        guardian = Guardian(self.desk, name="DAG", run_state=self.run_state, mend=self.mend)
        self.guarded += [f"{finding.kind}: {finding.sentence}" for finding in guardian.tick()]

    def run_state(self, _dag_id: str, run_id: str) -> str | None:
        """What Airflow says of a run."""
        same = [run for run in self.runs if run.run_id == run_id]
        if any(run.paused_until > self.hub.time for run in same):
            return "paused"
        if any(not run.process.done for run in same):
            return "running"
        return "failed" if same else None

    def at(self, seconds: float, act: Callable[[], Any], *, name: str = "person") -> None:
        """Something that happens this many seconds after the beginning."""
        self.hub.spawn(name, act, at=START + seconds)

    def abort(self, why: str = "test") -> None:
        """A person's abort; like a task, it is tried again when the ledger does not answer."""
        for _ in range(20):
            try:
                abort(self.desk(), "shop", why, actor="grace")
            except RefusedError:
                return
            except CanaryError:
                self.hub.sleep(10.0)
            else:
                return

    def stranger_sets(self, canary: int) -> None:
        """Somebody else, another tool, writes to the load balancer."""
        self.balancer.apply(Weights({BLUE: HUNDRED - canary, GREEN: Decimal(canary)}))

    def airflow_dies(self, seconds: float) -> None:
        """Every process of Airflow is killed; it is back after some time and runs again what was running."""
        self.airflow_back = self.hub.time + seconds
        self.oracle.guardian_back = self.airflow_back
        for run in self.runs:
            run.kill_task()

    def play(self) -> "Story":
        """Go on until everything has ended and stayed quiet, then let the oracle close the books."""
        while True:
            self.hub.run(START + LONGEST_STORY, finished=self._ended)
            self.hub.run(self.hub.time + QUIET)
            if self._ended() or self.hub.time >= START + LONGEST_STORY:
                break
        self.oracle.finish()
        return self

    def _ended(self) -> bool:
        newest = self.oracle.newest
        busy = newest is not None and newest["state"] not in ("promoted", "rolled_back")
        idle = self.hub.asleep == 0 and self.balancer.late == 0 and all(run.process.done for run in self.runs)
        return not busy and idle and self.outages.over()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.hub.close()
        self.oracle.close()
        self._databases.give_back(self._database)

    @property
    def state(self) -> str:
        return str(self.oracle.newest["state"]) if self.oracle.newest else "none"

    @property
    def reason(self) -> str:
        return str(self.oracle.newest["outcome_reason"]) if self.oracle.newest else ""

    @property
    def canary(self) -> Decimal:
        """What clients are really served by the canary's backend now, in percent."""
        return self.balancer.shares[GREEN]


@dataclass
class Run:
    """A run of the release's DAG: its scheduler starts one task after the other, each a process of its own."""

    story: Story
    run_id: str
    recovery: float = 5.0
    process: Process = field(init=False)
    task: Process | None = None
    marked: str = ""
    paused_until: float = 0.0
    failed: list[str] = field(default_factory=list)

    def live(self) -> None:
        if self._attempt("start", 0, self._start):
            self._steps()
        if self.marked != "failed":
            self._attempt("roll_back", 10, self._roll_back, keeps_trying=True)
        self._attempt("settle", 10, self._settle, keeps_trying=True)

    def mark_failed(self) -> None:
        """A person marks the run failed: its task is killed, only the teardown still runs."""
        self.marked = "failed"
        self.kill_task()

    def mark_success(self) -> None:
        """A person marks the running task success: it is killed and the next one starts."""
        self.marked = "success"
        self.kill_task()

    def kill_task(self) -> None:
        if self.task is not None and not self.task.done:
            self.story.hub.kill(self.task)

    def _steps(self) -> None:
        for index in range(len(self.story.release.steps)):
            if not self._attempt(f"shift {index}", 2, partial(self._shift, index)):
                # The branch task of the step runs whatever happened; here it can only choose the rollback.
                self._attempt(f"decide {index}", 2, partial(self._decide, index))
                return
            self._attempt(f"bake {index}", 1000, partial(self._bake, index))
            if not self._attempt(f"decide {index}", 2, partial(self._decide, index)):
                return
        self._attempt("promote", 2, self._promote)

    def _attempt(self, name: str, retries: int, body: Callable[[], Any], *, keeps_trying: bool = False) -> bool:
        """True when it succeeded. A killed task is tried again, a refused or failed one only if it keeps trying."""
        hub = self.story.hub
        for _ in range(retries + 1):
            hub.sleep(max(hub.rng.uniform(0.5, 2.0), self.story.airflow_back - hub.time, self.paused_until - hub.time))
            if self.marked == "failed" and name != "settle":
                return False
            self.task = hub.spawn(f"{self.run_id}/{name}", partial(self._guarded, name, body), phase=name)
            hub.join(self.task)
            done = self.task
            if self.marked == "success":
                self.marked = ""
                return True
            if done.done and done.error is None and not isinstance(done.result, CanaryError):
                return bool(done.result)
            crashed = done.lost or isinstance(done.error, CrashError)
            if not crashed and not keeps_trying:
                return False
            hub.sleep(self.recovery if crashed else RETRY_SECONDS)
        return False

    def _guarded(self, name: str, body: Callable[[], Any]) -> Any:
        try:
            return body()
        except CanaryError as error:
            self.failed.append(f"{name}: {error}")
            return error

    def _rollout(self, desk: Desk) -> Rollout:
        rollout = desk.rollout_of_run("release_shop", self.run_id)
        assert self.story.hub.current is not None
        self.story.hub.current.rollout_id = rollout.id
        return rollout

    def _start(self) -> bool:
        request = StartRequest(
            release=self.story.release, release_name="shop.yaml", version=f"v-{self.run_id}",
            dag_id="release_shop", run_id=self.run_id, by="ada",
        )  # fmt: skip
        start(self.story.desk(), request)
        return True

    def _shift(self, index: int) -> bool:
        desk = self.story.desk()
        shift(desk, self._rollout(desk), index, actor=f"{self.run_id}/shift")
        return True

    def _bake(self, index: int) -> bool:
        """The trigger: look every poll until it is decided; what it cannot do now the next look tries again."""
        hub, release = self.story.hub, self.story.release
        desk, began = self.story.desk(), hub.time
        watcher = Watcher(desk, self._rollout(desk).id, index, actor="trigger")
        longest = release.steps[index].bake + release.max_no_data + DEFER_MARGIN  # type: ignore[union-attr]
        while hub.time < began + longest:
            looked = hub.time
            seen = watcher.look()
            if seen is not None and watcher.finished(seen):
                hub.sleep(EARLIEST_EVENT - (hub.time - began))
                return True
            hub.sleep(release.poll - (hub.time - looked))
        return False

    def _decide(self, index: int) -> bool:
        desk = self.story.desk()
        rollout = self._rollout(desk)
        if index > max(rollout.step, 0):
            return False
        record = ruling_of(desk, rollout, index)
        decided = record is not None and record.decision in (Decision.ADVANCE, Decision.PROMOTE)
        if decided and not rollout.outcome_reason:
            return True
        if not rollout.state.final:
            take_off(desk, rollout, rollout.outcome_reason or "nothing was decided", actor=f"{self.run_id}/decide")
        return False

    def _promote(self) -> bool:
        desk = self.story.desk()
        promote(desk, self._rollout(desk), actor=f"{self.run_id}/promote")
        return True

    def _roll_back(self) -> bool:
        desk = self.story.desk()
        try:
            rollout = self._rollout(desk)
        except RefusedError:
            return True
        if rollout.state is not State.PROMOTED:
            roll_back(desk, rollout, "a task of the run failed", actor=f"{self.run_id}/roll_back")
        return True

    def _settle(self) -> bool:
        desk = self.story.desk()
        try:
            rollout = self._rollout(desk)
        except RefusedError:
            return True
        settle(desk, rollout, actor=f"{self.run_id}/settle")
        return True

"""Many processes on one virtual clock: each stands still at every call that leaves it, and is woken in a seeded order.

A process is a greenlet that runs the real code. Wherever that code touches the ledger, the load balancer or the metrics
it passes a *point*; there the others may run, and there it can be killed, frozen or cut off. Nothing sleeps for real.
"""

import heapq
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import greenlet  # type: ignore[import-untyped]

START = 1_800_000_000.0
HEARTBEAT_TIMEOUT = 60.0


class CrashError(BaseException):
    """The process is gone: nothing in it runs any more. No handler of the product may catch this."""


@dataclass(eq=False)
class Process:
    """One operating system process. phase: what it is doing, for traps. lost: its supervisor has given it up."""

    name: str
    phase: str
    body: Callable[[], Any]
    result: Any = None
    error: BaseException | None = None
    done: bool = False
    lost: bool = False
    doomed: bool = False
    waiting_for_me: "Process | None" = None
    thread: Any = None
    rollout_id: str | None = None


@dataclass
class Trap:
    """Springs when a process of this phase passes this point for the ``nth`` time; ``act`` may raise CrashError."""

    phase: str
    point: str
    act: Callable[[Process], None]
    nth: int = 1
    passed: int = 0
    sprung: bool = False

    def offer(self, process: Process, point: str) -> None:
        if self.sprung or point != self.point or not process.phase.startswith(self.phase):
            return
        self.passed += 1
        if self.passed == self.nth:
            self.sprung = True
            self.act(process)


@dataclass
class Hub:
    """The scheduler of the simulation. time: seconds since the epoch; after_step: called after every step.

    asleep: how many processes are frozen and will go on later.  closing: whoever is woken now is at its end.
    """

    seed: int
    time: float = START
    slack: float = 0.003
    traps: list[Trap] = field(default_factory=list)
    seen_points: set[tuple[str, str]] = field(default_factory=set)
    after_step: Callable[[], None] = lambda: None
    current: Process | None = None
    asleep: int = 0
    closing: bool = False
    _queue: list[tuple[float, int, Process]] = field(default_factory=list)
    _tick: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self._main = greenlet.getcurrent()

    def spawn(self, name: str, body: Callable[[], Any], *, at: float | None = None, phase: str = "") -> Process:
        process = Process(name, phase or name, body)
        process.thread = greenlet.greenlet(lambda: self._live(process), parent=self._main)
        self._wake(process, self.time if at is None else at)
        return process

    def sleep(self, seconds: float) -> None:
        """Virtual time passes; the others run meanwhile."""
        process = self.current
        if process is None:
            self.time += seconds
            return
        self._wake(process, self.time + max(0.0, seconds))
        self._leave()

    def reach(self, point: str) -> None:
        """The current process passes a named point."""
        process = self.current
        if process is None:
            return
        self.seen_points.add((process.phase, point))
        for trap in self.traps:
            trap.offer(process, point)
        self.sleep(self.rng.uniform(0.0, self.slack))

    def join(self, process: Process) -> None:
        """Wait until the process ends or its supervisor gives it up."""
        me = self.current
        assert me is not None
        if not process.done and not process.lost:
            process.waiting_for_me = me
            self._leave()

    def kill(self, process: Process) -> None:
        """kill -9: it never runs again after the point where it stands."""
        if process.done:
            return
        process.doomed = True
        if process is self.current:
            raise CrashError(process.name)
        self._wake(process, self.time)

    def give_up(self, process: Process, after: float) -> None:
        """The supervisor will take the process for dead, which it may not be."""

        def notice() -> None:
            if not process.done:
                process.lost = True
                self._release(process)

        self.spawn(f"heartbeat of {process.name}", notice, at=self.time + after)

    def run(self, until: float, finished: Callable[[], bool] = lambda: False) -> None:
        """Wake processes in order until the virtual clock reaches ``until``, or until ``finished`` says so."""
        while self._queue and self._queue[0][0] <= until and not finished():
            at, _, process = heapq.heappop(self._queue)
            self.time = max(self.time, at)
            if process.done:
                continue
            self.current = process
            process.thread.switch()
            self.current = None
            if process.error is not None and not isinstance(process.error, CrashError):
                raise process.error
            self.after_step()

    def close(self) -> None:
        """End what still waits, so that no greenlet outlives its test."""
        self.after_step = lambda: None
        self.closing = True
        self.run(float("inf"))

    def _live(self, process: Process) -> None:
        try:
            if process.doomed or self.closing:
                raise CrashError(process.name)
            process.result = process.body()
        except BaseException as error:  # noqa: BLE001  a simulated process takes its end with it, whatever it is
            process.error = error
        process.done = True
        self._release(process)

    def _release(self, process: Process) -> None:
        waiting, process.waiting_for_me = process.waiting_for_me, None
        if waiting is not None and not waiting.done:
            self._wake(waiting, self.time)

    def _wake(self, process: Process, at: float) -> None:
        self._tick += 1
        heapq.heappush(self._queue, (at, self._tick, process))

    def _leave(self) -> None:
        process = self.current
        self._main.switch()
        self.current = process
        if process is not None and (process.doomed or self.closing):
            raise CrashError(process.name)


@dataclass
class SimulatedClock:
    """The wall clock of all controllers; ``offset`` jumps, while sleeping goes by true time."""

    hub: Hub
    offset: float = 0.0

    def now(self) -> float:
        return self.hub.time + self.offset

    def sleep(self, seconds: float) -> None:
        self.hub.sleep(seconds)


def crash(process: Process) -> None:
    """A trap's act: kill -9 here."""
    raise CrashError(process.name)


def freeze(hub: Hub, seconds: float) -> Callable[[Process], None]:
    """A trap's act: SIGSTOP here, SIGCONT later; meanwhile the supervisor takes the process for dead."""

    def act(process: Process) -> None:
        hub.give_up(process, HEARTBEAT_TIMEOUT)
        hub.asleep += 1
        try:
            hub.sleep(seconds)
        finally:
            hub.asleep -= 1

    return act


class InLine:
    """Stands in for threads side by side: does everything in order, in the simulated process that asked."""

    def __init__(self, *_: object, **__: object) -> None: ...

    @classmethod
    def __class_getitem__(cls, _: object) -> type["InLine"]:
        return cls

    def run(self, acts: Mapping[str, Callable[[], Any]], *, seconds: float) -> dict[str, Any]:
        return {key: act() for key, act in acts.items()}

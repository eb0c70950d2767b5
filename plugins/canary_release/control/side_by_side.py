"""Doing many things at once that may each hang, within a time that is known beforehand."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from queue import Empty, Queue
from typing import Generic, TypeVar

ResultT = TypeVar("ResultT")


class SideBySide(Generic[ResultT]):
    """At most ``at_once`` threads, those included that still hang from an earlier ``run``; they end with the process.

    What is asked for by a key is not begun again while it still runs under that key.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._busy: set[str] = set()
        self._alive = 0
        self._lock = threading.Lock()
        self._done: Queue[tuple[str, ResultT]] = Queue()

    def run(self, acts: Mapping[str, Callable[[], ResultT]], *, seconds: float) -> dict[str, ResultT]:
        """The results that there are after ``seconds`` at the latest, also those that earlier runs did not wait for.

        The acts must not raise. What was not begun by then is left out; what was begun goes on.
        """
        deadline = time.monotonic() + seconds
        with self._lock:
            waiting = deque((key, act) for key, act in acts.items() if key not in self._busy)
            expected = {key for key, _ in waiting}
            for _ in range(min(self._at_once - self._alive, len(waiting))):
                self._alive += 1
                threading.Thread(target=self._work, args=(waiting, deadline), name="side by side", daemon=True).start()
        results: dict[str, ResultT] = {}
        while not expected <= results.keys():
            try:
                key, result = self._done.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                break
            results[key] = result
        return results

    def _work(self, waiting: deque[tuple[str, Callable[[], ResultT]]], deadline: float) -> None:
        while True:
            with self._lock:
                if not waiting or time.monotonic() >= deadline:
                    self._alive -= 1
                    return
                key, act = waiting.popleft()
                self._busy.add(key)
            try:
                self._done.put((key, act()))
            finally:
                with self._lock:
                    self._busy.discard(key)

"""Work done one by one in the background, in a thread that is there only while there is work."""

import threading
import time
from collections import deque
from collections.abc import Callable


class Outbox:
    """Jobs of one receiver, in order. One that hangs holds up those behind it and nobody else.

    most: how many may wait; what is beyond is refused.
    """

    def __init__(self, name: str, *, most: int = 16) -> None:
        self._name = name
        self._most = most
        self._jobs: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, job: Callable[[], None]) -> bool:
        """False when too much is waiting. ``job`` must raise nothing."""
        with self._lock:
            if len(self._jobs) >= self._most:
                return False
            self._jobs.append(job)
            if self._thread is None:
                # A daemon: a receiver that never answers must not keep a process from ending.
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            return True

    def wait(self, until: float) -> None:
        """Until everything is done, or ``time.monotonic()`` is past ``until``."""
        while (thread := self._thread) is not None and (left := until - time.monotonic()) > 0:
            thread.join(left)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._thread = None
                    return
                job = self._jobs.popleft()
            job()

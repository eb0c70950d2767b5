"""Watches a step without a worker slot, and takes the canary off by itself the moment the evidence says so."""

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from canary_release.control.real_desk import open_desk
from canary_release.control.stepping import Observed
from canary_release.control.watching import Watcher

# A task that resumes within seconds of deferring may be failed by the scheduler (apache/airflow 71580): its own
# "I have deferred" is taken for a crash. The traffic does not wait for this: it was moved before.
EARLIEST_EVENT_SECONDS = 10.0
# Looks wait for servers most of their time. The loop's own pool has six threads on two cores: six load balancers that
# hang would keep every other bake of this triggerer waiting.
_LOOKS = ThreadPoolExecutor(64, thread_name_prefix="bake")


class BakeTrigger(BaseTrigger):
    """Looks at a step every ``poll`` seconds until it is decided.

    Keeps nothing of its own: start, deadline, counts and decisions are in the ledger, so a restarted trigger goes on
    where the last one stopped.

    :param rollout_id: the rollout in the ledger.  :param index: the step in its plan.  :param poll: seconds.
    """

    def __init__(self, rollout_id: str, index: int, poll: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rollout_id = rollout_id
        self.index = index
        self.poll = poll

    def serialize(self) -> tuple[str, dict[str, Any]]:
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        return path, {"rollout_id": self.rollout_id, "index": self.index, "poll": self.poll}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        began = time.monotonic()
        actor = f"bake of {self.rollout_id} step {self.index + 1}"
        loop = asyncio.get_running_loop()
        watcher = Watcher(await loop.run_in_executor(_LOOKS, open_desk), self.rollout_id, self.index, actor=actor)
        while True:
            looked = time.monotonic()
            seen = await loop.run_in_executor(_LOOKS, watcher.look)
            if seen is not None:
                self._tell(seen)
                if watcher.finished(seen):
                    break
            await asyncio.sleep(max(0.0, self.poll - (time.monotonic() - looked)))
        await asyncio.sleep(max(0.0, EARLIEST_EVENT_SECONDS - (time.monotonic() - began)))
        yield TriggerEvent({"decision": str(seen.decision), "reason": seen.reason})

    def _tell(self, seen: Observed) -> None:
        sentence = seen.judgement.sentence if seen.judgement is not None else seen.reason
        self.log.info("%s: %s", seen.decision, sentence)
        if seen.lowered is not None:
            self.log.info("canary taken off: %s, %.3f s", seen.lowered.read_back, seen.lowered.seconds)

"""Waits for a person, an opening or another DAG's run without a worker slot, and watches the canary meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, TypedDict

from airflow.triggers.base import BaseTrigger, TriggerEvent

from canary_release.control.desk import Desk
from canary_release.control.opening import raise_closed
from canary_release.control.real_desk import open_desk
from canary_release.control.waiting import Waiting
from canary_release.core.problems import CanaryError
from canary_release.ledger.approvals import question_of
from canary_release.triggers.bake_trigger import EARLIEST_EVENT_SECONDS

_OVER = ("success", "failed")


class WaitFor(TypedDict, total=False):
    """What ends the wait. answer: the approval before this step.  opening: the calendar lets it raise.

    dag, run: this run is over.  until: seconds since the epoch after which nothing is waited for.
    """

    answer: int
    opening: bool
    dag: str
    run: str
    until: float


class WaitTrigger(BaseTrigger):
    """Looks every ``poll`` seconds: at the canary, and at what it waits for.

    Keeps nothing of its own: what it waits for is found in the ledger or asked of Airflow, so a restarted trigger goes
    on where the last one stopped. Its event has ``over`` (why there is nothing left to wait for, the canary being off)
    or ``reached`` (what came).

    :param watch: whether there is a canary to be watched; otherwise the rollout is over already.
    """

    def __init__(self, rollout_id: str, poll: float, wait_for: WaitFor, watch: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rollout_id = rollout_id
        self.poll = poll
        self.wait_for = wait_for
        self.watch = watch

    def serialize(self) -> tuple[str, dict[str, Any]]:
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        kwargs = {
            "rollout_id": self.rollout_id,
            "poll": self.poll,
            "wait_for": dict(self.wait_for),
            "watch": self.watch,
        }
        return path, kwargs

    async def run(self) -> AsyncIterator[TriggerEvent]:
        began = time.monotonic()
        desk = await asyncio.to_thread(open_desk)
        waiting = Waiting(desk, self.rollout_id, actor=f"wait of {self.rollout_id}")
        while True:
            looked = time.monotonic()
            event = await asyncio.to_thread(self._look, desk, waiting)
            if event is not None:
                break
            await asyncio.sleep(max(0.0, self.poll - (time.monotonic() - looked)))
        self.log.info("%s: %s", self.rollout_id, event)
        await asyncio.sleep(max(0.0, EARLIEST_EVENT_SECONDS - (time.monotonic() - began)))
        yield TriggerEvent(event)

    def _look(self, desk: Desk, waiting: Waiting) -> dict[str, str] | None:
        over = waiting.look() if self.watch else None
        if over is not None:
            return {"over": over}
        try:
            reached = self._reached(desk)
        except CanaryError as error:
            self.log.warning("%s: %s", self.rollout_id, error)
            return None
        return None if reached is None else {"reached": reached}

    def _reached(self, desk: Desk) -> str | None:
        if "answer" in self.wait_for:
            question = question_of(desk.ledger, self.rollout_id, self.wait_for["answer"])
            if question is not None and question.answer is not None:
                return str(question.answer)
        if "opening" in self.wait_for and raise_closed(desk, desk.ledger.rollout(self.rollout_id)) is None:
            return "open"
        if "run" in self.wait_for:
            state = run_state(self.wait_for["dag"], self.wait_for["run"])
            if state in _OVER:
                return state
        return "timeout" if desk.clock.now() >= self.wait_for.get("until", float("inf")) else None


def run_state(dag_id: str, run_id: str) -> str | None:
    """The state of another DAG's run, asked of the API server from a task or a trigger; None: no such DAG or run.

    CanaryError when there is no answer.
    """
    from airflow.sdk.exceptions import AirflowRuntimeError
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        state = RuntimeTaskInstance.get_dagrun_state(dag_id, run_id)
        return str(getattr(state, "value", state))
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == 404:
            return None
        raise CanaryError(f"Airflow did not say how the run {run_id} of {dag_id} stands: {error}") from error

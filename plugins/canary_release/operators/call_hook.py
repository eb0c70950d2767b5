"""Call a DAG or an HTTP endpoint at a moment of the rollout; waiting for a DAG holds no worker slot."""

from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from canary_release.control.calling import (
    CallFailedError,
    Calling,
    begin,
    calling,
    failed,
    next_attempt,
    request,
    succeeded,
)
from canary_release.control.desk import Desk
from canary_release.core.release import Moment
from canary_release.ledger.hook_calls import CallState, Place
from canary_release.operators.rollout_task import RolloutOperator, problems_are_final, step_index
from canary_release.triggers.wait_trigger import WaitTrigger, run_state

_BEFORE_TRAFFIC = (Moment.BEFORE, Moment.BEFORE_STEP)


class CallHookOperator(RolloutOperator):
    """One entry of ``before``, ``before_step``, ``after`` or ``on_rollback``.

    :param moment: which of them.  :param position: the entry's place in its list.
    :param weight: the weight of the step it belongs to, empty without one.
    """

    def __init__(self, *, moment: str, position: int, weight: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.moment = moment
        self.position = position
        self.weight = weight

    def execute(self, context: Context) -> str:
        return self._call(context)

    def called(self, context: Context, event: dict[str, str]) -> str:
        """The wait is over: the run has ended, has had its time, or there is no rollout left to call for."""
        return self._call(context, over=event.get("over"), timed_out=event.get("reached") == "timeout")

    def _call(self, context: Context, *, over: str | None = None, timed_out: bool = False) -> str:
        desk, actor = self.open_desk(), self.actor(context)
        with problems_are_final():
            made = self._made(desk, context)
            if made.rollout.dry_run:
                return self._said(made, f"DRY RUN: would be called with {dict(made.data)}")
            noted = begin(desk, made, actor=actor)
            if noted.state is not CallState.RUNNING:
                return self._ended_before(made, noted.state, noted.detail)
            try:
                if over is not None:
                    raise CallFailedError(f"not waited for any longer: {over}")
                detail = request(desk, made) if made.hook.http else self._ran(desk, made, noted.started_at, timed_out)
            except CallFailedError as error:
                return self._failed(desk, made, str(error), actor)
            succeeded(desk, made, detail, actor=actor)
        return self._said(made, detail)

    def _made(self, desk: Desk, context: Context) -> Calling:
        rollout = self.rollout(desk, context)
        index = step_index(rollout, self.weight) if self.weight else -1
        made = calling(desk, rollout, Place(self.moment, index, self.position)) if index is not None else None
        if made is None:
            self.skipped(f"{self.moment}: nothing to call in this run")
        return made

    def _ran(self, desk: Desk, made: Calling, began: float, timed_out: bool) -> str:
        """What the successful run was; waits for one that runs, and starts the next attempt where there is none."""
        attempt, state = next_attempt(made, run_state, timed_out=timed_out)
        name, dag = made.name(attempt), made.hook.dag
        if state == "success":
            return f"run {name} of {dag} succeeded"
        if state is None:
            start_run(dag, name, dict(made.data))
            self.tell(f"call     {made.hook.what}: run {name} started", event="called", rollout=made.rollout.id)
        self.defer(
            trigger=WaitTrigger(
                made.rollout.id,
                min(desk.release(made.rollout).poll, 10.0),
                {"dag": dag, "run": name, "until": began + attempt * made.hook.timeout},
                watch=self.moment in _BEFORE_TRAFFIC,
            ),
            method_name="called",
        )
        raise AssertionError("defer never returns")

    def _ended_before(self, made: Calling, state: CallState, detail: str) -> str:
        if state is CallState.FAILED and made.hook.rolls_back:
            raise AirflowFailException(f"{made.hook.what} failed before: {detail}")
        return self._said(made, f"called before: {state}, {detail}")

    def _failed(self, desk: Desk, made: Calling, detail: str, actor: str) -> str:
        failed(desk, made, detail, actor=actor)
        if self.moment == Moment.AFTER:
            raise AirflowFailException(f"{made.hook.what} failed: {detail}")
        return self._said(made, f"FAILED, and the release goes on: {detail}")

    def _said(self, made: Calling, detail: str) -> str:
        self.tell(
            f"call     {self.moment}: {made.hook.what}: {detail}",
            event="called",
            rollout=made.rollout.id,
            moment=self.moment,
        )
        return detail


def start_run(dag_id: str, run_id: str, conf: dict[str, Any]) -> None:
    """Start a run of another DAG, or find that it was started before. CallFailedError when it cannot run."""
    from airflow.sdk.exceptions import AirflowRuntimeError
    from airflow.sdk.execution_time.comms import TriggerDagRun
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS, RuntimeTaskInstance

    try:
        if RuntimeTaskInstance.get_dag(dag_id).is_paused:
            raise CallFailedError(f"the DAG {dag_id} is paused; unpause it")
        # An answer that the run exists is as good as a new one: whoever asked first had the same reason.
        SUPERVISOR_COMMS.send(TriggerDagRun(dag_id=dag_id, run_id=run_id, conf=conf))
    except AirflowRuntimeError as error:
        said = error.error.error.value
        raise CallFailedError(f"the DAG {dag_id} cannot be run ({said}); is there such a DAG?") from None

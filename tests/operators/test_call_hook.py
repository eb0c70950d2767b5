"""The task that calls: it starts a run once, waits for the one that is there, and takes the canary off on a failure."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from canary_release.control.calling import CallFailedError
from canary_release.control.stepping import shift
from canary_release.core.release import Hook, Moment
from canary_release.ledger.records import State
from canary_release.operators import call_hook
from canary_release.operators.call_hook import CallHookOperator
from control.world import World, a_release
from security.hostile import a_context

DEPLOY = Hook(dag="deploy_shop", conf={"version": "{version}"}, retries=1)


class Airflow:
    """Runs of other DAGs: what was started, and how each stands."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str, Any]] = []
        self.states: dict[str, str] = {}
        self.trouble = ""

    def run_state(self, dag: str, run: str) -> str | None:
        return self.states.get(run)

    def start_run(self, dag: str, run: str, conf: Any) -> None:
        if self.trouble:
            raise CallFailedError(self.trouble)
        self.started.append((dag, run, conf))
        self.states[run] = "queued"


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Airflow:
    made = Airflow()
    monkeypatch.setattr(call_hook, "run_state", made.run_state)
    monkeypatch.setattr(call_hook, "start_run", made.start_run)
    return made


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    hooks = {moment: (DEPLOY,) for moment in (Moment.BEFORE, Moment.BEFORE_STEP)}
    hooks |= {
        Moment.AFTER: (replace(DEPLOY, rolls_back=False),),
        Moment.ON_ROLLBACK: (replace(DEPLOY, rolls_back=False),),
    }
    made = World(tmp_path, a_release(5, 100, bake=8.0, hooks=hooks))
    monkeypatch.setattr(CallHookOperator, "open_desk", lambda self: made.desk)
    return made


BEFORE = CallHookOperator(task_id="before_1", moment="before", position=0)


def context() -> Any:
    return a_context({}, run_id="shop-v2")


def test_run_is_started_once_and_waited_for(world: World, airflow: Airflow) -> None:
    world.start()
    for _ in range(2):  # the second time is a retry of the task
        with pytest.raises(TaskDeferred) as waits:
            BEFORE.execute(context())
    assert airflow.started == [("deploy_shop", "shop-1-before-1", {"version": "v2"})]
    wait_for = waits.value.trigger.serialize()[1]["wait_for"]
    assert wait_for == {"dag": "deploy_shop", "run": "shop-1-before-1", "until": world.clock.now() + 600}


def test_cleared_task_finds_the_success_and_calls_nothing(world: World, airflow: Airflow) -> None:
    world.start()
    with pytest.raises(TaskDeferred):
        BEFORE.execute(context())
    airflow.states["shop-1-before-1"] = "success"
    assert "succeeded" in BEFORE.called(context(), {"reached": "success"})
    airflow.states.clear()  # even when somebody deleted the run
    assert "called before: success" in BEFORE.execute(context())
    assert len(airflow.started) == 1


def test_second_attempt_follows_a_failed_run_and_its_failure_rolls_back(world: World, airflow: Airflow) -> None:
    rollout = world.start().rollout
    with pytest.raises(TaskDeferred):
        BEFORE.execute(context())
    airflow.states["shop-1-before-1"] = "failed"
    with pytest.raises(TaskDeferred):
        BEFORE.called(context(), {"reached": "failed"})
    airflow.states["shop-1-before-1-try2"] = "failed"
    with pytest.raises(AirflowFailException, match="before: DAG deploy_shop failed"):
        BEFORE.called(context(), {"reached": "failed"})
    assert [run for _, run, _ in airflow.started] == ["shop-1-before-1", "shop-1-before-1-try2"]
    assert world.ledger.rollout(rollout.id).state is State.ROLLING_BACK


def test_canary_that_turned_bad_while_it_waited_ends_the_call(world: World, airflow: Airflow) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    task = CallHookOperator(task_id="before_step_1", moment="before_step", position=0, weight="100")
    with pytest.raises(TaskDeferred) as waits:
        task.execute(context())
    assert waits.value.trigger.serialize()[1]["watch"] is True
    world.desk.writer(world.release, actor="trigger").to_safe_side(
        "shop", rollout, safe=rollout.stable, other=rollout.canary, why="worse", patience=None
    )
    with pytest.raises(AirflowFailException):
        task.called(context(), {"over": "worse"})
    assert world.canary_percent == 0


def test_paused_dag_after_a_rollback_changes_nothing_but_the_log(
    world: World, airflow: Airflow, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout = world.start().rollout
    world.ledger.end(rollout, State.ROLLED_BACK, reason="worse", actor="task", at=world.clock.now())
    airflow.trouble = "the DAG deploy_shop is paused; unpause it"
    task = CallHookOperator(task_id="on_rollback_1", moment="on_rollback", position=0)
    assert task.execute(context()) == "FAILED, and the release goes on: the DAG deploy_shop is paused; unpause it"
    assert "is paused" in capsys.readouterr().out


def test_call_after_a_promotion_is_skipped_in_a_run_that_was_rolled_back(world: World, airflow: Airflow) -> None:
    rollout = world.start().rollout
    world.ledger.end(rollout, State.ROLLED_BACK, reason="worse", actor="task", at=world.clock.now())
    with pytest.raises(AirflowSkipException):
        CallHookOperator(task_id="after_1", moment="after", position=0).execute(context())
    assert airflow.started == []


def test_dry_run_calls_nothing_and_says_with_what_it_would(world: World, airflow: Airflow) -> None:
    world.start(dry_run=True)
    assert BEFORE.execute(context()) == "DRY RUN: would be called with {'version': 'v2'}"
    assert airflow.started == []

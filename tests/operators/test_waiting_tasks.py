"""The tasks that wait beside people and calendars: the watch, and a shift that the calendar does not allow yet."""

from dataclasses import replace
from pathlib import Path

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from canary_release.control.approving import put, take_answer
from canary_release.control.ending import roll_back
from canary_release.core.release import Calendar, Freeze
from canary_release.hooks.airflow_runs import AirflowUnreadableError
from canary_release.ledger.approvals import Answer, Person
from canary_release.operators import rollout_task
from canary_release.operators.end_release import OutcomeOperator
from canary_release.operators.shift_weight import ShiftWeightOperator
from canary_release.sensors import keep_watch_sensor
from canary_release.sensors.keep_watch_sensor import KeepWatchSensor
from control.test_approving import a_world, at_the_question
from control.world import World, a_release
from security.hostile import a_context

GRACE = Person("grace", "grace")
CONTEXT = a_context({}, run_id="shop-v2")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return a_world(tmp_path)


@pytest.fixture
def skipped(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    tasks: list[str] = []
    monkeypatch.setattr(keep_watch_sensor, "skip_in_this_run", tasks.extend)
    monkeypatch.setattr(KeepWatchSensor, "open_desk", lambda self: world.desk)
    return tasks


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is written into the notes of runs, where the connection for it is there."""
    written: dict[str, str] = {}

    class Runs:
        def set_note(self, dag_id: str, run_id: str, note: str) -> None:
            written[run_id] = note

    monkeypatch.setattr(rollout_task, "is_configured", lambda: True)
    monkeypatch.setattr(rollout_task, "AirflowRuns", Runs)
    return written


WATCH = KeepWatchSensor(task_id="watch_100", weight="100", approve_task="approve_100")


def test_watch_waits_for_the_answer_to_its_own_question(world: World, skipped: list[str]) -> None:
    at_the_question(world)
    with pytest.raises(TaskDeferred) as waits:
        WATCH.execute(CONTEXT)
    assert waits.value.trigger.serialize()[1]["wait_for"] == {"answer": 1}


def test_watch_of_an_answered_question_is_over(world: World, skipped: list[str]) -> None:
    rollout = at_the_question(world)
    put(world.desk, rollout, 1, approvers=("grace",), task_instance="ti", actor="task")
    take_answer(world.desk, rollout, 1, Answer.APPROVE, GRACE, "")
    assert WATCH.execute(CONTEXT) == "approve"
    assert WATCH.waited(CONTEXT, {"reached": "approve"}) == "approve"


def test_watch_that_saw_harm_is_red_and_takes_the_question_back(world: World, skipped: list[str]) -> None:
    rollout = at_the_question(world)
    put(world.desk, rollout, 1, approvers=("grace",), task_instance="ti", actor="task")
    with pytest.raises(AirflowFailException, match="worse"):
        WATCH.waited(CONTEXT, {"over": "worse"})
    assert skipped == ["approve_100"]


def test_watch_of_a_rejected_step_is_skipped_since_the_question_is_red(world: World, skipped: list[str]) -> None:
    rollout = at_the_question(world)
    put(world.desk, rollout, 1, approvers=("grace",), task_instance="ti", actor="task")
    take_answer(world.desk, rollout, 1, Answer.REJECT, GRACE, "no")
    with pytest.raises(AirflowSkipException, match="rejected by grace: no"):
        WATCH.waited(CONTEXT, {"over": "rejected"})
    assert skipped == []


def test_shift_in_a_freeze_waits_for_the_opening_and_then_asks_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: dict[str, str]
) -> None:
    world = World(tmp_path, a_release(5, 100, bake=8.0))
    now = world.clock.now()
    world.release = replace(world.release, calendar=Calendar(freezes=(Freeze(now + 1, now + 90_000, "sale"),)))
    monkeypatch.setattr(ShiftWeightOperator, "open_desk", lambda self: world.desk)
    rollout = world.start().rollout
    world.clock.sleep(2)
    task = ShiftWeightOperator(task_id="shift", weight="5")
    with pytest.raises(TaskDeferred) as waits:
        task.execute(CONTEXT)
    assert waits.value.trigger.serialize()[1]["wait_for"] == {"opening": True}
    assert "shop v2 waits before 5 %: releases are frozen until" in notes["shop-v2"]
    assert "(sale); it opens then." in notes["shop-v2"]
    assert (world.canary_percent, world.balancer.writes[1:]) == (0, [])
    assert world.ledger.rollout(rollout.id).deadline > now + 90_000
    with pytest.raises(TaskDeferred):  # whoever wakes it before the opening gains nothing
        task.opened(CONTEXT, {"reached": "open"})
    with pytest.raises(AirflowFailException, match="worse"):
        task.opened(CONTEXT, {"over": "worse"})


def test_outcome_stands_in_the_note_and_a_note_that_cannot_be_written_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, notes: dict[str, str]
) -> None:
    rollout = at_the_question(world)
    roll_back(world.desk, rollout, "customers call", actor="ada")
    monkeypatch.setattr(OutcomeOperator, "open_desk", lambda self: world.desk)
    task = OutcomeOperator(task_id="outcome")
    with pytest.raises(AirflowFailException, match="because customers call"):
        task.execute(CONTEXT)
    assert notes["shop-v2"].endswith("rolled back because customers call")

    def gone(*_: object) -> None:
        raise AirflowUnreadableError("Airflow does not answer")

    monkeypatch.setattr(rollout_task.AirflowRuns, "set_note", gone)
    with pytest.raises(AirflowFailException, match="because customers call"):
        task.execute(CONTEXT)

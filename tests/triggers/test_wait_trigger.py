"""The trigger that waits for people, openings and runs: what ends the wait, and that the canary comes first."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow._shared.module_loading import import_string

from canary_release.control.approving import put, take_answer
from canary_release.core.release import Calendar, Freeze
from canary_release.ledger.approvals import Answer, Person
from canary_release.ledger.records import Rollout
from canary_release.triggers import wait_trigger
from canary_release.triggers.wait_trigger import WaitFor, WaitTrigger
from control.test_approving import a_world, at_the_question
from control.world import GREEN, World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Each look is one second later in the world, whatever the real clock says."""
    made = a_world(tmp_path)
    monkeypatch.setattr(wait_trigger, "open_desk", lambda: made.desk)
    monkeypatch.setattr(wait_trigger, "EARLIEST_EVENT_SECONDS", 0.0)
    return made


def passing_time(world: World) -> None:
    read = world.metrics.read

    def one_second_later(cursor: Any) -> Any:
        world.clock.sleep(1)
        return read(cursor)

    world.metrics.read = one_second_later  # type: ignore[method-assign]


def fire(world: World, rollout: Rollout, wait_for: WaitFor, **changes: bool) -> dict[str, str]:
    async def first() -> dict[str, str]:
        async for event in WaitTrigger(rollout.id, 0.01, wait_for, **changes).run():
            return dict(event.payload)
        raise AssertionError("the trigger ended without an event")

    return asyncio.run(asyncio.wait_for(first(), 30))


def test_trigger_comes_back_the_same_from_its_serialised_form() -> None:
    path, kwargs = WaitTrigger("shop-1", 10.0, {"dag": "d", "run": "r", "until": 5.0}, watch=False).serialize()
    again = import_string(path)(**kwargs)
    assert isinstance(again, WaitTrigger)
    assert again.serialize() == (path, kwargs)


def test_answer_ends_the_wait(world: World) -> None:
    rollout = at_the_question(world)
    put(world.desk, rollout, 1, approvers=("grace",), task_instance="ti", actor="task")
    take_answer(world.desk, rollout, 1, Answer.APPROVE, Person("grace", "grace"), "")
    assert fire(world, rollout, {"answer": 1}) == {"reached": "approve"}


def test_canary_that_turns_bad_ends_the_wait_when_it_is_off(world: World) -> None:
    rollout = at_the_question(world)
    world.metrics.error_rate[GREEN] = 0.5
    passing_time(world)
    event = fire(world, rollout, {"answer": 1})
    assert "error_rate" in event["over"]
    assert world.canary_percent == 0


def test_opening_ends_the_wait_at_its_instant(world: World) -> None:
    now = world.clock.now()
    world.release = replace(world.release, calendar=Calendar(freezes=(Freeze(now, now + 15, "sale"),)))
    world.desk = world.new_desk()
    rollout = _begun_before(world, now)
    passing_time(world)
    assert fire(world, rollout, {"opening": True}) == {"reached": "open"}
    assert now + 15 <= world.clock.now() <= now + 17


def _begun_before(world: World, now: float) -> Rollout:
    world.clock.at = now - 10
    rollout = at_the_question(world)
    world.clock.at = max(world.clock.at, now)
    return rollout


@pytest.mark.parametrize("state", ["success", "failed"])
def test_run_that_is_over_ends_the_wait(world: World, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    rollout = at_the_question(world)
    states = iter(["queued", "running", state])
    monkeypatch.setattr(wait_trigger, "run_state", lambda dag, run: next(states))
    passing_time(world)
    assert fire(world, rollout, {"dag": "deploy", "run": "r", "until": float("inf")}) == {"reached": state}


def test_run_that_is_late_ends_the_wait_at_its_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = at_the_question(world)
    monkeypatch.setattr(wait_trigger, "run_state", lambda dag, run: "running")
    passing_time(world)
    until = world.clock.now() + 5
    assert fire(world, rollout, {"dag": "deploy", "run": "r", "until": until}) == {"reached": "timeout"}


def test_after_the_end_nothing_is_watched_any_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = at_the_question(world)
    world.metrics.down = True
    monkeypatch.setattr(wait_trigger, "run_state", lambda dag, run: "success")
    assert fire(world, rollout, {"dag": "tell", "run": "r"}, watch=False) == {"reached": "success"}

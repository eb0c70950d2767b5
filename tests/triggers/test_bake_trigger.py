"""The bake's trigger without an Airflow around it: what it keeps, when it fires, what it does before it fires."""

import asyncio
import time
from pathlib import Path

import pytest
from airflow._shared.module_loading import import_string
from airflow.triggers.base import TriggerEvent

from canary_release.control.stepping import shift
from canary_release.triggers import bake_trigger
from canary_release.triggers.bake_trigger import BakeTrigger
from control.world import GREEN, World, a_release


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Each look of the trigger is one second later in the world, whatever the real clock says."""
    made = World(tmp_path, a_release(bake=5.0))

    def desk() -> object:
        made.metrics.rate = 1000
        return made.desk

    monkeypatch.setattr(bake_trigger, "open_desk", desk)
    read = made.metrics.read

    def one_second_later(cursor: object) -> object:
        made.clock.sleep(1)
        return read(cursor)  # type: ignore[arg-type]

    made.metrics.read = one_second_later  # type: ignore[method-assign,assignment]
    return made


def fire(trigger: BakeTrigger) -> TriggerEvent:
    async def first() -> TriggerEvent:
        async for event in trigger.run():
            return event
        raise AssertionError("the trigger ended without an event")

    return asyncio.run(first())


def test_trigger_comes_back_the_same_from_its_serialised_form() -> None:
    path, kwargs = BakeTrigger("shop-1", 2, 10.0).serialize()
    again = import_string(path)(**kwargs)
    assert isinstance(again, BakeTrigger)
    assert again.serialize() == (path, kwargs)


def test_bad_canary_is_off_before_the_event_which_comes_no_sooner_than_ten_seconds(world: World) -> None:
    world.metrics.error_rate[GREEN] = 0.5
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    off_at: list[float] = []
    really = world.balancer.set_weights

    def noting(weights: object) -> None:
        really(weights)  # type: ignore[arg-type]
        off_at.append(time.monotonic())

    world.balancer.set_weights = noting  # type: ignore[method-assign,assignment]
    began = time.monotonic()
    event = fire(BakeTrigger(rollout.id, 0, poll=0.01))
    assert event.payload["decision"] == "roll_back"
    assert world.canary_percent == 0
    assert off_at[0] - began < 5, "the traffic does not wait for Airflow"
    assert time.monotonic() - began >= bake_trigger.EARLIEST_EVENT_SECONDS


def test_restarted_trigger_finds_what_was_decided_and_counts_nothing_twice(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bake_trigger, "EARLIEST_EVENT_SECONDS", 0.0)
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    first = fire(BakeTrigger(rollout.id, 0, poll=0.01))
    windows = world.ledger.windows(rollout.id)
    again = fire(BakeTrigger(rollout.id, 0, poll=0.01))
    assert first.payload == again.payload
    assert world.ledger.windows(rollout.id) == windows


def test_aborted_rollout_ends_its_watch(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from canary_release.control.ending import abort

    monkeypatch.setattr(bake_trigger, "EARLIEST_EVENT_SECONDS", 0.0)
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    abort(world.desk, "shop", "enough", actor="grace")
    event = fire(BakeTrigger(rollout.id, 0, poll=0.01))
    assert event.payload["decision"] == "roll_back"
    assert "enough" in event.payload["reason"]

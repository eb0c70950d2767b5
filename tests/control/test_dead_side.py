"""The guardian does not give everything to a side that is proved dead; whatever is not proved it gives back."""

from pathlib import Path

import pytest

from canary_release.control.ending import abort
from canary_release.control.guardian import Finding, Guardian, Kind
from canary_release.control.stepping import observe, shift
from canary_release.core.values import Cursor, Window
from canary_release.ledger.records import Rollout
from control.world import BLUE, GREEN, World, WorldBalancer, a_release

WEIGHT = 25
LONG_AFTER_THE_LEASE = 100.0


class LeasingWorldBalancer(WorldBalancer):
    def renew_lease(self, until: float, safe: str) -> None: ...

    def end_lease(self, safe: str) -> None: ...


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, a_release(WEIGHT, 100, bake=300.0, early_promotion=False))


def abandoned(world: World, *, stable_fails: float, canary_fails: float = 0.0) -> Rollout:
    """A rollout that was watched while its sides failed like this, and that nobody watches any more."""
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.metrics.error_rate.update({BLUE: stable_fails, GREEN: canary_fails})
    world.clock.sleep(2.0)
    observe(world.desk, rollout.id, 0, actor="trigger")
    world.clock.sleep(LONG_AFTER_THE_LEASE)
    return rollout


def tick(world: World) -> list[Finding]:
    return Guardian(world.new_desk, name="test").tick()


def test_canary_is_held_and_somebody_woken_while_the_stable_side_is_dead(world: World) -> None:
    abandoned(world, stable_fails=1.0)
    woken: list[str] = []
    desk = world.new_desk()
    desk.page = lambda service, sentence: woken.append(sentence)
    (held,) = Guardian(lambda: desk, name="test").tick()
    assert (held.kind, held.safe, world.canary_percent) == (Kind.HELD, False, WEIGHT)
    assert "its lease ran out" in held.sentence
    assert f"{BLUE} failed" in held.sentence
    assert "canary abort shop" in held.sentence
    assert woken == [held.sentence]


def test_it_goes_back_once_the_stable_side_lives_again(world: World) -> None:
    abandoned(world, stable_fails=1.0)
    guardian = Guardian(world.new_desk, name="test")
    assert [finding.kind for finding in guardian.tick()] == [Kind.HELD]
    world.metrics.error_rate[BLUE] = 0.002
    world.clock.sleep(60.0)
    assert [finding.kind for finding in guardian.tick()] == [Kind.TAKEN_OFF]
    assert world.canary_percent == 0


def test_abort_is_obeyed_whatever_is_dead(world: World) -> None:
    abandoned(world, stable_fails=1.0)
    abort(world.desk, "shop", "I know", actor="grace")
    assert world.canary_percent == 0
    assert tick(world) == []


@pytest.mark.parametrize(("stable_fails", "canary_fails"), [(0.5, 0.0), (1.0, 0.9), (0.002, 0.002)])
def test_stable_that_still_answers_or_a_canary_that_does_not_is_no_reason_to_wait(
    world: World, stable_fails: float, canary_fails: float
) -> None:
    abandoned(world, stable_fails=stable_fails, canary_fails=canary_fails)
    assert [finding.kind for finding in tick(world)] == [Kind.TAKEN_OFF]
    assert world.canary_percent == 0


def test_nothing_is_proved_by_metrics_that_cannot_be_read_now(world: World) -> None:
    abandoned(world, stable_fails=1.0)
    world.metrics.down = True
    assert [finding.kind for finding in tick(world)] == [Kind.TAKEN_OFF]


def test_metrics_are_not_asked_where_the_record_says_that_stable_lives(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned(world, stable_fails=0.002)

    def asked(cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        raise AssertionError("a rollback waits for no metrics")

    monkeypatch.setattr(world.metrics, "read", asked)
    assert [finding.kind for finding in tick(world)] == [Kind.TAKEN_OFF]


def test_lease_that_the_balancer_itself_has_ended_is_recorded_as_ever(world: World) -> None:
    world.balancer = LeasingWorldBalancer()
    world.metrics.balancer = world.balancer
    abandoned(world, stable_fails=1.0)
    assert [finding.kind for finding in tick(world)] == [Kind.TAKEN_OFF]


def test_metrics_that_fail_in_an_unknown_way_keep_no_canary_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned(world, stable_fails=1.0)

    def broken(cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        raise ZeroDivisionError

    monkeypatch.setattr(world.metrics, "read", broken)
    assert [finding.kind for finding in tick(world)] == [Kind.TAKEN_OFF]

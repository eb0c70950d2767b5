"""The way back after a promotion: one action, while the old side is kept and nobody else is at it."""

import threading
from pathlib import Path

import pytest

from canary_release.control.guardian import Guardian
from canary_release.control.returning import return_to_old
from canary_release.control.stepping import shift
from canary_release.core.problems import LoadBalancerError, RefusedError
from canary_release.core.values import Weights
from canary_release.ledger.records import State
from control.test_rollout import release
from control.world import BLUE, GREEN, World, a_release


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, a_release(5, 100, bake=8.0, keep_old_for=3600.0))


def test_everything_returns_to_the_old_side_at_once_and_the_ledger_says_who_and_why(world: World) -> None:
    rollout_id = release(world)
    assert world.canary_percent == 100
    ended = return_to_old(world.new_desk(), "shop", "customers call", "grace")
    assert (world.canary_percent, world.balancer.weights[BLUE]) == (0, 100)
    assert (ended.rollout.state, ended.rollout.safe_side) == (State.ROLLED_BACK, BLUE)
    assert ended.rollout.outcome_reason == "returned to unknown by grace: customers call"
    events = [entry.event for entry in world.ledger.audit_trail(rollout_id=rollout_id)]
    assert events[-1] == "returned"
    assert "returning" in events
    assert world.ledger.verify_audit()[1] == []


def test_next_release_starts_from_the_side_that_was_returned_to(world: World) -> None:
    release(world)
    return_to_old(world.desk, "shop", "", "grace")
    again = world.start("v3").rollout
    assert (again.stable, again.old_version) == (BLUE, "unknown")


def test_return_is_refused_once_the_old_side_is_no_longer_kept(world: World) -> None:
    release(world)
    world.clock.sleep(3601)
    with pytest.raises(RefusedError, match="the old side of shop-1 was kept until 1 s ago"):
        return_to_old(world.desk, "shop", "", "grace")
    assert world.canary_percent == 100


def test_return_is_refused_where_the_release_file_keeps_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, a_release(5, 100, bake=8.0))
    release(world)
    with pytest.raises(RefusedError, match="kept no old side: its release file has no keep_old_for"):
        return_to_old(world.desk, "shop", "", "grace")


def test_return_is_refused_while_another_rollout_runs(world: World) -> None:
    release(world)
    world.start("v3")
    with pytest.raises(RefusedError, match="shop is busy: shop-2"):
        return_to_old(world.desk, "shop", "", "grace")
    assert world.canary_percent == 100


def test_return_is_refused_after_another_rollout_even_when_that_ended(world: World) -> None:
    release(world)
    second = world.start("v3").rollout
    world.ledger.end(second, State.ROLLED_BACK, reason="smells", actor="ada", at=world.clock.now())
    with pytest.raises(RefusedError, match=r"shop-2 is rolled_back \(smells\): there is no promotion"):
        return_to_old(world.desk, "shop", "", "grace")


def test_dry_run_since_then_is_in_nobodys_way(world: World) -> None:
    release(world)
    world.start("v3", dry_run=True)
    return_to_old(world.desk, "shop", "", "grace")
    assert world.canary_percent == 0


def test_second_return_is_refused(world: World) -> None:
    release(world)
    return_to_old(world.desk, "shop", "", "grace")
    with pytest.raises(RefusedError, match="there is no promotion to take back"):
        return_to_old(world.desk, "shop", "", "eve")


def test_return_of_an_unknown_service_lists_the_known_ones(world: World) -> None:
    world.start()
    with pytest.raises(RefusedError, match="it knows: shop"):
        return_to_old(world.desk, "shpo", "", "grace")


def test_return_holds_the_service_until_everything_is_there(world: World) -> None:
    release(world)

    def busy_meanwhile(weights: Weights) -> bool:
        with pytest.raises(RefusedError, match="shop is busy"):
            world.start("v3")
        return True

    world.balancer.fault = busy_meanwhile
    return_to_old(world.desk, "shop", "", "grace")
    world.balancer.fault = lambda weights: True
    world.start("v3")


def test_return_that_died_halfway_is_finished_by_the_guardian(world: World) -> None:
    rollout_id = release(world)

    def refuse(weights: Weights) -> bool:
        raise LoadBalancerError("503")

    world.balancer.fault = refuse
    with pytest.raises(LoadBalancerError):
        return_to_old(world.desk, "shop", "", "grace", patience=5.0)
    assert world.ledger.rollout(rollout_id).state is State.ROLLING_BACK
    world.balancer.fault = lambda weights: True
    world.clock.sleep(120)
    Guardian(world.new_desk, name="test", run_state=None).tick()
    assert (world.canary_percent, world.ledger.rollout(rollout_id).state) == (0, State.ROLLED_BACK)


def test_old_run_can_raise_nothing_after_the_return(world: World) -> None:
    rollout_id = release(world)
    before = world.ledger.rollout(rollout_id)
    return_to_old(world.desk, "shop", "", "grace")
    with pytest.raises(RefusedError):
        shift(world.desk, before, 1, actor="cleared task")
    assert world.canary_percent == 0


def test_of_return_and_new_release_at_the_same_time_only_one_goes(world: World) -> None:
    release(world)
    gate, done = threading.Barrier(2), list[str]()

    def act(name: str) -> None:
        gate.wait()
        try:
            if name == "return":
                return_to_old(world.new_desk(), "shop", "", "grace")
            else:
                world.start("v3")
            done.append(name)
        except RefusedError:
            pass

    threads = [threading.Thread(target=act, args=(name,)) for name in ("return", "start")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done in (["return"], ["start"], ["return", "start"]), "the start may also come right behind the return"
    active = world.ledger.active("shop")
    assert (active is not None) == ("start" in done)
    assert world.balancer.weights[GREEN] == (0 if "return" in done else 100)

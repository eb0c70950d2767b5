"""Whole rollouts through the control part, as a task, a trigger and a person would drive them."""

from decimal import Decimal
from pathlib import Path

import pytest

from canary_release.control.desk import plan_of
from canary_release.control.ending import abort, promote, roll_back, settle
from canary_release.control.stepping import Observed, observe, shift
from canary_release.core.problems import CanaryError, LoadBalancerError, RefusedError
from canary_release.core.values import Decision, Weights
from canary_release.ledger.records import State
from control.world import BLUE, GREEN, World, a_release


def bake(world: World, rollout_id: str, index: int, *, looks: int = 400) -> Observed:
    """Look once a second until something other than hold is decided."""
    for _ in range(looks):
        world.clock.sleep(1)
        seen = observe(world.desk, rollout_id, index, actor="trigger")
        if seen.decision is not Decision.HOLD:
            return seen
    raise AssertionError(f"still on hold after {looks} looks: {seen.reason}")


def release(world: World, version: str = "v2") -> str:
    """Take a rollout as far as its evidence lets it, and end it; returns its id."""
    rollout = world.start(version).rollout
    for index in range(len(plan_of(rollout).weight_steps)):
        shift(world.desk, world.ledger.rollout(rollout.id), index, actor="task")
        seen = bake(world, rollout.id, index)
        if seen.decision is Decision.ROLL_BACK:
            roll_back(world.desk, rollout, seen.reason, actor="task")
            return rollout.id
    promote(world.desk, world.ledger.rollout(rollout.id), actor="task")
    return rollout.id


def test_good_version_is_promoted_and_the_sides_have_swapped(world: World) -> None:
    done = world.ledger.rollout(release(world))
    assert done.state is State.PROMOTED
    assert world.balancer.weights == Weights({BLUE: Decimal(0), GREEN: Decimal(100)})
    again = world.start("v3")
    assert (again.rollout.stable, again.rollout.canary, again.rollout.old_version) == (GREEN, BLUE, "v2")


def test_bad_version_is_taken_off_by_the_look_that_saw_it(world: World) -> None:
    world.metrics.error_rate[GREEN] = 0.3
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    seen = bake(world, rollout.id, 0)
    assert seen.decision is Decision.ROLL_BACK
    assert seen.lowered is not None
    assert world.canary_percent == 0
    assert world.ledger.rollout(rollout.id).state is State.ROLLING_BACK


def test_weights_only_rise_as_far_as_the_plan_says(world: World) -> None:
    release(world)
    assert [write[GREEN] for write in world.balancer.writes] == [0, 1, 5, 25, 100, 100]


def test_every_write_has_an_intent_before_and_a_read_back_after(world: World) -> None:
    rollout_id = release(world)
    writes = world.ledger.writes(rollout_id)
    assert [write.asked for write in writes] == world.balancer.writes[1:], "all but the trial of the way back"
    assert all(write.read_back == write.asked for write in writes)


def test_second_start_is_refused_with_who_holds_the_service(world: World) -> None:
    world.start("v2")
    with pytest.raises(RefusedError, match=r"shop is busy: shop-1 \(version v2, run shop-v2, started by ada\)"):
        world.start("v3")


def test_start_that_is_run_again_finds_its_own_rollout(world: World) -> None:
    first = world.start("v2").rollout
    assert world.start("v2").rollout == first


def test_start_of_a_finished_run_is_refused(world: World) -> None:
    release(world)
    with pytest.raises(RefusedError, match="trigger a new run"):
        world.start("v2")


def test_start_is_refused_while_the_traffic_is_split(world: World) -> None:
    world.balancer.weights = Weights({BLUE: Decimal(95), GREEN: Decimal(5)})
    with pytest.raises(RefusedError, match="canary abort shop"):
        world.start()
    assert world.balancer.writes == []


def test_start_that_cannot_write_frees_the_service_again(world: World) -> None:
    def refuse(weights: Weights) -> bool:
        raise LoadBalancerError("403 Forbidden")

    world.balancer.fault = refuse
    with pytest.raises(LoadBalancerError, match="403"):
        world.start()
    assert world.ledger.active("shop") is None


def test_start_with_unreadable_metrics_exposes_nobody(world: World) -> None:
    world.metrics.down = True
    with pytest.raises(CanaryError, match="does not answer"):
        world.start()
    assert world.balancer.writes == []


def test_dry_run_writes_nothing_and_holds_nothing(world: World) -> None:
    started = world.start("v2", dry_run=True)
    assert started.rollout.state is State.DRY_RUN
    assert world.balancer.writes == []
    with pytest.raises(RefusedError, match="dry run"):
        shift(world.desk, started.rollout, 0, actor="task")
    world.start("v3")


def test_next_step_without_evidence_is_refused(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    with pytest.raises(RefusedError, match="needs the decision to advance"):
        shift(world.desk, world.ledger.rollout(rollout.id), 1, actor="forged")
    assert world.canary_percent == 1


def test_promotion_without_evidence_is_refused(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    with pytest.raises(RefusedError, match="cannot be promoted"):
        promote(world.desk, world.ledger.rollout(rollout.id), actor="forged")


def test_shifting_twice_writes_once(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    writes = len(world.balancer.writes)
    assert shift(world.desk, world.ledger.rollout(rollout.id), 0, actor="task again").written is None
    assert len(world.balancer.writes) == writes


def test_balancer_that_says_yes_and_does_nothing_stops_the_step(world: World) -> None:
    rollout = world.start().rollout
    world.balancer.fault = lambda weights: weights[GREEN] == 0
    with pytest.raises(LoadBalancerError, match="still says"):
        shift(world.desk, rollout, 0, actor="task")
    assert world.ledger.rollout(rollout.id).state is State.ROLLING_BACK


def test_somebody_elses_change_is_noticed_before_the_next_raise(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    bake(world, rollout.id, 0)
    world.balancer.weights = Weights({BLUE: Decimal(50), GREEN: Decimal(50)})
    with pytest.raises(RefusedError, match="somebody else moved the weights"):
        shift(world.desk, world.ledger.rollout(rollout.id), 1, actor="task")


def test_canary_with_no_traffic_is_never_promoted(tmp_path: Path) -> None:
    world = World(tmp_path, a_release(max_no_data=60.0))
    world.metrics.rate = 0
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    seen = bake(world, rollout.id, 0, looks=100)
    assert seen.decision is Decision.ROLL_BACK
    assert "without usable data for 60 s" in seen.reason


def test_blind_watcher_does_not_keep_a_canary_alive(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.metrics.down = True
    seen = bake(world, rollout.id, 0)
    assert seen.decision is Decision.ROLL_BACK
    assert world.canary_percent == 0


def test_watcher_that_comes_back_too_late_may_not_go_on(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.clock.sleep(60)
    assert observe(world.desk, rollout.id, 0, actor="trigger").decision is Decision.ROLL_BACK
    assert world.canary_percent == 0


def test_rollback_goes_on_until_the_balancer_obeys(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    left = iter(range(20))

    def refuse_for_a_while(weights: Weights) -> bool:
        if next(left, None) is not None:
            raise LoadBalancerError("500")
        return True

    world.balancer.fault = refuse_for_a_while
    ended = roll_back(world.desk, rollout, "test", actor="task")
    assert ended.written is not None
    assert ended.written.attempts == 21
    assert world.canary_percent == 0


def test_rollback_while_promoting_keeps_the_new_version(world: World) -> None:
    rollout = world.start().rollout
    for index in range(4):
        shift(world.desk, world.ledger.rollout(rollout.id), index, actor="task")
        bake(world, rollout.id, index)
    world.ledger.commit_promotion(world.ledger.rollout(rollout.id), actor="task", at=world.clock.now())
    ended = settle(world.desk, rollout, actor="teardown")
    assert ended is not None
    assert ended.rollout.state is State.PROMOTED
    assert world.canary_percent == 100


def test_teardown_takes_off_what_the_run_left_standing(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    ended = settle(world.desk, rollout, actor="teardown")
    assert ended is not None
    assert (ended.rollout.state, world.canary_percent) == (State.ROLLED_BACK, 0)
    assert settle(world.desk, rollout, actor="teardown") is None


def test_abort_takes_the_canary_off_and_bars_the_run(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    abort(world.new_desk(), "shop", "smells", actor="grace")
    assert world.canary_percent == 0
    with pytest.raises(RefusedError, match="aborted by grace: smells"):
        shift(world.desk, rollout, 0, actor="task")


def test_abort_without_a_rollout_changes_nothing(world: World) -> None:
    release(world)
    writes = list(world.balancer.writes)
    assert abort(world.desk, "shop", "", actor="grace").written is None
    assert world.balancer.writes == writes


def test_abort_mends_a_weight_without_a_rollout(world: World) -> None:
    release(world)
    world.balancer.weights = Weights({BLUE: Decimal(10), GREEN: Decimal(90)})
    assert abort(world.desk, "shop", "", actor="grace").written is not None
    assert world.canary_percent == 100


def test_abort_of_an_unknown_service_lists_the_known_ones(world: World) -> None:
    world.start()
    with pytest.raises(RefusedError, match="it knows: shop"):
        abort(world.desk, "shpo", "", actor="grace")


def test_two_watchers_never_count_a_window_twice(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.clock.sleep(1)
    before = world.ledger.rollout(rollout.id)
    windows, cursor = world.metrics.read(before.cursor)
    placed = [windows[0].placed(index=0, step=0, weight=0.01)]
    assert world.ledger.store_windows(before, placed, cursor=cursor, lease_until=None)
    assert not world.ledger.store_windows(before, placed, cursor=cursor, lease_until=None)
    assert world.ledger.windows(rollout.id) == placed


def test_canary_is_taken_off_even_when_the_ledger_cannot_be_written(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.ledger.close()
    world.ledger._engine.dispose()
    with world.ledger._engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE observations")
        connection.exec_driver_sql("DROP TABLE intents")
    roll_back_written = world.desk.writer(world.release, actor="guardian").to_safe_side(
        "shop", rollout, safe=BLUE, other=GREEN, why="test", patience=None
    )
    assert roll_back_written.read_back[GREEN] == 0

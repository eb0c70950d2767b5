"""The calendar in a rollout: a start is refused or waits, a raise waits, taking traffic away never does."""

from dataclasses import replace
from pathlib import Path

import pytest

from canary_release.control.desk import plan_of
from canary_release.control.ending import abort, promote, roll_back
from canary_release.control.opening import ClosedError, allow_time, raise_closed
from canary_release.control.stepping import shift
from canary_release.control.waiting import Waiting
from canary_release.core.problems import MetricSourceError
from canary_release.core.release import Calendar, Freeze, ReleaseWindow
from canary_release.core.values import Decision
from canary_release.ledger.records import State
from control.test_rollout import bake
from control.world import GREEN, World, a_release

NOW = 1_800_000_000.0  # the world's clock; a Friday, 08:00 UTC
STOCKTAKING = Freeze(NOW + 5, NOW + 3600, "stocktaking")


def a_world(folder: Path, calendar: Calendar, **changes: object) -> World:
    return World(folder, a_release(5, 100, bake=8.0, calendar=calendar, **changes))


def test_start_in_a_freeze_is_refused_with_until_when_and_why(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(freezes=(replace(STOCKTAKING, start=NOW - 5),)))
    with pytest.raises(
        ClosedError, match=r"shop: releases are frozen until fri .* \(stocktaking\); it opens then"
    ) as no:
        world.start()
    assert no.value.closed.until == NOW + 3600
    assert world.ledger.active("shop") is None
    assert world.balancer.writes == []
    world.clock.sleep(3600)
    world.start()


def test_override_starts_in_a_freeze_and_its_reason_stays_in_the_audit_trail(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(freezes=(replace(STOCKTAKING, start=NOW - 5),)))
    rollout = world.start(override="the shop is down").rollout
    (entry,) = [one for one in world.ledger.audit_trail(rollout_id=rollout.id) if one.event == "overrode"]
    assert (entry.actor, entry.detail["reason"]) == ("ada", "the shop is down")
    assert "stocktaking" in entry.detail["closed"]
    shift(world.desk, rollout, 0, actor="task")
    assert world.canary_percent == 5


def test_raise_that_would_begin_in_a_freeze_waits_and_the_canary_stays_watched(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(freezes=(STOCKTAKING,)))
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    bake(world, rollout.id, 0)
    with pytest.raises(ClosedError, match="The canary is not raised to 100 % before that") as closed:
        shift(world.desk, world.ledger.rollout(rollout.id), 1, actor="task")
    assert (world.canary_percent, world.ledger.rollout(rollout.id).state) == (5, State.RUNNING)
    allow_time(world.desk, rollout, 1, closed.value.closed.until)
    waiting = Waiting(world.desk, rollout.id, actor="wait")
    for _ in range(10):
        world.clock.sleep(10)
        assert waiting.look() is None
    assert raise_closed(world.desk, world.ledger.rollout(rollout.id)) is not None
    world.metrics.error_rate[GREEN] = 0.5
    for _ in range(10):
        world.clock.sleep(1)
        waiting.look()
    assert world.canary_percent == 0


def test_rollout_that_waits_for_its_window_gets_time_for_what_is_left(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(freezes=(replace(STOCKTAKING, end=NOW + 90_000),)))
    rollout = world.start().rollout
    assert rollout.deadline < NOW + 90_000
    allow_time(world.desk, rollout, 1, NOW + 90_000)
    assert world.ledger.rollout(rollout.id).deadline >= NOW + 90_000 + plan_of(rollout).longest_seconds
    allow_time(world.desk, rollout, 1, NOW + 10)
    assert world.ledger.rollout(rollout.id).deadline > NOW + 90_000, "asking again shortens nothing"


def test_step_that_has_begun_goes_on_in_a_freeze(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(freezes=(STOCKTAKING,)))
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.clock.sleep(6)
    assert shift(world.desk, world.ledger.rollout(rollout.id), 0, actor="task again").written is None
    assert bake(world, rollout.id, 0).decision is Decision.ADVANCE


def test_allow_finish_raises_in_a_freeze(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(freezes=(STOCKTAKING,), allow_finish=True))
    rollout = world.start().rollout
    for index in range(2):
        shift(world.desk, world.ledger.rollout(rollout.id), index, actor="task")
        bake(world, rollout.id, index)
    assert promote(world.desk, world.ledger.rollout(rollout.id), actor="task").rollout.state is State.PROMOTED


def test_taking_traffic_away_is_never_held_back(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(freezes=(STOCKTAKING,)))
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.metrics.error_rate[GREEN] = 0.5
    assert bake(world, rollout.id, 0).decision is Decision.ROLL_BACK
    assert world.clock.now() < STOCKTAKING.end
    assert world.canary_percent == 0
    abort(world.desk, "shop", "", actor="grace")


def test_cooldown_after_a_rollback_names_until_when_and_what_was_rolled_back(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(cooldown=1800.0))
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    roll_back(world.desk, rollout, "smells", actor="grace")
    with pytest.raises(ClosedError, match="shop-1 was rolled back, and the cooldown is 30m; it opens next on"):
        world.start("v3")
    world.start("v3", override="v3 mends it", run_id="mended")
    world.ledger.end(world.ledger.active("shop") or rollout, State.ROLLED_BACK, reason="", actor="", at=NOW)
    world.clock.sleep(1800)
    world.start("v4")


def test_start_that_was_refused_before_the_first_user_cools_nothing_down(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(cooldown=1800.0))
    world.metrics.down = True
    with pytest.raises(MetricSourceError, match="does not answer"):
        world.start("v2")
    world.metrics.down = False
    world.start("v3")


def test_cooldown_that_ends_outside_the_window_lasts_until_it_opens(tmp_path: Path) -> None:
    morning = ReleaseWindow((0, 1, 2, 3, 4, 5, 6), 7 * 60, 8 * 60 + 10, "UTC")
    world = a_world(tmp_path, Calendar(windows=(morning,), cooldown=1800.0))
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    roll_back(world.desk, rollout, "smells", actor="grace")
    with pytest.raises(ClosedError) as closed:
        world.start("v3")
    assert closed.value.closed.until == NOW - NOW % 86400 + 86400 + 7 * 3600


def test_dry_run_in_a_freeze_says_what_a_start_would_meet(tmp_path: Path) -> None:
    world = a_world(tmp_path, Calendar(freezes=(replace(STOCKTAKING, start=NOW - 5),)))
    started = world.start(dry_run=True)
    assert started.closed is not None
    assert "stocktaking" in started.closed.sentence
    assert world.ledger.active("shop") is None


def test_bake_that_must_contain_the_peak_goes_on_until_it_has_seen_it(tmp_path: Path) -> None:
    peak = ReleaseWindow((0, 1, 2, 3, 4, 5, 6), 8 * 60 + 1, 8 * 60 + 2, "UTC")
    world = a_world(tmp_path, Calendar(peak=peak))
    steps = tuple(replace(step, must_contain_peak=True) for step in world.release.steps)
    world.release = replace(world.release, steps=steps)  # type: ignore[arg-type]
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    seen = bake(world, rollout.id, 0)
    assert seen.decision is Decision.ADVANCE
    # Nine tenths of the minute from 08:01 on.
    assert NOW + 60 + 53 <= world.clock.now() <= NOW + 60 + 56

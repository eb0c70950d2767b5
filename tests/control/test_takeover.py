"""When others act at the same time: somebody moves the weights, takes over, or takes the ledger away."""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest

from canary_release.control.ending import abort, promote, roll_back
from canary_release.control.guardian import Guardian
from canary_release.control.stepping import observe, shift
from canary_release.control.watching import Watcher
from canary_release.core.problems import LedgerError, LoadBalancerError, RefusedError
from canary_release.core.values import FULL, NONE, Decision, Weights
from canary_release.ledger.records import State
from control.test_rollout import bake
from control.world import BLUE, GREEN, World, WorldBalancer, a_release


def exposed(world: World) -> str:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.clock.sleep(1)
    observe(world.desk, rollout.id, 0, actor="trigger")
    return rollout.id


# --- drift


def test_drift_holds_the_rollout_and_wakes_somebody_once(world: World) -> None:
    pages: list[str] = []
    world.desk.page = lambda service, sentence: pages.append(sentence)
    rollout_id = exposed(world)
    world.balancer.weights = Weights({BLUE: Decimal(50), GREEN: Decimal(50)})
    writes = len(world.balancer.writes)
    for _ in range(40):
        world.clock.sleep(1)
        seen = observe(world.desk, rollout_id, 0, actor="trigger")
        assert seen.decision is Decision.HOLD
    assert "somebody else moved the weights" in seen.reason
    assert len(world.balancer.writes) == writes, "it never fights"
    assert len(pages) == 1


def test_drift_never_holds_a_rollback_back(world: World) -> None:
    rollout_id = exposed(world)
    world.balancer.weights = Weights({BLUE: Decimal(50), GREEN: Decimal(50)})
    world.metrics.error_rate[GREEN] = 0.3
    assert bake(world, rollout_id, 0).decision is Decision.ROLL_BACK
    assert world.canary_percent == 0


def test_drift_is_repaired_once_and_then_held(tmp_path: Path) -> None:
    world = World(tmp_path, a_release(drift="repair"))
    rollout_id = exposed(world)
    for _ in range(3):
        world.balancer.weights = Weights({BLUE: Decimal(50), GREEN: Decimal(50)})
        world.clock.sleep(1)
        observe(world.desk, rollout_id, 0, actor="trigger")
    assert [write.why for write in world.ledger.writes(rollout_id)].count("repair of somebody else's change") == 1
    assert world.canary_percent == 50


def test_adopted_drift_goes_on_with_the_plan(tmp_path: Path) -> None:
    world = World(tmp_path, a_release(drift="adopt"))
    rollout_id = exposed(world)
    world.balancer.weights = Weights({BLUE: Decimal(97), GREEN: Decimal(3)})
    assert bake(world, rollout_id, 0).decision is Decision.ADVANCE
    shift(world.desk, world.ledger.rollout(rollout_id), 1, actor="task")
    assert world.canary_percent == 5


# --- two at once


def test_raise_that_overtook_an_abort_takes_itself_back(world: World) -> None:
    rollout = world.start().rollout

    def abort_in_between(weights: Weights) -> bool:
        if weights[GREEN] > 0:
            world.balancer.fault = lambda _: True
            abort(world.new_desk(), "shop", "now", actor="grace")
        return True

    world.balancer.fault = abort_in_between
    with pytest.raises(RefusedError, match="aborted by grace"):
        shift(world.desk, rollout, 0, actor="slow task")
    assert world.canary_percent == 0


def test_process_that_slept_between_intent_and_write_writes_nothing(world: World) -> None:
    rollout = world.start().rollout
    really = world.ledger.may_stand
    asleep = iter([True])

    def sleep_first(*arguments: object, **named: object) -> None:
        if next(asleep, False):
            world.clock.sleep(180)
            abort(world.new_desk(), "shop", "it hangs", actor="guardian")
            named["at"] = world.clock.now()
        really(*arguments, **named)  # type: ignore[arg-type]

    world.ledger.may_stand = sleep_first  # type: ignore[method-assign]
    with pytest.raises(RefusedError):
        shift(world.desk, rollout, 0, actor="zombie")
    assert all(write[GREEN] == 0 for write in world.balancer.writes)


# --- the ledger goes away


def test_watcher_takes_the_canary_off_when_the_ledger_stays_away_longer_than_the_lease(world: World) -> None:
    rollout_id = exposed(world)
    watcher = Watcher(world.desk, rollout_id, 0, actor="trigger")
    assert watcher.look() is not None

    def gone(*_: object, **__: object) -> None:
        raise LedgerError("the ledger could not be read: connection refused")

    for name in ("rollout", "intend_lower", "observe_weights"):
        setattr(world.ledger, name, gone)
    world.clock.sleep(10)
    assert watcher.look() is None
    assert world.canary_percent == 1, "within the lease it waits"
    world.clock.sleep(15)
    watcher.look()
    assert world.canary_percent == 0


# --- a rollback that does not get through


def test_rollback_that_takes_longer_than_a_minute_wakes_somebody(world: World) -> None:
    rollout_id = exposed(world)
    pages: list[str] = []
    world.desk.page = lambda service, sentence: pages.append(sentence)
    healed_at = world.clock.now() + 700

    def refuse(weights: Weights) -> bool:
        if world.clock.now() < healed_at:
            raise LoadBalancerError("503 Service Unavailable")
        return True

    world.balancer.fault = refuse
    roll_back(world.desk, world.ledger.rollout(rollout_id), "test", actor="task")
    assert world.canary_percent == 0
    assert 2 <= len(pages) <= 3, "after a minute and every five minutes"
    assert "NOT back on shop-blue after" in pages[0]


def test_broken_pager_does_not_end_the_rollback(world: World) -> None:
    rollout_id = exposed(world)

    def broken(service: str, sentence: str) -> None:
        raise RuntimeError("no network")

    world.desk.page = broken
    healed_at = world.clock.now() + 100

    def refuse(weights: Weights) -> bool:
        if world.clock.now() < healed_at:
            raise LoadBalancerError("503")
        return True

    world.balancer.fault = refuse
    assert roll_back(world.desk, world.ledger.rollout(rollout_id), "test", actor="task").written is not None


# --- a load balancer that keeps the lease itself


@dataclass
class LeasedBalancer(WorldBalancer):
    """Gives everything to the safe side by itself once the lease is over."""

    clock_now: float = 0.0
    lease: tuple[float, str] | None = None
    ended: list[str] = field(default_factory=list)

    def renew_lease(self, until: float, safe: str) -> None:
        self.lease = (until, safe)

    def end_lease(self, safe: str) -> None:
        self.lease = None
        self.ended.append(safe)
        self.weights = Weights({safe: FULL, ({BLUE, GREEN} - {safe}).pop(): NONE})


def leased_world(folder: Path, **changes: object) -> World:
    world = World(folder, a_release(**changes))
    world.balancer = LeasedBalancer()
    world.metrics.balancer = world.balancer
    return world


@pytest.fixture
def leased(tmp_path: Path) -> World:
    return leased_world(tmp_path)


def test_balancers_own_lease_is_set_before_the_raise_and_renewed_by_every_evaluation(leased: World) -> None:
    balancer = leased.balancer
    assert isinstance(balancer, LeasedBalancer)
    rollout = leased.start().rollout
    balancer.fault = lambda weights: balancer.lease is not None
    shift(leased.desk, rollout, 0, actor="task")
    assert balancer.lease == (leased.clock.now() + 20, BLUE)
    leased.clock.sleep(5)
    observe(leased.desk, rollout.id, 0, actor="trigger")
    assert balancer.lease == (leased.clock.now() + 20, BLUE)


def test_blind_looks_renew_the_lease_up_to_the_allowance_and_no_further(tmp_path: Path) -> None:
    world = leased_world(tmp_path, max_blind=30.0)
    balancer = world.balancer
    assert isinstance(balancer, LeasedBalancer)
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.metrics.down = True
    began = world.clock.now()
    for _ in range(29):
        world.clock.sleep(1)
        seen = observe(world.desk, rollout.id, 0, actor="trigger")
        assert seen.decision is Decision.HOLD
        assert world.canary_percent == 1
    assert balancer.lease == (began + 31, BLUE), "the first blind look was one second after the shift"
    assert world.ledger.rollout(rollout.id).lease_until == began + 31
    world.clock.sleep(2)
    seen = observe(world.desk, rollout.id, 0, actor="trigger")
    assert (seen.decision, world.canary_percent) == (Decision.ROLL_BACK, 0)
    assert seen.reason.startswith("blind for 30 s (limit 30 s)")


@pytest.mark.parametrize("seen", [Weights({BLUE: Decimal(40), GREEN: Decimal(60)}), None], ids=["moved", "unseen"])
def test_blind_look_that_cannot_see_its_own_weights_either_lets_the_lease_run(
    tmp_path: Path, seen: Weights | None
) -> None:
    world = leased_world(tmp_path, max_blind=30.0)
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    before = world.ledger.rollout(rollout.id).lease_until
    world.metrics.down = True
    if seen is None:
        world.balancer.get_weights = unreachable  # type: ignore[method-assign]
    else:
        world.balancer.weights = seen
    world.clock.sleep(5)
    assert observe(world.desk, rollout.id, 0, actor="trigger").decision is Decision.HOLD
    assert world.ledger.rollout(rollout.id).lease_until == before


def unreachable() -> Weights:
    raise LoadBalancerError("it does not answer")


def test_evidence_that_was_stored_before_the_metrics_went_away_still_takes_the_canary_off(world: World) -> None:
    world.metrics.error_rate[GREEN] = 0.5
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    for _ in range(20):
        world.clock.sleep(1)
        # A watcher that stores what it saw and dies before it acts upon it.
        now = world.ledger.rollout(rollout.id)
        windows, cursor = world.metrics.read(now.cursor)
        known = len(world.ledger.windows(rollout.id))
        placed = [window.placed(index=known + place, step=0, weight=0.01) for place, window in enumerate(windows)]
        assert world.ledger.store_windows(now, placed, cursor=cursor, lease_until=world.clock.now() + 20)
    world.metrics.down = True
    seen = observe(world.new_desk(), rollout.id, 0, actor="trigger")
    assert (seen.decision, world.canary_percent) == (Decision.ROLL_BACK, 0)


def test_promotion_ends_the_balancers_lease_for_the_new_side(leased: World) -> None:
    balancer = leased.balancer
    assert isinstance(balancer, LeasedBalancer)
    rollout = leased.start().rollout
    for index in range(4):
        shift(leased.desk, leased.ledger.rollout(rollout.id), index, actor="task")
        bake(leased, rollout.id, index)
    done = promote(leased.desk, leased.ledger.rollout(rollout.id), actor="task")
    assert done.rollout.state is State.PROMOTED
    assert balancer.lease is None
    assert set(balancer.ended) == {GREEN}, "never for the old side"


# --- the way back, and a ledger that is away for a moment


def test_weights_that_somebody_moved_while_the_rollout_started_are_not_written_back(world: World) -> None:
    moved = Weights({BLUE: Decimal(70), GREEN: Decimal(30)})
    read = world.metrics.read

    def meanwhile(cursor: object) -> object:
        world.balancer.weights = moved
        return read(cursor)  # type: ignore[arg-type]

    world.metrics.read = meanwhile  # type: ignore[method-assign,assignment]
    with pytest.raises(RefusedError, match="somebody else moved the weights meanwhile"):
        world.start()
    assert (world.balancer.weights, world.balancer.writes) == (moved, [])
    assert world.ledger.active("shop") is None


class Blip:
    """Takes every call of the ledger away for so many seconds from the first call of one of its methods on."""

    def __init__(self, world: World, method: str, seconds: float) -> None:
        self._world, self._seconds, self._ends = world, seconds, 0.0
        for name in ("rollout_of_run", "intend_raise", "may_stand", "begin_step", "rollout", "commit_promotion"):
            setattr(world.ledger, name, self._broken(name, getattr(world.ledger, name), starts=name == method))

    def _broken(self, name: str, call: Callable[..., object], *, starts: bool) -> Callable[..., object]:
        def broken(*args: object, **kwargs: object) -> object:
            if starts and self._ends == 0.0:
                self._ends = self._world.clock.now() + self._seconds
            if self._world.clock.now() < self._ends:
                raise LedgerError(f"{name}: the ledger is away")
            return call(*args, **kwargs)

        return broken


@pytest.mark.parametrize("method", ["rollout_of_run", "intend_raise", "may_stand", "begin_step"])
def test_ledger_that_is_away_for_five_seconds_does_not_end_a_shift_that_is_run_again(world: World, method: str) -> None:
    rollout = world.start().rollout
    world.ledger.intend_raise(
        rollout, step=0, weights=Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(1)), why="killed",
        actor="task", at=world.clock.now(), lease_until=world.clock.now() + 20,
    )  # fmt: skip
    Blip(world, method, 5.0)
    again = world.desk.rollout_of_run("release_shop", rollout.run_id)
    shift(world.desk, again, 0, actor="task")
    assert world.canary_percent == 1
    assert world.ledger.rollout(rollout.id).state is State.RUNNING


def test_ledger_that_stays_away_ends_a_shift_on_the_safe_side(world: World) -> None:
    rollout = world.start().rollout
    Blip(world, "begin_step", 60.0)
    with pytest.raises(LedgerError):
        shift(world.desk, rollout, 0, actor="task")
    assert world.canary_percent == 0


def test_promotion_whose_task_died_behind_the_commit_is_finished_by_the_guardian(leased: World) -> None:
    rollout = leased.start().rollout
    for index in range(4):
        shift(leased.desk, leased.ledger.rollout(rollout.id), index, actor="task")
        bake(leased, rollout.id, index)
    now = leased.clock.now()
    leased.ledger.commit_promotion(leased.ledger.rollout(rollout.id), actor="task", at=now)
    guardian = Guardian(leased.new_desk, name="test")
    assert guardian.tick() == [], "whoever committed it may be about to finish it"
    leased.clock.sleep(11)
    (finding,) = guardian.tick()
    assert finding.safe
    assert leased.ledger.rollout(rollout.id).state is State.PROMOTED
    assert leased.canary_percent == 100

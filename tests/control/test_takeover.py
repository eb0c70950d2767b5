"""When others act at the same time: somebody moves the weights, takes over, or takes the ledger away."""

from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import pytest

from canary_release.control.ending import abort, promote, roll_back
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


@pytest.fixture
def leased(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.balancer = LeasedBalancer()
    world.metrics.balancer = world.balancer
    return world


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


def test_blind_look_does_not_renew_the_balancers_lease(leased: World) -> None:
    balancer = leased.balancer
    assert isinstance(balancer, LeasedBalancer)
    rollout = leased.start().rollout
    shift(leased.desk, rollout, 0, actor="task")
    before = balancer.lease
    leased.metrics.down = True
    leased.clock.sleep(5)
    observe(leased.desk, rollout.id, 0, actor="trigger")
    assert balancer.lease == before


def test_promotion_ends_the_balancers_lease_for_the_new_side(leased: World) -> None:
    balancer = leased.balancer
    assert isinstance(balancer, LeasedBalancer)
    rollout = leased.start().rollout
    for index in range(4):
        shift(leased.desk, leased.ledger.rollout(rollout.id), index, actor="task")
        bake(leased, rollout.id, index)
    done = promote(leased.desk, leased.ledger.rollout(rollout.id), actor="task")
    assert done.rollout.state is State.PROMOTED
    assert (balancer.lease, balancer.ended) == (None, [GREEN])

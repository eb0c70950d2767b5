"""What the guardian does about rollouts that nobody watches, weights that somebody moved, and a ledger that is away."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from canary_release.control.desk import Desk
from canary_release.control.guardian import PAGE_AGAIN, Finding, Guardian, Kind, RunState
from canary_release.control.starting import StartRequest, start
from canary_release.control.stepping import shift
from canary_release.core.ports import LoadBalancer
from canary_release.core.problems import CanaryError, LoadBalancerError
from canary_release.core.release import Release
from canary_release.core.values import Weights
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger
from canary_release.ledger.ticks import last_tick
from control.world import BLUE, GREEN, World, WorldBalancer, WorldMetrics, a_release

LEASE = 20.0


def exposed(world: World, *, step: int = 0) -> Rollout:
    """A rollout whose canary has the traffic of its first step."""
    rollout = world.start().rollout
    shift(world.desk, rollout, step, actor="task")
    return world.ledger.rollout(rollout.id)


def guardian(world: World, run_state: RunState | None = None, *, mend: bool = False) -> Guardian:
    return Guardian(world.new_desk, name="test", run_state=run_state, mend=mend)


def kinds(findings: list[Finding]) -> list[Kind]:
    return [finding.kind for finding in findings]


def split(percent: int) -> Weights:
    return Weights({BLUE: Decimal(100 - percent), GREEN: Decimal(percent)})


class LedgerAway:
    """Takes the ledger away from everybody who uses this world, and gives it back."""

    def __init__(self, world: World) -> None:
        self._ledger, self._engine = world.ledger, world.ledger._engine
        self.leave()

    def leave(self) -> None:
        self._ledger._engine = sa.create_engine("sqlite:////there/is/no/such/folder/ledger.db")

    def come_back(self) -> None:
        self._ledger._engine = self._engine


# -- rollouts that nobody watches -----------------------------------------------------------------------------------


def test_rollout_that_is_watched_is_left_alone(world: World) -> None:
    exposed(world)
    writes = list(world.balancer.writes)
    assert guardian(world, lambda dag, run: "running").tick() == []
    assert world.balancer.writes == writes


def test_expired_lease_is_taken_off_and_the_ledger_says_by_whom(world: World) -> None:
    rollout = exposed(world)
    world.clock.sleep(LEASE + 1)
    (finding,) = guardian(world).tick()
    assert (finding.kind, finding.safe, finding.subject) == (Kind.TAKEN_OFF, True, rollout.id)
    assert "nobody watched" in finding.sentence
    assert (world.ledger.rollout(rollout.id).state, world.canary_percent) == (State.ROLLED_BACK, 0)
    trail = [(entry.actor, entry.event) for entry in world.ledger.audit_trail(rollout_id=rollout.id)]
    assert trail[-3:] == [("guardian test", event) for event in ("intends_lower", "read_back", "rolled_back")]
    assert guardian(world).tick() == []


def test_rollout_past_its_deadline_is_ended_although_its_lease_lives(world: World) -> None:
    rollout = exposed(world)
    with world.ledger._engine.begin() as connection:
        connection.execute(sa.text("UPDATE rollouts SET deadline = :at"), {"at": world.clock.now() - 1})
    (finding,) = guardian(world).tick()
    assert "past its deadline" in finding.sentence
    assert world.ledger.rollout(rollout.id).state is State.ROLLED_BACK


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("failed", "ended as failed"),
        ("success", "ended as success"),
        ("paused", "is paused"),
        (None, "has no run shop-v2"),
    ],
)
def test_rollout_whose_run_does_not_go_on_is_ended_before_its_lease_runs_out(
    world: World, state: str | None, why: str
) -> None:
    rollout = exposed(world)
    asked: list[tuple[str, str]] = []

    def run_state(dag_id: str, run_id: str) -> str | None:
        asked.append((dag_id, run_id))
        return state

    (finding,) = guardian(world, run_state).tick()
    assert asked == [("release_shop", "shop-v2")]
    assert why in finding.sentence
    assert (world.ledger.rollout(rollout.id).state, world.canary_percent) == (State.ROLLED_BACK, 0)


def test_run_that_airflow_does_not_tell_of_is_left_to_its_lease(world: World) -> None:
    exposed(world)

    def no_answer(dag_id: str, run_id: str) -> str | None:
        raise CanaryError("the API server is away")

    watcher = guardian(world, no_answer)
    assert watcher.tick() == []
    world.clock.sleep(LEASE + 1)
    assert kinds(watcher.tick()) == [Kind.TAKEN_OFF]


def test_rollback_that_is_not_in_force_is_finished_at_once(world: World) -> None:
    rollout = exposed(world)
    world.ledger.intend_lower("shop", rollout, weights=split(0), why="worse", actor="trigger", at=world.clock.now())
    (finding,) = guardian(world).tick()
    assert "worse" in finding.sentence
    assert (world.ledger.rollout(rollout.id).state, world.canary_percent) == (State.ROLLED_BACK, 0)


def test_rollback_that_is_in_force_is_left_to_the_run_that_records_it(world: World) -> None:
    rollout = exposed(world)
    world.ledger.intend_lower("shop", rollout, weights=split(0), why="worse", actor="trigger", at=world.clock.now())
    world.balancer.weights = split(0)
    assert guardian(world).tick() == []
    assert world.ledger.rollout(rollout.id).state is State.ROLLING_BACK


def test_balancer_that_refuses_is_said_to_be_not_safe_and_tried_again(world: World) -> None:
    rollout = exposed(world)
    world.clock.sleep(LEASE + 1)

    def refuse(weights: Weights) -> bool:
        raise LoadBalancerError("500")

    world.balancer.fault = refuse
    watcher = guardian(world)
    (finding,) = watcher.tick()
    assert (finding.kind, finding.safe) == (Kind.NOT_SAFE, False)
    assert f"{rollout.id} is NOT safe yet: 500" in finding.sentence
    world.balancer.fault = lambda weights: True
    assert kinds(watcher.tick()) == [Kind.TAKEN_OFF]
    assert world.canary_percent == 0


def test_promotion_committed_while_the_guardian_writes_keeps_the_new_version(world: World) -> None:
    rollout = exposed(world)
    world.clock.sleep(LEASE + 1)
    left = iter([True])

    def promoted_meanwhile(weights: Weights) -> bool:
        if next(left, False):
            with world.ledger._engine.begin() as connection:
                changed = {"state": str(State.PROMOTING), "side": GREEN, "id": rollout.id}
                connection.execute(
                    sa.text("UPDATE rollouts SET state = :state, safe_side = :side WHERE id = :id"), changed
                )
        return True

    world.balancer.fault = promoted_meanwhile
    assert kinds(guardian(world).tick()) == [Kind.TAKEN_OFF]
    assert (world.ledger.rollout(rollout.id).state, world.canary_percent) == (State.PROMOTED, 100)


def test_two_guardians_end_a_rollout_once(world: World) -> None:
    rollout = exposed(world)
    world.clock.sleep(LEASE + 1)
    first, second = guardian(world), guardian(world)
    assert kinds(first.tick()) + kinds(second.tick()) == [Kind.TAKEN_OFF]
    ends = [entry for entry in world.ledger.audit_trail(rollout_id=rollout.id) if entry.event == "rolled_back"]
    assert len(ends) == 1


# -- several services -----------------------------------------------------------------------------------------------


class Services:
    """Three services on one ledger, each with its load balancer."""

    names = ("cart", "search", "shop")

    def __init__(self, world: World) -> None:
        self.world = world
        self.balancers = {name: WorldBalancer() for name in self.names}
        self.releases = {
            f"{name}.yaml": replace(a_release(), service=name, text=name, sha256=f"{name:0<64}") for name in self.names
        }
        for name in self.names:
            request = StartRequest(
                release=self.releases[f"{name}.yaml"], release_name=f"{name}.yaml", version="v2",
                dag_id=f"release_{name}", run_id="v2", by="ada",
            )  # fmt: skip
            shift(self.desk(), start(self.desk(), request).rollout, 0, actor="task")

    def desk(self) -> Desk:
        def balancer(release: Release) -> LoadBalancer:
            return self.balancers[release.service]

        def source(release: Release, stable: str, canary: str) -> WorldMetrics:
            return WorldMetrics(self.world.clock, self.balancers[release.service])

        return Desk(self.world.ledger, self.world.clock, balancer, source, lambda text, name: self.releases[name])


@pytest.mark.parametrize("error", [LoadBalancerError("500"), RuntimeError("a hook's own fault")])
def test_one_broken_service_does_not_stop_the_others(world: World, error: Exception) -> None:
    services = Services(world)
    world.clock.sleep(LEASE + 1)

    def broken(weights: Weights) -> bool:
        raise error

    services.balancers["search"].fault = broken
    findings = Guardian(services.desk, name="test").tick()
    assert {finding.service: finding.kind for finding in findings} == {
        "cart": Kind.TAKEN_OFF,
        "search": Kind.NOT_SAFE,
        "shop": Kind.TAKEN_OFF,
    }
    left = {name: balancer.weights[GREEN] for name, balancer in services.balancers.items()}
    assert left == {"cart": 0, "search": 1, "shop": 0}


def test_release_file_that_is_not_understood_any_more_concerns_its_service_only(world: World) -> None:
    services = Services(world)
    world.clock.sleep(LEASE + 1)
    del services.releases["cart.yaml"]
    findings = Guardian(services.desk, name="test").tick()
    assert {finding.service for finding in findings if not finding.safe} == {"cart"}


# -- weights that somebody else moved -------------------------------------------------------------------------------


def test_drift_is_paged_and_never_fought(world: World) -> None:
    exposed(world)
    pages, watcher = paged(world)
    world.balancer.weights = split(50)
    writes = list(world.balancer.writes)
    (finding,) = watcher.tick()
    assert (finding.kind, finding.safe) == (Kind.DRIFT, False)
    assert f"now {split(50)}, we left {split(1)}" in finding.sentence
    assert world.balancer.writes == writes
    assert pages == [("shop", finding.sentence)]


def test_lasting_drift_is_paged_again_after_five_minutes_and_not_before(world: World) -> None:
    rollout = exposed(world)
    pages, watcher = paged(world)
    world.balancer.weights = split(50)
    for _ in range(3):
        watcher.tick()
    assert len(pages) == 1
    world.clock.sleep(PAGE_AGAIN)
    with world.ledger._engine.begin() as connection:
        connection.execute(sa.text("UPDATE rollouts SET lease_until = :at"), {"at": world.clock.now() + 1})
    assert world.ledger.rollout(rollout.id).state is State.RUNNING
    watcher.tick()
    assert len(pages) == 2


def test_weights_of_a_watched_rollout_that_cannot_be_seen_are_said(world: World) -> None:
    rollout = exposed(world)

    def down() -> Weights:
        raise LoadBalancerError("500")

    world.balancer.get_weights = down  # type: ignore[method-assign]
    (finding,) = guardian(world).tick()
    assert (finding.kind, finding.sentence) == (
        Kind.NOT_SAFE,
        f"{rollout.id} is watched, but its weights cannot be seen: 500",
    )
    assert world.ledger.rollout(rollout.id).state is State.RUNNING


def test_drift_that_the_release_file_adopts_is_no_news(world: World) -> None:
    world.release = replace(world.release, drift="adopt")
    world.desk = world.new_desk()
    exposed(world)
    world.balancer.weights = split(50)
    assert guardian(world).tick() == []


def test_shift_between_the_guardians_two_questions_is_no_drift(world: World) -> None:
    rollout = exposed(world)
    balancer, asked = Interrupted(world.balancer), []

    def shift_now() -> None:
        if not asked:
            asked.append(True)
            intent = world.ledger.intend_lower("shop", None, weights=split(0), why="", actor="", at=world.clock.now())
            with world.ledger._engine.begin() as connection:
                connection.execute(sa.text("UPDATE intents SET rollout_id = :id WHERE id = :intent"),
                                   {"id": rollout.id, "intent": intent})  # fmt: skip
            world.ledger.observe_weights(intent, weights=split(0), at=world.clock.now(), seconds=0.1, actor="")
            world.balancer.weights = split(0)

    balancer.after_read = shift_now
    desk = world.new_desk()
    desk.balancer_of = lambda release: balancer
    assert Guardian(lambda: desk, name="test").tick() == []
    assert asked


class Interrupted:
    """A load balancer that lets something happen right after each read."""

    def __init__(self, inner: WorldBalancer) -> None:
        self.inner, self.finest_step = inner, inner.finest_step
        self.after_read: Callable[[], None] = lambda: None

    def get_weights(self) -> Weights:
        seen = self.inner.get_weights()
        self.after_read()
        return seen

    def set_weights(self, weights: Weights) -> None:
        self.inner.set_weights(weights)


# -- weights without a rollout --------------------------------------------------------------------------------------


def ended(world: World) -> None:
    exposed(world)
    world.clock.sleep(LEASE + 1)
    assert kinds(guardian(world).tick()) == [Kind.TAKEN_OFF]


def test_split_traffic_without_a_rollout_is_paged_and_left_alone(world: World) -> None:
    ended(world)
    world.balancer.weights = split(30)
    (finding,) = guardian(world).tick()
    assert (finding.kind, finding.safe) == (Kind.ORPHAN, False)
    assert "canary abort shop" in finding.sentence
    assert world.canary_percent == 30


def test_split_traffic_without_a_rollout_is_given_back_when_told_to_mend(world: World) -> None:
    ended(world)
    world.balancer.weights = split(30)
    (finding,) = guardian(world, mend=True).tick()
    assert (finding.kind, finding.safe) == (Kind.MENDED, True)
    assert world.canary_percent == 0
    assert guardian(world, mend=True).tick() == []


def test_everything_moved_to_the_other_side_by_hand_is_somebodys_decision(world: World) -> None:
    ended(world)
    world.balancer.weights = split(100)
    assert guardian(world, mend=True).tick() == []
    assert world.canary_percent == 100


def test_rollout_that_starts_while_an_orphan_is_looked_at_is_not_mended_away(world: World) -> None:
    ended(world)
    begun: list[Rollout] = []
    # What was read is the split of a rollout that began after the guardian had listed the rollouts.
    balancer = Interrupted(world.balancer)
    first = world.new_desk()

    def begin_first(release: Release) -> LoadBalancer:
        if not begun:
            begun.append(world.start("v3").rollout)
            shift(world.desk, begun[0], 0, actor="task")
        return balancer

    first.balancer_of = begin_first
    assert Guardian(lambda: first, name="test", mend=True).tick() == []
    assert world.canary_percent == 1
    assert world.ledger.rollout(begun[0].id).state is State.RUNNING


def test_idle_service_whose_balancer_is_gone_wakes_nobody(world: World) -> None:
    ended(world)
    pages, watcher = paged(world)

    def gone() -> Weights:
        raise LoadBalancerError("the route was removed last year")

    world.balancer.get_weights = gone  # type: ignore[method-assign]
    assert (watcher.tick(), pages) == ([], [])


# -- a ledger that is away ------------------------------------------------------------------------------------------


def test_ledger_goes_away_and_what_expires_is_taken_off_from_memory(world: World) -> None:
    rollout = exposed(world)
    watcher = guardian(world)
    assert watcher.tick() == []
    away = LedgerAway(world)
    assert kinds(watcher.tick()) == [Kind.NO_LEDGER]
    assert world.canary_percent == 1
    world.clock.sleep(LEASE + 1)
    assert kinds(watcher.tick()) == [Kind.NO_LEDGER, Kind.TAKEN_OFF]
    assert world.canary_percent == 0
    assert kinds(watcher.tick()) == [Kind.NO_LEDGER]
    away.come_back()
    assert kinds(watcher.tick()) == [Kind.TAKEN_OFF]
    assert world.ledger.rollout(rollout.id).state is State.ROLLED_BACK


def test_ledger_that_leaves_in_the_middle_of_a_rollback_does_not_stop_it(world: World) -> None:
    exposed(world)
    world.clock.sleep(LEASE + 1)

    def leave(weights: Weights) -> bool:
        LedgerAway(world)
        return True

    world.balancer.fault = leave
    found = kinds(guardian(world).tick())
    assert Kind.NO_LEDGER in found
    assert world.canary_percent == 0


@pytest.mark.parametrize("percent", [100, 73])
def test_weights_that_may_be_a_promotion_are_not_touched_without_the_ledger(world: World, percent: int) -> None:
    rollout = exposed(world)
    watcher = guardian(world)
    watcher.tick()
    LedgerAway(world)
    # Promoted after the guardian last saw it, or even promoted and followed by the next one with sides exchanged.
    world.balancer.weights = split(percent)
    world.clock.sleep(LEASE + 1)
    found = watcher.tick()
    assert kinds(found) == [Kind.NO_LEDGER, Kind.NOT_SAFE]
    assert f"{rollout.id}: its lease ran out" in found[1].sentence
    assert world.canary_percent == percent


def test_ledger_that_was_never_reached_is_all_there_is_to_say(tmp_path: Path) -> None:
    def no_desk() -> Desk:
        Ledger.open("sqlite:////there/is/no/such/folder/ledger.db")
        raise AssertionError

    (finding,) = Guardian(no_desk, name="test").tick()
    assert (finding.kind, finding.safe) == (Kind.NO_LEDGER, False)


# -- what it leaves behind ------------------------------------------------------------------------------------------


def test_every_tick_is_noted_and_the_pager_may_be_broken(world: World) -> None:
    exposed(world)
    assert last_tick(world.ledger, "guardian test") is None
    pages, watcher = paged(world, broken=True)
    world.balancer.weights = split(50)
    assert kinds(watcher.tick()) == [Kind.DRIFT]
    assert pages == []
    assert last_tick(world.ledger, "guardian test") == world.clock.now()


def paged(world: World, *, broken: bool = False) -> tuple[list[tuple[str, str]], Guardian]:
    """A guardian and the list of whom it wakes with what."""
    pages: list[tuple[str, str]] = []

    def page(service: str, sentence: str) -> None:
        if broken:
            raise RuntimeError("the pager's address is wrong")
        pages.append((service, sentence))

    def desk() -> Desk:
        new = world.new_desk()
        new.page = page
        return new

    return pages, Guardian(desk, name="test")

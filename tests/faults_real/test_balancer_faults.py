"""The load balancer's API and the metrics break amid a rollout; real servers and clients, no Airflow."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from canary_release.control.patience import SECONDS as PATIENCE
from canary_release.core.problems import LoadBalancerError
from canary_release.ledger.records import State
from demo.fault_proxy import Fault, Kind
from faults_real.conftest import Gone
from faults_real.patience import wait_for
from faults_real.results import Results
from faults_real.store import POLL, Store
from faults_real.watched_rollout import BLIND as BLIND_SECONDS
from faults_real.watched_rollout import LEASE, Hands

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

RAISE = b".share 2000"  # the command that gives till-green its 20 %
TAKEN_BACK = PATIENCE + 2.0
BLIND = [
    Fault(Kind.DROP_BEFORE),
    Fault(Kind.STATUS, status=503),
    Fault(Kind.GARBAGE),
    Fault(Kind.HUGE),
    Fault(Kind.TRUNCATED),
    Fault(Kind.STATUS, status=200, body=b"<html>Please log in</html>"),
    Fault(Kind.HANG, seconds=3),
    Fault(Kind.SLOW_BODY, seconds=3),
]


@pytest.fixture
def hands(tmp_path: Path, shop: Store, till: Store) -> Iterator[Hands]:
    made = Hands(tmp_path)
    yield made
    made.clean(shop, till)
    made.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Kind.DROP_BEFORE, Kind.DROP_AFTER, Kind.TRUNCATED, Kind.GARBAGE])
def test_row_07_shift_whose_write_breaks_once_on_haproxy_is_written_once_more(
    hands: Hands, till: Store, results: Results, kind: Kind
) -> None:
    rollout = hands.start(till)
    began = time.time()
    till.balancer_wire.play(Fault(kind), only=RAISE, times=1)
    hands.shift(rollout)
    assert till.weights()[rollout.canary] == 20
    writes = len(till.balancer_wire.calls(RAISE, since=began))
    assert results.add(7, f"shift: a write meets {kind}", till.balancer, bound=2, seen=writes, unit="writes").held


@pytest.mark.parametrize(
    "kind",
    [pytest.param(Kind.DROP_BEFORE, marks=pytest.mark.faults), pytest.param(Kind.DROP_AFTER, marks=pytest.mark.slow)],
)
def test_row_07_shift_whose_every_write_breaks_on_haproxy_leaves_no_canary(
    hands: Hands, till: Store, gone: Gone, kind: Kind
) -> None:
    rollout = hands.start(till)
    till.balancer_wire.play(Fault(kind), only=RAISE)
    began = time.time()
    with pytest.raises(LoadBalancerError):
        hands.shift(rollout)
    gone(till, rollout, began, TAKEN_BACK, row=7, fault=f"shift: every write meets {kind}")
    assert hands.again(rollout).state is State.ROLLING_BACK
    assert hands.ledger.writes(rollout.id)[-1].read_back == till.weights()


@pytest.mark.faults
@pytest.mark.parametrize("kind", [Kind.STATUS, Kind.GARBAGE])
def test_row_07_shift_whose_read_back_breaks_on_traefik_leaves_no_canary(
    hands: Hands, shop: Store, gone: Gone, kind: Kind
) -> None:
    rollout = hands.start(shop)
    file = shop.server.dynamic_file  # type: ignore[union-attr]
    before = file.read_text()
    # The first look at the weights passes; the wire breaks when the file has been written.
    shop.balancer_wire.play(Fault(Kind.DELAY, seconds=0.0), times=2)
    shop.balancer_wire.play(Fault(kind))
    began = time.time()
    with pytest.raises(LoadBalancerError):
        hands.shift(rollout)
    assert file.read_text() == before, "everything is where it was"
    gone(shop, rollout, began, TAKEN_BACK, row=7, fault=f"shift: every read-back meets {kind}")


@pytest.mark.faults
def test_row_07_rollback_while_haproxy_refuses_every_write_is_done_by_its_own_lease(
    hands: Hands, till: Store, gone: Gone
) -> None:
    with hands.exposed(till) as (rollout,):
        broken = time.time()
        till.balancer_wire.play(Fault(Kind.DROP_BEFORE), only=b"set map")
        till.turn_bad(rollout.canary, rollout.version)
        gone(till, rollout, broken, LEASE + 1, row=7, fault="rollback: every write is reset")
        till.heal()
        # The watcher never stops trying, and then the weights are those of a rollback for good.
        wait_for(
            "it is recorded", lambda: any(w.read_back and not w.raises for w in hands.ledger.writes(rollout.id)), 20
        )
        assert hands.raises(rollout) == 1


@pytest.mark.faults
def test_row_07_rollback_while_traefiks_api_is_down_moves_the_traffic_all_the_same(
    hands: Hands, shop: Store, results: Results
) -> None:
    with hands.exposed(shop) as (rollout,):
        shop.balancer_wire.play(Fault(Kind.STATUS, status=500))
        shop.turn_bad(rollout.canary, rollout.version)
        wait_for("the canary is off", lambda: shop.weights()[rollout.canary] == 0, 30)
        crossed = hands.ledger.windows(rollout.id)[-1].end
        shop.let_clients_speak()
        seen = shop.last_answer(rollout.version) - crossed
        fault = "rollback: the API answers 500: evidence to the canary's last answer"
        assert results.add(7, fault, shop.balancer, bound=POLL + 1, seen=seen).held


@pytest.mark.slow
def test_row_10_haproxy_that_dies_and_comes_back_has_no_canary_and_gets_none(
    hands: Hands, till: Store, results: Results
) -> None:
    with hands.exposed(till) as (rollout,):
        till.server.process.kill()
        till.server.restart()
        back = time.time()
        wait_for("somebody was told", lambda: hands.pages, 20)
        told = time.time() - back
        till.let_clients_speak()
        assert results.add(10, "kill -9 and restart: until somebody is told", till.balancer, bound=3, seen=told).held
        after = till.answers_after(rollout.version, back)
        fault = "kill -9 and restart: canary requests afterwards"
        assert results.add(10, fault, till.balancer, bound=0, seen=after, unit="requests").held
        assert hands.raises(rollout) == 1


@pytest.mark.slow
def test_row_10_traefik_that_dies_and_comes_back_goes_on_with_the_step(
    hands: Hands, shop: Store, results: Results
) -> None:
    with hands.exposed(shop) as (rollout,):
        shop.server.process.kill()
        shop.server.restart()
        before = len(hands.ledger.windows(rollout.id))
        wait_for("it is watched on", lambda: len(hands.ledger.windows(rollout.id)) >= before + 3, 20)
        false = int(hands.again(rollout).state is not State.RUNNING)
        fault = "kill -9 and restart, weights kept in its file: false rollbacks"
        assert results.add(10, fault, shop.balancer, bound=0, seen=false, unit="rollbacks").held
        assert shop.weights()[rollout.canary] == 20


@pytest.mark.faults
def test_row_12_metrics_that_break_now_and_then_are_no_verdict_and_cost_nothing(
    hands: Hands, shop: Store, results: Results
) -> None:
    with hands.exposed(shop) as (rollout,):
        for trouble in BLIND:
            wire, before = shop.metrics_wire, len(hands.ledger.windows(rollout.id))
            asked = len(wire.calls())
            wire.play(trouble)
            wait_for("a look was broken", lambda: len(wire.calls()) >= asked + 2, 15)  # noqa: B023
            # The look that was under way when the fault began may still have been whole.
            assert len(hands.ledger.windows(rollout.id)) <= before + 1, trouble
            wire.heal()
            wait_for("it sees again", lambda: len(hands.ledger.windows(rollout.id)) >= before + 2, 15)  # noqa: B023
        decided = {record.decision for record in hands.ledger.decisions(rollout.id)}
        assert decided <= {"hold"}
        false = int(hands.again(rollout).state is not State.RUNNING)
        fault = f"metrics: {', '.join(dict.fromkeys(each.kind for each in BLIND))}, one look each: false rollbacks"
        assert results.add(12, fault, shop.balancer, bound=0, seen=false, unit="rollbacks").held


@pytest.mark.faults
def test_row_12_metrics_that_stay_away_take_the_canary_off_when_the_allowance_for_blindness_is_over(
    hands: Hands, till: Store, gone: Gone
) -> None:
    with hands.exposed(till) as (rollout,):
        down = time.time()
        till.metrics_wire.play(Fault(Kind.DROP_BEFORE))
        seen = gone(till, rollout, down, BLIND_SECONDS + 2 * POLL + 1, row=12, fault="metrics down for good")
        assert seen > LEASE, "blind looks renewed the lease as long as they were allowed to"
        assert hands.raises(rollout) == 1

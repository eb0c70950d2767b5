"""The ledger's PostgreSQL goes away under two rollouts that are being watched."""

import time
from collections.abc import Iterator

import pytest

from canary_release.ledger.records import State
from faults_real.conftest import Gone
from faults_real.fault_stage import GUARD_PERIOD, FaultStage
from faults_real.patience import wait_for
from faults_real.results import Results
from faults_real.store import LEASE, POLL, Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

# Whoever watches sees the ledger come back or the lease run out at its next look; then writes and reads back.
WITHOUT_LEDGER = LEASE + POLL + GUARD_PERIOD + 3.0
# A stopped server leaves every new connection waiting for its limit: for the look, the intent, and the safe side.
QUESTIONS = 3 * 3.0


@pytest.fixture
def stage(stage: FaultStage) -> Iterator[FaultStage]:
    """With a ledger again at the end, whatever became of the test."""
    yield stage
    stage.postgres.thaw()
    stage.postgres.start()


def test_row_19_ledger_killed_for_longer_than_the_lease_takes_both_canaries_off(
    stage: FaultStage, shop: Store, till: Store, gone: Gone
) -> None:
    on_traefik, on_haproxy = stage.expose(shop, till)
    killed = time.time()
    stage.postgres.kill()
    gone(till, on_haproxy, killed, LEASE + 1, row=19, fault="PostgreSQL killed")
    gone(shop, on_traefik, killed, WITHOUT_LEDGER, row=19, fault="PostgreSQL killed")
    wait_for("every lease is over", lambda: time.time() > killed + LEASE + 2 * POLL, 10)
    back = time.time()
    stage.postgres.start()
    for store, rollout in ((shop, on_traefik), (till, on_haproxy)):
        wait_for("it is recorded", lambda: stage.ledger.rollout(rollout.id).state is State.ROLLED_BACK, 60)  # noqa: B023
        assert store.answers_after(rollout.version, back) == 0


def test_row_19_ledger_frozen_for_longer_than_the_lease_takes_the_canary_off_where_the_balancer_keeps_the_lease(
    stage: FaultStage, till: Store, gone: Gone
) -> None:
    (rollout,) = stage.expose(till)
    frozen = time.time()
    stage.postgres.freeze()
    gone(till, rollout, frozen, LEASE + 1, row=19, fault="PostgreSQL frozen")
    wait_for("every lease is over", lambda: time.time() > frozen + LEASE + 2 * POLL, 10)
    stage.postgres.thaw()
    back = time.time()
    wait_for("it is recorded", lambda: stage.ledger.rollout(rollout.id).state is State.ROLLED_BACK, 60)
    assert till.answers_after(rollout.version, back) == 0


def test_row_19_ledger_frozen_for_longer_than_the_lease_takes_the_canary_off_where_only_watcher_and_guard_can(
    stage: FaultStage, shop: Store, gone: Gone
) -> None:
    (rollout,) = stage.expose(shop)
    frozen = time.time()
    stage.postgres.freeze()
    gone(shop, rollout, frozen, WITHOUT_LEDGER + QUESTIONS, row=19, fault="PostgreSQL frozen")


def test_row_19_ledger_restarted_within_the_lease_costs_nothing(
    stage: FaultStage, shop: Store, till: Store, results: Results
) -> None:
    rollouts = stage.expose(shop, till)
    windows = [len(stage.ledger.windows(rollout.id)) for rollout in rollouts]
    stage.postgres.kill()
    stage.postgres.start()
    for store, rollout, before in zip((shop, till), rollouts, windows, strict=True):
        wait_for("it is watched on", lambda: len(stage.ledger.windows(rollout.id)) > before + 3, 20)  # noqa: B023
        false = int(stage.ledger.rollout(rollout.id).state is not State.RUNNING)
        fault = "PostgreSQL killed and started again at once: false rollbacks"
        assert results.add(19, fault, store.balancer, bound=0, seen=false, unit="rollbacks").held
        assert store.weights()[rollout.canary] == 20

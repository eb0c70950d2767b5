"""People (and programs) do to a running rollout whatever Airflow lets them do."""

import time
from pathlib import Path

import pytest

from canary_release.ledger.records import Rollout, State
from demo.airflow_api import AirflowApiError
from faults_real.conftest import Gone
from faults_real.fault_stage import GUARD_PERIOD, FaultStage
from faults_real.patience import wait_for
from faults_real.results import Results
from faults_real.store import Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

STEP = "weight_20"
NOTICED = GUARD_PERIOD + 3.0  # the guard's next look, its question to Airflow, its write and its read-back
BY_A_TASK = 15.0  # Airflow starts a task, which acts
QUICK = "release_shop_quick"


def ended(stage: FaultStage, rollout: Rollout, seconds: float = 60) -> Rollout:
    """The rollout once it is over, which must be by a rollback."""
    wait_for(f"{rollout.id} is over", lambda: stage.ledger.rollout(rollout.id).state.final, seconds)
    over = stage.ledger.rollout(rollout.id)
    assert over.state is State.ROLLED_BACK
    return over


def test_row_15_dag_paused_in_a_bake_takes_the_canary_off(stage: FaultStage, shop: Store, gone: Gone) -> None:
    (rollout,) = stage.expose(shop)
    paused = time.time()
    stage.airflow.api.pause(shop.dag)
    try:
        gone(shop, rollout, paused, NOTICED, row=15, fault="DAG paused in a bake")
    finally:
        stage.airflow.api.pause(shop.dag, False)
    assert "paused" in ended(stage, rollout).outcome_reason


def test_row_15_run_marked_in_a_bake_takes_the_canary_off(
    stage: FaultStage, shop: Store, till: Store, gone: Gone
) -> None:
    failed, succeeded = stage.expose(shop, till)
    for store, rollout, state in ((shop, failed, "failed"), (till, succeeded, "success")):
        marked = time.time()
        stage.airflow.api.mark_run(rollout.dag_id, rollout.run_id, state)
        gone(store, rollout, marked, NOTICED, row=15, fault=f"run marked {state} in a bake")
        ended(stage, rollout)


def test_row_15_bake_and_compare_marked_success_do_not_promote(
    stage: FaultStage, shop: Store, till: Store, gone: Gone
) -> None:
    rollouts = stage.expose(shop, till)
    for store, rollout, tasks in zip((shop, till), rollouts, (["bake"], ["compare", "bake"]), strict=True):
        marked = time.time()
        for task in tasks:
            stage.airflow.api.mark_task(rollout.dag_id, rollout.run_id, f"{STEP}.{task}", "success")
        gone(store, rollout, marked, BY_A_TASK, row=15, fault=f"{' and '.join(tasks)} marked success")
        ended(stage, rollout)
        assert len(stage.raises(rollout)) == 1


def test_row_15_bake_marked_failed_takes_the_canary_off_and_promote_marked_success_raises_nothing(
    stage: FaultStage, shop: Store, till: Store, gone: Gone
) -> None:
    on_traefik, on_haproxy = stage.expose(shop, till)
    for task in ("weight_100.shift", "weight_100.bake", "promote"):
        stage.airflow.api.mark_task(on_haproxy.dag_id, on_haproxy.run_id, task, "success")
    marked = time.time()
    stage.airflow.api.mark_task(on_traefik.dag_id, on_traefik.run_id, f"{STEP}.bake", "failed")
    gone(shop, on_traefik, marked, BY_A_TASK, row=15, fault="bake marked failed")
    stage.airflow.api.mark_task(on_haproxy.dag_id, on_haproxy.run_id, f"{STEP}.bake", "success")
    gone(till, on_haproxy, marked, 2 * BY_A_TASK, row=15, fault="the last step and promote marked success")
    for rollout in (on_traefik, on_haproxy):
        ended(stage, rollout)
        assert len(stage.raises(rollout)) == 1


def test_row_15_shift_cleared_in_a_bake_writes_nothing_twice_and_goes_on(
    stage: FaultStage, till: Store, results: Results
) -> None:
    (rollout,) = stage.expose(till)
    began, before = time.time(), len(stage.ledger.windows(rollout.id))
    stage.airflow.api.clear_tasks(rollout.dag_id, rollout.run_id, [f"{STEP}.shift"], downstream=True)
    shift = f"{STEP}.shift"

    def again() -> bool:
        tasks = stage.airflow.api.tasks(rollout.dag_id, rollout.run_id)
        return (tasks[shift].try_number, tasks[shift].state, tasks[f"{STEP}.bake"].state) == (2, "success", "deferred")

    wait_for("shift and bake ran again", again, 60)
    wait_for("it is watched on", lambda: len(stage.ledger.windows(rollout.id)) > before + 3, 30)
    assert stage.ledger.rollout(rollout.id).state is State.RUNNING
    writes = len(till.balancer_wire.calls(b".share", since=began))
    assert results.add(15, "shift cleared in a bake", till.balancer, bound=0, seen=writes, unit="writes").held


def test_row_15_run_in_a_bake_cannot_be_deleted_and_goes_on(stage: FaultStage, shop: Store, results: Results) -> None:
    (rollout,) = stage.expose(shop)
    with pytest.raises(AirflowApiError) as refusal:
        stage.airflow.api.delete_run(rollout.dag_id, rollout.run_id)
    assert refusal.value.status == 409
    before = len(stage.ledger.windows(rollout.id))
    wait_for("it is watched on", lambda: len(stage.ledger.windows(rollout.id)) > before + 3, 30)
    false = int(stage.ledger.rollout(rollout.id).state is not State.RUNNING)
    fault = "run deleted in a bake (Airflow refuses): false rollbacks"
    assert results.add(15, fault, shop.balancer, bound=0, seen=false, unit="rollbacks").held


def test_row_15_release_file_deleted_in_a_bake_leaves_no_canary_beyond_the_lease(
    stage: FaultStage, shop: Store, gone: Gone
) -> None:
    file = stage.releases / "shop_quick.yaml"
    text = file.read_text()
    run = stage.trigger(shop, shop.next_version(), dag=QUICK)
    rollout = stage.watched(*run)
    file.unlink()
    try:
        wait_for("the bake is decided", lambda: stage.ledger.decisions(rollout.id)[-1].decision == "advance", 60)
        # Nobody acts upon it: Airflow finds no DAG for the next task. The lease of the last look is what ends it.
        last = stage.ledger.windows(rollout.id)[-1].end
        gone(shop, rollout, last, 30 + GUARD_PERIOD + 3, row=15, fault="release file deleted in a bake")
        ended(stage, rollout)
    finally:
        file.write_text(text)
    assert len(stage.raises(rollout)) == 1


def test_row_16_old_runs_cleared_and_their_xcoms_edited_move_no_traffic(
    stage: FaultStage, shop: Store, till: Store, results: Results
) -> None:
    promoted = stage.trigger(shop, shop.next_version(), dag=QUICK)
    rolled_back = stage.trigger(till, till.next_version(error_rate=0.4))
    for run, state in ((rolled_back, "failed"), (promoted, "success")):
        assert stage.airflow.api.wait_until_ended(*run, 150).state == state
    before, began = stage.writes(), time.time()
    weights = [store.weights() for store in (shop, till)]
    file = Path(shop.server.dynamic_file)  # type: ignore[union-attr]
    written = file.stat().st_ino
    forge(stage, *rolled_back, f"{STEP}.compare", "decision", "advance")
    for run in (rolled_back, promoted):
        stage.airflow.api.clear_run(*run)
    for run in (rolled_back, promoted):
        assert stage.airflow.api.wait_until_ended(*run, 150).state == "failed"
    assert [store.weights() for store in (shop, till)] == weights
    moved = file.stat().st_ino != written
    for store, count in ((shop, int(moved)), (till, len(till.balancer_wire.calls(b"set map", since=began)))):
        fault = "finished runs cleared whole, XComs edited"
        assert results.add(16, fault, store.balancer, bound=0, seen=count, unit="writes").held
    assert stage.writes() == before


def forge(stage: FaultStage, dag: str, run: str, task: str, key: str, value: str) -> None:
    """Edit an XCom as any Airflow user may."""
    path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/{key}"
    stage.airflow.api.call("PATCH", path, {"value": value, "map_index": -1})
    assert stage.airflow.api.xcom(dag, run, task, key) == value

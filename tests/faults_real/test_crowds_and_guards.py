"""Many start one service at once; nobody guards, or several do."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from canary_release.ledger.records import State
from faults.results_file import record_figure
from faults_real.conftest import Gone
from faults_real.fault_stage import GUARD_PERIOD, FaultStage
from faults_real.patience import wait_for
from faults_real.results import Results
from faults_real.store import LEASE, Store
from faults_real.test_people import BY_A_TASK, NOTICED, QUICK, ended

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

CROWD = "release_shop_crowd"
TRIGGERS = 50


def test_row_17_two_runs_of_one_service_at_once_and_one_is_told_who_holds_it(
    stage: FaultStage, shop: Store, results: Results
) -> None:
    version = shop.next_version()
    runs = [stage.trigger(shop, version), stage.trigger(shop, version, dag=QUICK)]

    def refused() -> list[tuple[str, str]]:
        return [run for run in runs if stage.airflow.api.tasks(*run)["start"].state == "failed"]

    (loser,) = wait_for("one is refused", refused, 60)
    (winner,) = (run for run in runs if run != loser)
    rollout = stage.watched(*winner)
    assert "shop is busy" in stage.airflow.api.log(*loser, "start")
    assert stage.airflow.api.wait_until_ended(*loser, 60).state == "failed"
    assert stage.ledger.rollout(rollout.id).state is State.RUNNING
    assert stage.ledger.rollout_of_run(*loser) is None
    others = sum(write.raises and write.rollout_id != rollout.id for write in stage.ledger.writes(rollout.id))
    fault = "two DAGs of one service triggered at once: writes of the refused one"
    assert results.add(17, fault, shop.balancer, bound=0, seen=others, unit="writes").held


def test_row_26_dag_paused_in_a_bake_is_ended_by_the_guardian_dag_alone(
    stage: FaultStage, shop: Store, gone: Gone
) -> None:
    """Without the guard beside Airflow; the DAG's period is a minute."""
    stage.guard.kill(signal.SIGSTOP)
    try:
        (rollout,) = stage.expose(shop)
        paused = time.time()
        stage.airflow.api.pause(shop.dag)
        gone(shop, rollout, paused, 60 + BY_A_TASK, row=26, fault="DAG paused in a bake, guardian DAG alone")
    finally:
        stage.airflow.api.pause(shop.dag, False)
        stage.guard.kill(signal.SIGCONT)
    ended(stage, rollout)


def test_row_26_two_guards_and_the_guardian_dag_do_what_one_does(stage: FaultStage, shop: Store, gone: Gone) -> None:
    with stage.new_guard("second guard"):
        (rollout,) = stage.expose(shop)
        paused = time.time()
        stage.airflow.api.pause(shop.dag)
        try:
            gone(shop, rollout, paused, NOTICED, row=26, fault="DAG paused in a bake, two guards")
            over = ended(stage, rollout)
            time.sleep(3 * GUARD_PERIOD)  # whoever came second has looked by now
        finally:
            stage.airflow.api.pause(shop.dag, False)
    assert stage.ledger.rollout(rollout.id) == over, "it was ended once"
    events = [entry.event for entry in stage.ledger.audit_trail(rollout_id=rollout.id)]
    assert events.count("rolled_back") == 1
    assert len(stage.raises(rollout)) == 1


def test_row_26_without_any_guard_haproxys_lease_ends_what_nobody_watches(
    stage: FaultStage, till: Store, gone: Gone
) -> None:
    (rollout,) = stage.expose(till)
    stage.airflow.api.pause("canary_guardian")
    stage.kill_guard()
    killed = time.time()
    stage.kill_component("triggerer")
    try:
        gone(till, rollout, killed, LEASE + 1, row=26, fault="guard and triggerer killed, guardian DAG paused")
    finally:
        stage.start_components("triggerer")
        stage.airflow.api.pause("canary_guardian", False)
        stage.start_guard()
    ended(stage, rollout)


@pytest.mark.timeout(560)
def test_row_17_fifty_people_trigger_one_service_at_once_and_forty_nine_are_told_who_holds_it(
    stage: FaultStage, shop: Store, results: Results
) -> None:
    version = shop.next_version()
    with ThreadPoolExecutor(TRIGGERS) as people:
        runs = list(people.map(lambda _: stage.trigger(shop, version, dag=CROWD), range(TRIGGERS)))
    states: dict[tuple[str, str], str] = {}

    def started() -> bool:
        for run in runs:
            if run not in states and (state := stage.airflow.api.tasks(*run)["start"].state) in ("success", "failed"):
                states[run] = state
        return len(states) == TRIGGERS

    wait_for("every start is over", started, 500, every=3.0)
    (winner,) = (run for run, state in states.items() if state == "success")
    refused = [run for run in runs if run != winner]
    rollout = stage.begun(*winner)
    told = sum(f"shop is busy: {rollout.id}" in stage.airflow.api.log(*run, "start") for run in refused)
    begun = [run for run in runs if stage.ledger.rollout_of_run(*run)]
    said = f"{len(begun)} begun, {told} refused with who holds the service"
    record_figure("50 triggers", said, held=(len(begun), told) == (1, TRIGGERS - 1))
    fault = f"{TRIGGERS} runs triggered at once: rollouts begun"
    assert results.add(17, fault, shop.balancer, bound=1, seen=len(begun), unit="rollouts").held
    fault = f"{TRIGGERS} runs triggered at once: not told who holds the service"
    assert results.add(17, fault, shop.balancer, bound=0, seen=TRIGGERS - 1 - told, unit="runs").held
    for run in refused:  # by themselves: fifty marks of a person would have to wait for Airflow's own fifty
        assert stage.airflow.api.wait_until_ended(*run, 240).state == "failed"

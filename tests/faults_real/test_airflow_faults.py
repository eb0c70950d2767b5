"""Processes of a real Airflow die or freeze amid a rollout; the clients say how long its canary lived on."""

import os
import signal
import time

import psutil
import pytest

from canary_release.control.ending import abort
from canary_release.control.real_desk import open_desk
from canary_release.ledger.records import Rollout, State
from demo import traffic_log
from demo.airflow_server import COMPONENTS
from demo.fault_proxy import Fault, Kind
from demo.follow import time_to_zero
from faults.results_file import record_figure
from faults_real.conftest import Gone
from faults_real.fault_stage import GUARD_PERIOD, FaultStage
from faults_real.patience import wait_for
from faults_real.results import Results
from faults_real.store import LEASE, POLL, Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

BY_ITSELF = LEASE + 1.0  # the load balancer ends the lease
BY_THE_GUARD = LEASE + GUARD_PERIOD + 2.0  # the guard's next look, its write and its read-back
RAISE = b".share 2000"  # the command that gives till-green its 20 %


@pytest.fixture(scope="module")
def took() -> list[float]:
    """Seconds from evidence to weight 0, of all rounds."""
    return []


def held_task(store: Store) -> int:
    """The process of the task whose call the wire holds back."""
    (call,) = wait_for("the task's call is held", store.balancer_wire.held, 60)
    return wait_for("its process is found", lambda: store.balancer_wire.pid_of(call), 5)


def ended(stage: FaultStage, rollout: Rollout) -> Rollout:
    """The rollout once it is over, which must be by a rollback."""
    wait_for(f"{rollout.id} is over", lambda: stage.ledger.rollout(rollout.id).state.final, 60)
    over = stage.ledger.rollout(rollout.id)
    assert over.state is State.ROLLED_BACK
    return over


@pytest.mark.parametrize("moment", ["T1 before the write", "T2 after the write"])
def test_row_01_task_killed_in_its_shift_is_resumed_with_the_same_weight(
    stage: FaultStage, till: Store, results: Results, moment: str
) -> None:
    kind = Kind.HANG if moment.startswith("T1") else Kind.HOLD_ANSWER
    till.balancer_wire.play(Fault(kind, seconds=60), only=RAISE, times=1)
    began = time.time()
    run = stage.trigger(till, till.next_version())
    os.kill(stage.task_process(held_task(till)).pid, signal.SIGKILL)
    till.balancer_wire.let_go()
    rollout = stage.watched(*run)
    assert (rollout.state, rollout.step) == (State.RUNNING, 0)
    assert till.weights()[rollout.canary] == 20
    asked = stage.raises(rollout)
    assert len(set(asked)) == 1
    writes = len(till.balancer_wire.calls(RAISE, since=began))
    assert results.add(1, f"kill -9 of the task, {moment}", till.balancer, bound=2, seen=writes, unit="writes").held


def test_row_02_task_killed_with_its_supervisor_leaves_no_canary_beyond_the_lease(
    stage: FaultStage, till: Store, gone: Gone
) -> None:
    with stage.nobody_guards():
        till.balancer_wire.play(Fault(Kind.HOLD_ANSWER, seconds=60), only=RAISE, times=1)
        run = stage.trigger(till, till.next_version())
        task = stage.task_process(held_task(till))
        supervisor = task.parent()
        assert supervisor is not None
        killed = time.time()
        for process in (supervisor, task):
            process.kill()
        till.balancer_wire.let_go()
        rollout = stage.begun(*run)
        gone(till, rollout, killed, BY_ITSELF, row=2, fault="kill -9 of supervisor and task, T2")
    ended(stage, rollout)


def test_row_03_scheduler_is_dead_and_the_version_turns_bad_yet_the_trigger_takes_it_off(
    stage: FaultStage, shop: Store, till: Store, results: Results
) -> None:
    with stage.nobody_guards():
        rollouts = stage.expose(shop, till)
        stage.airflow.kill("scheduler")
        for store, rollout in zip((shop, till), rollouts, strict=True):
            store.turn_bad(rollout.canary, rollout.version)
        for store, rollout in zip((shop, till), rollouts, strict=True):
            wait_for("the canary is off", lambda: store.weights()[rollout.canary] == 0, 40)  # noqa: B023
        off = time.time()
        stage.start_components("scheduler")
    for store, rollout in zip((shop, till), rollouts, strict=True):
        took = time_to_zero(stage.ledger, ended(stage, rollout))
        assert took is not None
        fault = "scheduler dead, the version turns bad: evidence to weight 0"
        assert results.add(3, fault, store.balancer, bound=POLL + 1, seen=took).held
        assert store.answers_after(rollout.version, off + 1) == 0
        assert len(stage.raises(rollout)) == 1


def test_row_03_scheduler_dies_and_comes_back_in_a_bake_and_the_good_version_goes_on(
    stage: FaultStage, till: Store, results: Results
) -> None:
    (rollout,) = stage.expose(till)
    stage.airflow.kill("scheduler")
    seen = len(stage.ledger.windows(rollout.id))
    wait_for("it is watched on", lambda: len(stage.ledger.windows(rollout.id)) >= seen + 5, 20)
    stage.start_components("scheduler")
    fault = "kill -9 of the scheduler in a bake: false rollbacks"
    false = int(stage.ledger.rollout(rollout.id).state is not State.RUNNING)
    assert results.add(3, fault, till.balancer, bound=0, seen=false, unit="rollbacks").held


def test_row_04_triggerer_killed_in_a_bake_leaves_no_canary_beyond_the_lease(
    stage: FaultStage, shop: Store, till: Store, gone: Gone
) -> None:
    with stage.nobody_guards():
        (on_haproxy,) = stage.expose(till)
        killed = time.time()
        stage.kill_component("triggerer")
        gone(till, on_haproxy, killed, BY_ITSELF, row=4, fault="kill -9 of the triggerer, nobody guards")
        stage.start_components("triggerer")
    (on_traefik,) = stage.expose(shop)
    killed = time.time()
    stage.kill_component("triggerer")
    gone(shop, on_traefik, killed, BY_THE_GUARD, row=4, fault="kill -9 of the triggerer")
    back = time.time()
    stage.start_components("triggerer")
    for store, rollout in ((shop, on_traefik), (till, on_haproxy)):
        ended(stage, rollout)
        assert store.answers_after(rollout.version, back) == 0


@pytest.mark.parametrize("seconds", [30, 120])
def test_row_04_api_server_and_dag_processor_die_in_a_bake_and_the_good_version_goes_on(
    stage: FaultStage, shop: Store, till: Store, results: Results, seconds: int
) -> None:
    rollouts = stage.expose(shop, till)
    killed = time.time()
    stage.kill_component("api-server")
    stage.kill_component("dag-processor")
    windows = [len(stage.ledger.windows(rollout.id)) for rollout in rollouts]
    wait_for("they were dead for so long", lambda: time.time() > killed + seconds, seconds + 5)
    stage.start_components("api-server", "dag-processor")
    for store, rollout, before in zip((shop, till), rollouts, windows, strict=True):
        fault = f"kill -9 of API server and DAG processor for {seconds} s: false rollbacks"
        false = int(stage.ledger.rollout(rollout.id).state is not State.RUNNING)
        assert results.add(4, fault, store.balancer, bound=0, seen=false, unit="rollbacks").held
        assert len(stage.ledger.windows(rollout.id)) >= before + seconds * 2 / 3
        during = traffic_log.between(store.traffic.seconds(), killed + 1, killed + seconds - 1)
        share = traffic_log.share_observed(during, rollout.version)
        assert share == pytest.approx(0.2, abs=0.06)


def test_row_05_all_of_airflow_dies_and_comes_back_to_no_canary(
    stage: FaultStage, shop: Store, till: Store, gone: Gone
) -> None:
    on_traefik, on_haproxy = stage.expose(shop, till)
    killed = time.time()
    stage.kill_airflow()
    for store, rollout in ((shop, on_traefik), (till, on_haproxy)):
        store.turn_bad(rollout.canary, rollout.version)
    gone(till, on_haproxy, killed, BY_ITSELF, row=5, fault="all of Airflow killed")
    seen = gone(shop, on_traefik, killed, BY_THE_GUARD, row=5, fault="all of Airflow killed")
    said = f"{seen:.1f} s, lease {LEASE:g} s, guard period {GUARD_PERIOD:g} s"
    record_figure("killed traefik", said, held=seen <= BY_THE_GUARD)
    back = time.time()
    stage.start_components(*COMPONENTS)
    for store, rollout in ((shop, on_traefik), (till, on_haproxy)):
        ended(stage, rollout)
        assert store.answers_after(rollout.version, back) == 0


def test_row_05_airflow_and_guard_die_and_haproxy_alone_ends_the_canary(
    stage: FaultStage, till: Store, gone: Gone
) -> None:
    (rollout,) = stage.expose(till)
    killed = time.time()
    stage.kill_airflow()
    stage.kill_guard()
    try:
        till.turn_bad(rollout.canary, rollout.version)
        seen = gone(till, rollout, killed, BY_ITSELF, row=5, fault="all of Airflow and the guard killed")
        record_figure("killed haproxy", f"{seen:.1f} s, lease {LEASE:g} s", held=seen <= BY_ITSELF)
        back = time.time()
        assert stage.ledger.rollout(rollout.id).state is State.RUNNING, "nobody lives who could have ended it"
    finally:
        stage.start_guard()
        stage.start_components(*COMPONENTS)
    ended(stage, rollout)
    assert till.answers_after(rollout.version, back) == 0


@pytest.mark.parametrize("time_of", range(3))
def test_version_that_turns_bad_is_off_within_a_poll_and_a_second_of_the_evidence(
    stage: FaultStage, shop: Store, till: Store, time_of: int, took: list[float]
) -> None:
    rollouts = stage.expose(shop, till)
    for store, rollout in zip((shop, till), rollouts, strict=True):
        store.turn_bad(rollout.canary, rollout.version)
    for rollout in rollouts:
        seconds = time_to_zero(stage.ledger, ended(stage, rollout))
        assert seconds is not None
        took.append(seconds)
    said = f"longest {max(took):.2f} s of {len(took)}, one poll being {POLL:g} s"
    record_figure("fail real", said, held=max(took) <= POLL + 1)
    assert max(took) <= POLL + 1


def test_row_06_frozen_task_that_wakes_after_an_abort_moves_no_traffic_on_haproxy(
    stage: FaultStage, till: Store, results: Results
) -> None:
    wire = till.balancer_wire
    with stage.nobody_guards():
        # Held once before its last look at the ledger and once behind it: what it writes next is asked of nobody.
        wire.play(Fault(Kind.HOLD_ANSWER, seconds=60), only=b".until 1", times=1)
        run = stage.trigger(till, till.next_version())
        task = held_task(till)
        wire.play(Fault(Kind.HOLD_ANSWER, seconds=60), only=b"show map", times=1)
        wire.let_go()
        wait_for("it is about to write", lambda: [call for call in wire.held() if b"show map" in call.request], 20)
        assert held_task(till) == task
        os.kill(task, signal.SIGSTOP)
        try:
            rollout = stage.begun(*run)
            abort(open_desk(), "till", "while its task is frozen", actor="test")
        finally:
            wire.let_go()
            woken = time.time()
            os.kill(task, signal.SIGCONT)
        wait_for("the zombie writes", lambda: wire.calls(RAISE, since=woken), 20)
        wait_for("the zombie is gone", lambda: not psutil.pid_exists(task), 40)
    late = till.last_answer(rollout.version) - woken
    fault = "task frozen before its write, aborted, woken: canary traffic"
    assert results.add(6, fault, till.balancer, bound=0, seen=late).held
    assert till.weights()[rollout.canary] == 0
    ended(stage, rollout)


def test_row_06_frozen_task_that_wakes_after_an_abort_takes_its_raise_back_on_traefik(
    stage: FaultStage, shop: Store, gone: Gone
) -> None:
    import fcntl

    file = shop.server.dynamic_file  # type: ignore[union-attr]
    before = file.stat().st_ino
    with stage.nobody_guards(), file.with_name(file.name + ".lock").open("a") as lock:
        run = stage.trigger(shop, shop.next_version())
        wait_for("the way back was tried", lambda: file.stat().st_ino != before, 60, every=0.01)
        fcntl.flock(lock, fcntl.LOCK_EX)
        rollout = stage.begun(*run)
        wait_for("it is about to write", lambda: stage.raises(rollout), 60, every=0.02)
        task = wait_for("its process is found", lambda: waiting_for(stage, lock.name), 4, every=0.02)
        os.kill(task, signal.SIGSTOP)
        fcntl.flock(lock, fcntl.LOCK_UN)
        try:
            abort(open_desk(), "shop", "while its task is frozen", actor="test")
        finally:
            woken = time.time()
            os.kill(task, signal.SIGCONT)
        wait_for("the zombie is gone", lambda: not psutil.pid_exists(task), 40)
    gone(shop, rollout, woken, 2.0, row=6, fault="task frozen before its write, aborted, woken: canary traffic")
    ended(stage, rollout)


def waiting_for(stage: FaultStage, lock: str) -> int | None:
    """The process of Airflow that has this lock file open."""
    for pid in stage.airflow.pids():
        try:
            if any(each.path == lock for each in psutil.Process(pid).open_files()):
                return pid
        except psutil.Error:
            continue
    return None

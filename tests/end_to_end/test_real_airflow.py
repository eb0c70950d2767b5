"""Rollouts through a real Airflow on a real proxy under real traffic, driven by the REST API as a user would."""

import time
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger
from demo import traffic_log
from demo.follow import time_to_zero
from demo.stage import DAG_ID, Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
POLL = 1.0
TASKS = [  # that have something to say in a run that was rolled back at its first step
    "start", "weight_10.shift", "weight_10.bake", "weight_10.compare", "weight_10.decide", "weight_50.decide",
    "roll_back", "outcome", "settle",
]  # fmt: skip


@pytest.fixture
def ledger(stage: Stage) -> Iterator[Ledger]:
    opened = stage.ledger()
    yield opened
    opened.close()


def begin(stage: Stage, version: str, **knobs: float) -> str:
    """Deploy to the side without traffic and trigger; returns the run's id."""
    idle = min(stage.weights().shares.items(), key=lambda item: item[1])[0]
    stage.deploy(idle, version, **knobs)
    stage.airflow.api.trigger(DAG_ID, f"shop-{version}", conf={"version": version})
    return f"shop-{version}"


def wait_for(what: str, condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def canary_percent(stage: Stage, rollout: Rollout) -> Decimal:
    return stage.weights()[rollout.canary]


def begin_and_expose(stage: Stage, ledger: Ledger, version: str) -> Rollout:
    """A rollout whose canary has traffic and whose bake is being watched."""
    run = begin(stage, version)
    wait_for("the canary has traffic", lambda: (r := ledger.rollout_of_run(DAG_ID, run)) and ledger.windows(r.id), 60)
    rollout = ledger.rollout_of_run(DAG_ID, run)
    assert rollout is not None
    assert canary_percent(stage, rollout) > 0
    return rollout


def test_good_version_is_promoted_and_the_run_is_green(stage: Stage, ledger: Ledger) -> None:
    run = begin(stage, "v2")
    ended = stage.airflow.api.wait_until_ended(DAG_ID, run, 180)
    rollout = ledger.rollout_of_run(DAG_ID, run)
    assert rollout is not None
    assert (ended.state, rollout.state) == ("success", State.PROMOTED)
    assert canary_percent(stage, rollout) == 100
    log = stage.airflow.api.log(DAG_ID, run, "weight_10.shift")
    assert "canary 0 % -> 10 %" in log
    assert "read back" in log
    seconds = traffic_log.between(stage.traffic.seconds(), rollout.started_at, rollout.ended_at or 0)
    assert traffic_log.lost(seconds) == 0


def test_bad_version_is_rolled_back_and_red_at_the_step_that_failed(stage: Stage, ledger: Ledger) -> None:
    run = begin(stage, "v3", error_rate=0.3)
    ended = stage.airflow.api.wait_until_ended(DAG_ID, run, 120)
    rollout = ledger.rollout_of_run(DAG_ID, run)
    assert rollout is not None
    assert (ended.state, rollout.state) == ("failed", State.ROLLED_BACK)
    assert canary_percent(stage, rollout) == 0
    states = {task: instance.state for task, instance in stage.airflow.api.tasks(DAG_ID, run).items()}
    assert states["weight_10.compare"] == "failed"
    assert (states["roll_back"], states["promote"], states["weight_50.shift"]) == ("success", "skipped", "skipped")
    assert "error_rate" in stage.airflow.api.log(DAG_ID, run, "weight_10.compare")
    took = time_to_zero(ledger, rollout)
    assert took is not None
    assert took <= POLL + 1, "the evidence crossed the line, weight 0 came late"
    for task in TASKS:
        said = [str(line["event"]) for line in stage.airflow.api.log_events(DAG_ID, run, task)]
        assert [event for event in said if event.startswith("canary.")], f"{task} tells programs nothing"
    assert "skipped  the step 50 % was never begun" in stage.airflow.api.log(DAG_ID, run, "weight_50.decide")


def test_run_that_a_person_marks_failed_leaves_no_canary(stage: Stage, ledger: Ledger) -> None:
    rollout = begin_and_expose(stage, ledger, "v4")
    stage.airflow.api.mark_run(DAG_ID, rollout.run_id, "failed")
    wait_for("the teardown took the canary off", lambda: canary_percent(stage, rollout) == 0, 30)
    ended = stage.airflow.api.wait_until_ended(DAG_ID, rollout.run_id, 60)
    assert ended.state == "failed"
    assert ledger.rollout(rollout.id).state is State.ROLLED_BACK


def test_abort_dag_takes_the_canary_off(stage: Stage, ledger: Ledger) -> None:
    rollout = begin_and_expose(stage, ledger, "v5")
    stage.airflow.api.trigger("canary_abort", "abort-v5", conf={"service": "shop", "reason": "test of the abort"})
    wait_for("the abort took the canary off", lambda: canary_percent(stage, rollout) == 0, 30)
    assert stage.airflow.api.wait_until_ended(DAG_ID, rollout.run_id, 90).state == "failed"
    assert "test of the abort" in ledger.rollout(rollout.id).outcome_reason


def test_scheduler_killed_in_a_bake_leaves_no_canary_once_the_guardian_has_run(stage: Stage, ledger: Ledger) -> None:
    rollout = begin_and_expose(stage, ledger, "v6")
    stage.airflow.kill_with_children("scheduler")
    # Nobody schedules the step after the bake, so the lease that the bake's watcher renewed runs out.
    wait_for("the lease ran out", lambda: time.time() > (ledger.rollout(rollout.id).lease_until or 0), 90)
    stage.airflow.start_component("scheduler")
    wait_for("the canary is off", lambda: canary_percent(stage, rollout) == 0, 120)
    assert stage.airflow.api.wait_until_ended(DAG_ID, rollout.run_id, 120).state == "failed"
    assert ledger.rollout(rollout.id).state is State.ROLLED_BACK


def test_broken_release_file_is_a_red_dag_that_shows_the_error(stage: Stage) -> None:
    wait_for("its run is over", lambda: [run for run in stage.airflow.api.runs("release_broken") if run.over], 60)
    (run,) = stage.airflow.api.runs("release_broken")
    assert run.state == "failed"
    # The task's state arrives before the last lines of its log do.
    wait_for(
        "its log shows the error",
        lambda: "broken.yaml:4" in stage.airflow.api.log("release_broken", run.run_id, "release_file"),
        20,
    )

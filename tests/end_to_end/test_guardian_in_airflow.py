"""The guardian's DAG in a real Airflow: it sees what no lease can tell so soon, a paused DAG and a deleted run."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from canary_release.control.airflow_checks import check_dags
from canary_release.control.desk import Desk
from canary_release.control.doctor_checks import Level
from canary_release.control.real_desk import open_desk, open_ledger, read_release
from canary_release.control.starting import StartRequest, start
from canary_release.control.stepping import shift
from canary_release.hooks.airflow_runs import AirflowRuns, is_configured
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.ticks import last_tick
from demo.stage import DAG_ID, Stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
GUARDIAN = "canary_guardian"

RELEASE = """\
service: shop
load_balancer: {type: traefik, connection: canary_traefik, route: shop, backends: [shop-blue, shop-green]}
metrics: {type: scrape, connection: canary_metrics, preset: traefik}
lease: 10m
steps:
  - {weight: 10%, bake: 10m}
  - {weight: 100%, bake: 10m}
checks:
  - {metric: error_rate, max_increase: 0.5pp}
"""


@pytest.fixture
def runs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> AirflowRuns:
    """The same questions asked from outside, with a login."""
    host, _, port = stage.airflow.url.removeprefix("http://").partition(":")
    connection = {"conn_type": "http", "host": host, "port": int(port), "login": stage.airflow.user}
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_AIRFLOW", json.dumps(connection | {"password": stage.airflow.password}))
    assert is_configured()
    return AirflowRuns()


@pytest.fixture
def desk(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """The stage's ledger and load balancer in the hands of this process."""
    for name, value in stage.connections().items():
        monkeypatch.setenv(name, value)
    open_ledger.cache_clear()
    yield open_desk()
    open_ledger().close()
    open_ledger.cache_clear()


def exposed(desk: Desk, folder: Path, run_id: str) -> Rollout:
    """A rollout of this run whose canary has 10 % of the traffic, and whose lease lives for ten minutes."""
    file = folder / "shop.yaml"
    file.write_text(RELEASE)
    request = StartRequest(
        release=read_release(file), release_name=file.name, version="v9", dag_id=DAG_ID, run_id=run_id, by="ada"
    )
    rollout = start(desk, request).rollout
    shift(desk, rollout, 0, actor="task")
    return desk.ledger.rollout(rollout.id)


@contextmanager
def guardian_away(stage: Stage) -> Iterator[None]:
    """No look of the guardian inside the block, so that its minute does not fall amid the making of a canary.

    A run that was made in the moment of the pause would wait for its end, so the pause is taken back and asked again.
    """
    deadline = time.monotonic() + 60
    try:
        stage.airflow.api.pause(GUARDIAN, True)
        while any(not run.over for run in stage.airflow.api.runs(GUARDIAN)):
            assert time.monotonic() < deadline, "a look of the guardian does not end"
            stage.airflow.api.pause(GUARDIAN, False)
            time.sleep(1.0)
            stage.airflow.api.pause(GUARDIAN, True)
        yield
    finally:
        stage.airflow.api.pause(GUARDIAN, False)


def look_now(stage: Stage, run_id: str) -> None:
    """One look of the guardian, without waiting for its minute."""
    stage.airflow.api.trigger(GUARDIAN, run_id)
    assert stage.airflow.api.wait_until_ended(GUARDIAN, run_id, 60).state == "success"


def test_canary_of_a_paused_dag_is_taken_off_while_its_lease_still_lives(
    stage: Stage, desk: Desk, runs: AirflowRuns, tmp_path: Path
) -> None:
    stage.airflow.api.pause(DAG_ID, True)
    try:
        stage.airflow.api.trigger(DAG_ID, "shop-paused", conf={"version": "v9"})
        with guardian_away(stage):
            rollout = exposed(desk, tmp_path, "shop-paused")
            assert stage.weights()[rollout.canary] == 10
        assert runs.run_state(rollout.dag_id, rollout.run_id) == "paused"
        look_now(stage, "look-paused")
        ended = desk.ledger.rollout(rollout.id)
        assert (ended.state, stage.weights()[rollout.canary]) == (State.ROLLED_BACK, 0)
        assert "is paused" in ended.outcome_reason
        assert last_tick(desk.ledger, "guardian DAG") is not None
    finally:
        stage.airflow.api.pause(DAG_ID, False)
    # Unpaused, the run finds its rollout over and raises nothing.
    assert stage.airflow.api.wait_until_ended(DAG_ID, "shop-paused", 120).state == "failed"
    assert stage.weights()[rollout.canary] == 0


def test_canary_whose_run_airflow_does_not_know_is_taken_off_while_its_lease_still_lives(
    stage: Stage, desk: Desk, runs: AirflowRuns, tmp_path: Path
) -> None:
    with guardian_away(stage):
        rollout = exposed(desk, tmp_path, "shop-deleted")
        assert stage.weights()[rollout.canary] == 10
    assert runs.run_state(rollout.dag_id, rollout.run_id) is None
    look_now(stage, "look-deleted")
    ended = desk.ledger.rollout(rollout.id)
    assert (ended.state, stage.weights()[rollout.canary]) == (State.ROLLED_BACK, 0)
    assert "has no run shop-deleted" in ended.outcome_reason


def test_doctor_sees_a_paused_guardian(stage: Stage, runs: AirflowRuns) -> None:
    assert {result.level for result in check_dags(runs)} == {Level.OK}
    stage.airflow.api.pause(GUARDIAN, True)
    try:
        (result,) = [one for one in check_dags(runs) if one.level is Level.FAIL]
        assert "canary_guardian is paused" in result.says
    finally:
        stage.airflow.api.pause(GUARDIAN, False)

"""Airflow's REST API and other machines' clocks, asked from outside of Airflow."""

import json
import time
from collections.abc import Iterator

import pytest

from canary_release.core.problems import ConnectionSettingsError
from canary_release.hooks.airflow_runs import AirflowRuns, AirflowUnreadableError, is_configured
from canary_release.hooks.server_clock import http_time
from contracts.little_servers import Answer, LittleServer, little_server
from demo.free_ports import LOOPBACK, free_ports

RUN = "/api/v2/dags/release_shop/dagRuns/shop-v2"
DAG = "/api/v2/dags/release_shop"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[LittleServer]:
    with little_server(Answer(b'{"detail": "not found"}', 404)) as server:
        connect(monkeypatch, server.port, extra={"headers": {"Authorization": "Bearer token-of-ours"}})
        yield server


def connect(monkeypatch: pytest.MonkeyPatch, port: int, **more: object) -> None:
    connection = {"conn_type": "http", "host": LOOPBACK, "port": port, **more}
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_AIRFLOW", json.dumps(connection))


def answers(api: LittleServer, state: str, *, paused: bool = False) -> None:
    api.answers[RUN] = Answer(json.dumps({"state": state}).encode())
    api.answers[DAG] = Answer(json.dumps({"is_paused": paused}).encode())


@pytest.mark.parametrize(
    ("state", "paused", "told"),
    [
        ("running", False, "running"),
        ("running", True, "paused"),
        ("failed", True, "failed"),
        ("queued", False, "queued"),
    ],
)
def test_state_of_a_run_and_its_dag_are_one_answer(api: LittleServer, state: str, paused: bool, told: str) -> None:
    answers(api, state, paused=paused)
    assert AirflowRuns().run_state("release_shop", "shop-v2") == told
    assert api.headers["Authorization"] == "Bearer token-of-ours"


def test_run_that_airflow_does_not_know_is_none(api: LittleServer) -> None:
    assert AirflowRuns().run_state("release_shop", "shop-v2") is None


def test_run_ids_that_look_like_paths_stay_ids(api: LittleServer) -> None:
    assert AirflowRuns().run_state("release_shop", "../../x?y") is None
    assert list(api.seen) == [f"{DAG}/dagRuns/..%2F..%2Fx%3Fy"]


@pytest.mark.parametrize(
    "answer", [Answer(b"no", 500), Answer(b"no", 401), Answer(b"<html>"), Answer(b"[]"), Answer(b"{}"), Answer(b"")]
)
def test_server_that_answers_something_else_is_not_a_deleted_run(api: LittleServer, answer: Answer) -> None:
    api.answers[RUN] = answer
    with pytest.raises(AirflowUnreadableError):
        AirflowRuns().run_state("release_shop", "shop-v2")


def test_server_that_is_away_and_a_failed_login_name_the_connection_and_no_secret(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connect(monkeypatch, free_ports(1)[0], login="canary", password="hush-hush")
    with pytest.raises(AirflowUnreadableError, match="connection canary_airflow") as said:
        AirflowRuns().run_state("release_shop", "shop-v2")
    assert "hush-hush" not in str(said.value)


def test_without_a_connection_nothing_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_CANARY_AIRFLOW", raising=False)
    assert not is_configured()
    with pytest.raises(ConnectionSettingsError):
        AirflowRuns().run_state("release_shop", "shop-v2")


# -- clocks ---------------------------------------------------------------------------------------------------------


def test_clock_of_a_server_is_its_date_whatever_else_it_answers(
    api: LittleServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = http_time("canary_airflow")
    assert told is not None
    assert abs(told - time.time()) < 2


def test_server_without_a_usable_clock_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, free_ports(1)[0])
    assert http_time("canary_airflow") is None
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_AIRFLOW", json.dumps({"conn_type": "aws"}))
    assert http_time("canary_airflow") is None
    monkeypatch.delenv("AIRFLOW_CONN_CANARY_AIRFLOW")
    assert http_time("canary_airflow") is None

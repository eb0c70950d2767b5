"""Every DAG that the checkout gives: loads, has the shape that safety needs, touches nothing while it is parsed."""

import socket
import sys
from pathlib import Path

import pytest
from airflow.sdk import DAG, BaseOperator, TriggerRule
from airflow.serialization.serialized_objects import DagSerialization

from canary_release.dag_factory import OUTCOME, PROMOTE, ROLL_BACK, SETTLE, START, release_dags

ROOT = Path(__file__).resolve().parents[2]
RELEASES = sorted((ROOT / "include" / "releases").glob("*.yaml"))

ONE_RELEASE = """\
service: web
load_balancer: {type: memory, connection: lb, backends: [web-a, web-b]}
metrics: {type: scrape, connection: metrics, preset: traefik}
steps:
  - {weight: 0.1%, bake: 1m}
  - {weight: 5%, bake: 1m}
  - {weight: 100%, bake: 1m}
checks:
  - {metric: error_rate, max_increase: 0.5pp}
"""


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("parsing a DAG opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def release_dag(tmp_path: Path, no_network: None) -> DAG:
    (tmp_path / "web.yaml").write_text(ONE_RELEASE)
    return release_dags(tmp_path)["release_web"]


def test_every_release_file_of_the_repository_gives_a_sound_dag(no_network: None) -> None:
    dags = release_dags(ROOT / "include" / "releases")
    assert sorted(dags) == sorted(f"release_{path.stem}" for path in RELEASES)
    assert not [dag_id for dag_id, dag in dags.items() if "broken" in dag.tags]


def test_steps_are_task_groups_named_by_weight(release_dag: DAG) -> None:
    groups = [group for group in release_dag.task_group_dict if group]
    assert groups == ["weight_0_1", "weight_5", "weight_100"] or sorted(groups) == sorted(
        ["weight_0_1", "weight_5", "weight_100"]
    )
    shown = {task.task_display_name for task in release_dag.tasks if task.task_id.startswith("weight_0_1.")}
    assert shown == {"0.1 % · shift", "0.1 % · bake", "0.1 % · compare", "0.1 % · decide"}


def test_nothing_may_time_out_a_run_or_start_one_by_itself(release_dag: DAG) -> None:
    # A timed-out run skips its rollback and even its teardowns.
    assert release_dag.dagrun_timeout is None
    assert (release_dag.schedule, release_dag.catchup) == (None, False)


def test_second_run_is_refused_by_the_ledger_and_not_queued_to_begin_by_itself_later(release_dag: DAG) -> None:
    assert release_dag.max_active_runs >= 50


def test_rollback_and_outcome_run_whatever_happened(release_dag: DAG) -> None:
    for task_id in (ROLL_BACK, OUTCOME):
        assert release_dag.get_task(task_id).trigger_rule == TriggerRule.ALL_DONE
    for task in release_dag.tasks:
        if task.task_id.endswith(".decide"):
            assert task.trigger_rule == TriggerRule.ALL_DONE
            assert ROLL_BACK in task.downstream_task_ids


def test_teardown_fails_the_run_and_belongs_to_start(release_dag: DAG) -> None:
    settle = release_dag.get_task(SETTLE)
    assert settle.is_teardown
    assert settle.on_failure_fail_dagrun
    assert release_dag.get_task(START).is_setup
    assert settle.upstream_task_ids == {START, ROLL_BACK}
    # Airflow takes a run's state from its leaves; an outcome above the teardown would not count.
    assert {task.task_id for task in release_dag.leaves} == {OUTCOME, SETTLE}


def test_only_the_last_step_leads_to_promotion(release_dag: DAG) -> None:
    assert release_dag.get_task(PROMOTE).upstream_task_ids == {"weight_100.decide"}
    assert release_dag.get_task("weight_5.shift").upstream_task_ids == {"weight_0_1.decide"}


def test_dags_survive_serialisation(release_dag: DAG) -> None:
    again = DagSerialization.from_dict(DagSerialization.to_dict(release_dag))
    assert set(again.task_dict) == set(release_dag.task_dict)


def test_one_broken_file_is_one_red_dag_and_the_others_stay(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(ONE_RELEASE)
    (tmp_path / "typo.yaml").write_text(ONE_RELEASE.replace("bake", "baek", 1))
    (tmp_path / "noise.yaml").write_bytes(b"\xff\xfe\x00 not yaml")
    dags = release_dags(tmp_path)
    assert sorted(dags) == ["release_good", "release_noise", "release_typo"]
    assert "broken" not in dags["release_good"].tags
    typo = dags["release_typo"]
    assert "broken" in typo.tags
    assert "typo.yaml:5" in (typo.doc_md or "")
    (task,) = typo.tasks
    with pytest.raises(Exception, match=r"typo\.yaml:5.*baek.*did you mean"):
        task.execute({})


def test_every_mutating_task_is_retried_or_final(release_dag: DAG) -> None:
    for task in release_dag.tasks:
        assert isinstance(task, BaseOperator)
        if task.task_id.endswith(".bake"):
            assert task.retries >= 3, "a deferred task can be failed through no fault of its own"


@pytest.mark.parametrize("name", ["canary_releases", "canary_guardian", "canary_abort", "canary_return"])
def test_dag_files_load_and_stay_small(name: str, no_network: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "dags" / f"{name}.py"
    assert len(path.read_text().splitlines()) < 40
    namespace: dict[str, object] = {"__file__": str(path), "__name__": name}
    exec(compile(path.read_text(), str(path), "exec"), namespace)  # noqa: S102  as Airflow does
    assert any(isinstance(value, DAG) for value in namespace.values())


def test_parsing_loads_nothing_heavy() -> None:
    import subprocess

    code = "import sys, canary_release.dag_factory; print(*({'pandas', 'boto3', 'requests'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert done.stdout.split() == []


def _environment() -> dict[str, str]:
    import os

    return os.environ | {"PYTHONPATH": str(ROOT / "plugins")}


WITH_PEOPLE = (
    ONE_RELEASE.replace(
        "  - {weight: 100%, bake: 1m}\n",
        "  - {approve: {by: [ops], timeout: 1h}}\n  - {weight: 25%, bake: 1m}\n  - {weight: 100%, bake: 1m}\n",
    )
    + """\
before:
  - {dag: deploy}
before_step:
  - {dag: warm}
after:
  - {dag: scale_down}
on_rollback:
  - {dag: tell}
on_asset: web-image
keep_old_for: 1h
"""
)


@pytest.fixture
def dag_with_people(tmp_path: Path, no_network: None) -> DAG:
    (tmp_path / "web.yaml").write_text(WITH_PEOPLE)
    return release_dags(tmp_path)["release_web"]


def test_question_and_watch_stand_before_the_weight_they_open(dag_with_people: DAG) -> None:
    approve, watch = dag_with_people.get_task("approve_25"), dag_with_people.get_task("watch_25")
    for task in (approve, watch):
        assert task.upstream_task_ids == {"weight_5.decide"}
        assert task.downstream_task_ids == {"weight_25.before_step_1"}
        assert task.retries >= 3, "a task that waits can be failed through no fault of its own"
    assert approve.task_display_name == "5 % → 25 % · approve"
    assert dag_with_people.get_task("weight_25.before_step_1").trigger_rule == TriggerRule.ALL_SUCCESS
    assert not [task for task in dag_with_people.task_ids if task in ("approve_5", "approve_100")]


def test_calls_stand_at_their_moments(dag_with_people: DAG) -> None:
    get = dag_with_people.get_task
    assert get("before_1").upstream_task_ids == {START}
    assert get("before_1").downstream_task_ids == {"weight_0_1.before_step_1"}
    assert get("weight_5.shift").upstream_task_ids == {"weight_5.before_step_1"}
    assert get("after_1").upstream_task_ids == {PROMOTE}
    assert get("on_rollback_1").upstream_task_ids == {ROLL_BACK}
    assert {"after_1", "on_rollback_1"} <= get(OUTCOME).upstream_task_ids
    assert get(ROLL_BACK).upstream_task_ids == {
        PROMOTE, "weight_0_1.decide", "weight_5.decide", "weight_25.decide", "weight_100.decide",
    }, "no call stands between a failure and the way back"  # fmt: skip


def test_asset_that_starts_a_release_leaves_every_param_with_a_default(dag_with_people: DAG) -> None:
    assert [asset.name for asset in dag_with_people.schedule] == ["web-image"]
    assert dag_with_people.params["version"] is None
    assert {task.task_id for task in dag_with_people.leaves} == {OUTCOME, SETTLE}
    again = DagSerialization.from_dict(DagSerialization.to_dict(dag_with_people))
    assert set(again.task_dict) == set(dag_with_people.task_dict)


def test_trigger_form_asks_for_texts_alone_and_lets_every_one_but_the_version_empty(release_dag: DAG) -> None:
    schemas = {name: release_dag.params.get_param(name).schema for name in release_dag.params}
    assert list(schemas) == ["version", "profile", "dry_run", "reason", "steps", "override"]
    assert not [name for name, schema in schemas.items() if "section" in schema], "hidden sections hide the dry run"
    for name in ("reason", "steps", "override"):
        assert schemas[name]["type"] == ["null", "string"]
    assert schemas["version"]["type"] == "string"

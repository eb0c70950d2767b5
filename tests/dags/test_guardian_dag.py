"""The guardian's DAG: it exists and acts whatever else is broken, and asks Airflow how the runs stand."""

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from canary_release.control import real_desk
from canary_release.control.stepping import shift
from canary_release.core.problems import CanaryError
from canary_release.ledger.records import State
from canary_release.operators.guard import GuardianOperator, _run_state
from control.world import World

ROOT = Path(__file__).resolve().parents[2]
GUARDIAN = ROOT / "dags" / "canary_guardian.py"

TICK = """\
import runpy, sys
dag = runpy.run_path(sys.argv[1])["dag"]
print(dag.get_task("guard").execute({"ti": None}))
print(sorted({"pandas", "numpy", "requests"} & set(sys.modules)))
"""


def guardian_dag() -> DAG:
    namespace: dict[str, Any] = {"__name__": "canary_guardian"}
    exec(compile(GUARDIAN.read_text(), str(GUARDIAN), "exec"), namespace)  # noqa: S102  as Airflow does
    dag = namespace["dag"]
    assert isinstance(dag, DAG)
    return dag


def test_guardian_runs_every_minute_one_at_a_time_before_all_others() -> None:
    dag = guardian_dag()
    assert (dag.schedule, dag.catchup, dag.max_active_runs) == (timedelta(minutes=1), False, 1)
    assert dag.is_paused_upon_creation is False
    assert dag.dagrun_timeout is None
    (task,) = dag.tasks
    assert (task.priority_weight, task.retries) == (1000, 0)


def test_guardian_acts_while_everything_that_only_releases_need_is_broken(tmp_path: Path) -> None:
    package = tmp_path / "plugins" / "canary_release"
    shutil.copytree(ROOT / "plugins" / "canary_release", package, ignore=shutil.ignore_patterns("__pycache__"))
    needed = ("guard.py", "__init__.py")
    releases_only = [path for part in ("operators", "sensors", "triggers", "ui") for path in (package / part).glob("*")]
    judging = [package / "core" / f"{name}.py" for name in ("judge", "decide", "weigh", "wording")]
    broken = [path for path in releases_only if path.suffix == ".py" and path.name not in needed]
    for path in [*broken, *judging, package / "dag_factory.py", package / "cli.py"]:
        path.write_text("this is no Python\n")
    extra = {"sqlalchemy_url": f"sqlite:///{tmp_path / 'ledger.db'}"}
    environment = os.environ | {
        "PYTHONPATH": str(package.parent),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW_CONN_CANARY_LEDGER": json.dumps({"conn_type": "generic", "extra": extra}),
    }
    done = subprocess.run(
        [sys.executable, "-c", TICK, str(GUARDIAN)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]


# -- the task -------------------------------------------------------------------------------------------------------


class Instance:
    """What a task instance tells of other runs. A missing run answers as the API server does."""

    def __init__(self, *, state: str | None = "running", paused: bool = False, status: int | None = 404) -> None:
        self._state, self._paused, self._status = state, paused, status

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        if self._state is None:
            detail = {"status_code": self._status, "message": "not found"}
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))
        return self._state

    def get_dag(self, dag_id: str) -> SimpleNamespace:
        return SimpleNamespace(is_paused=self._paused)


@pytest.mark.parametrize(
    ("instance", "state"),
    [
        (Instance(), "running"),
        (Instance(state="queued"), "queued"),
        (Instance(paused=True), "paused"),
        (Instance(state="failed", paused=True), "failed"),
        (Instance(state=None), None),
    ],
)
def test_run_state_is_what_the_api_server_says(instance: Instance, state: str | None) -> None:
    assert _run_state(instance, "release_shop", "shop-v2") == state


@pytest.mark.parametrize("status", [500, None])
def test_api_server_that_does_not_answer_is_not_a_deleted_run(status: int | None) -> None:
    with pytest.raises(CanaryError, match="did not say how the run shop-v2 of release_shop stands"):
        _run_state(Instance(state=None, status=status), "release_shop", "shop-v2")


def test_task_is_green_when_it_made_everything_safe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = exposed(world, monkeypatch)
    (sentence,) = tick(Instance(state="failed"))
    assert "ended as failed" in sentence
    assert (world.ledger.rollout(rollout).state, world.canary_percent) == (State.ROLLED_BACK, 0)
    assert tick(Instance()) == []


def test_task_is_red_while_something_is_not_safe(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    exposed(world, monkeypatch)
    world.balancer.fault = lambda weights: False
    with pytest.raises(AirflowFailException, match="shop-1 is NOT safe yet"):
        tick(Instance(state=None))
    assert world.canary_percent == 1


def exposed(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(real_desk, "open_desk", world.new_desk)
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    return rollout.id


def tick(instance: Instance) -> list[str]:
    context: Any = {"ti": instance}
    return GuardianOperator(task_id="guard").execute(context)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)

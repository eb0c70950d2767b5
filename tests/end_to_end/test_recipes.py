"""The recipes of docs/api.md as they stand there, and the command line, against a real Airflow."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from canary_release.ledger.records import State
from canary_release.ledger.store import Ledger
from demo.airflow_api import AirflowApiError
from demo.stage import DAG_ID, Stage
from end_to_end.terminal import canary, said

# What the next module waits for goes on meanwhile.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.usefixtures("begun")]
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
RECIPES = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
RECIPE_DAG = "release_recipe"


@pytest.fixture
def ledger(stage: Stage) -> Iterator[Ledger]:
    opened = stage.ledger()
    yield opened
    opened.close()


def asking_release(stage: Stage) -> str:
    """The stage's release file with somebody to ask after the first step."""
    text = Path(stage.connections()["CANARY_RELEASES"], "shop.yaml").read_text()
    approve = f"  - {{approve: {{by: [{stage.airflow.user}], timeout: 5m}}}}\n"
    first, rest = text.split("  - {weight: 50%", 1)
    return f"{first}{approve}  - {{weight: 50%{rest}".replace("lease: 20s", "lease: 3m")  # whoever asks takes its time


@pytest.fixture
def recipe_dag(stage: Stage) -> Iterator[str]:
    file = Path(stage.connections()["CANARY_RELEASES"], "recipe.yaml")
    file.write_text(asking_release(stage))
    stage.airflow.wait_healthy(60, dags=[RECIPE_DAG])
    stage.airflow.api.pause(RECIPE_DAG, False)
    yield RECIPE_DAG
    file.unlink()


def test_recipes_release_approve_abort_and_audit(stage: Stage, ledger: Ledger, recipe_dag: str, tmp_path: Path) -> None:
    login = {"username": stage.airflow.user, "password": stage.airflow.password}
    (tmp_path / "login.json").write_text(json.dumps(login))
    environment = os.environ | {"AIRFLOW": stage.airflow.url, "no_proxy": "*"}
    printed = []
    for recipe in RECIPES:
        script = recipe.replace("release_checkout", recipe_dag).replace('"checkout"', '"shop"')
        script = script.replace("services/checkout/", "services/shop/")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{recipe}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        printed.append(done.stdout)
    everything = "".join(printed)
    assert "DRY RUN" in everything
    assert "409" in everything
    assert "shop v2.4.1" in everything
    rollout = ledger.rollout_of_run(recipe_dag, "checkout-v2.4.1")
    assert rollout is not None
    assert rollout.state is State.ROLLED_BACK
    assert "customers call" in rollout.outcome_reason
    assert stage.weights()[rollout.canary] == 0
    assert "shop v2.4.1: 10 % → 50 %?" in everything
    assert '"chosen_options":["Approve"]' in everything
    assert "v2.4.1" in (tmp_path / f"{rollout.id}.html").read_text()
    stage.airflow.api.wait_until_ended(recipe_dag, "checkout-v2.4.1", 90)


def test_terminal_releases_watches_and_aborts_through_airflow_alone(
    stage: Stage, ledger: Ledger, tmp_path: Path
) -> None:
    stage.deploy("shop-green", "v30")
    watching = canary(stage, tmp_path, "release", "shop", "v30", "--dag", DAG_ID, "--reason", "CHK-9", "--watch")
    deadline = time.monotonic() + 120
    while not ((found := ledger.rollout_of_run(DAG_ID, "shop-v30")) and ledger.windows(found.id)):
        assert time.monotonic() < deadline, "the canary never had traffic"
        time.sleep(0.2)
    code, tree = said(canary(stage, tmp_path, "status", "shop"))
    assert code == 0
    assert "asked 10 %, read back 10 %" in tree
    code, words = said(canary(stage, tmp_path, "abort", "shop", "--reason", "customers call"))
    assert code == 0
    assert "customers call" in words
    assert stage.weights()[found.canary] == 0
    code, lines = said(watching)
    assert code == 1, lines
    assert "rolled back" in lines.splitlines()[-1]
    code, words = said(canary(stage, tmp_path, "report", found.id))
    assert code == 0
    assert "v30" in (tmp_path / f"{found.id}.html").read_text()
    assert said(canary(stage, tmp_path, "release", "shop", "v30", "--dag", DAG_ID))[0] == 1
    code, listed = said(canary(stage, tmp_path, "history", "shop", "--limit", "1", "--json"))
    [newest] = json.loads(listed)
    assert (newest["rollout"], newest["state"]) == (found.id, "rolled_back")
    assert "customers call" in newest["why"]
    stage.airflow.api.wait_until_ended(DAG_ID, "shop-v30", 90)


def test_buttons_of_a_task_lead_to_its_report(stage: Stage, ledger: Ledger) -> None:
    rollout = next(one for one in ledger.history("shop", limit=50) if one.dag_id == DAG_ID and one.step >= 0)
    try:
        found = stage.airflow.api.call(
            "GET", f"/api/v2/dags/{DAG_ID}/dagRuns/{rollout.run_id}/taskInstances/weight_10.shift/links"
        )
    except AirflowApiError as error:
        pytest.fail(str(error))
    links = found["extra_links"]
    assert links["Report"] == f"{stage.airflow.url}/canary/rollouts/{rollout.id}/report"
    assert not links["Dashboard"]

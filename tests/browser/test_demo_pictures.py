"""The pictures of docs/pictures that show `make demo` in Airflow's own pages; run with `make pictures`."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from demo.__main__ import play_releases
from demo.stage import DAG_ID, Stage
from demo.versions import INSTANCES, USUAL_ERRORS

pytestmark = [pytest.mark.slow, pytest.mark.figures, pytest.mark.timeout(600)]
PICTURES = Path(__file__).resolve().parents[2] / "docs" / "pictures"
RUN_ID = "shop-v3"


def test_pictures_of_the_demo_are_taken(tmp_path: Path, chromium: Any) -> None:
    with Stage(tmp_path, rate=400.0, instances=INSTANCES, usual_errors=USUAL_ERRORS) as stage:
        stage.airflow.wait_healthy(120, dags=[DAG_ID, "canary_guardian"], plugin="canary_release")
        for dag in (DAG_ID, "canary_guardian"):
            stage.airflow.api.pause(dag, False)
        _, failures = play_releases(stage, Console(quiet=True))
        assert failures == []
        tasks = stage.airflow.api.tasks(DAG_ID, RUN_ID)
        (compare,) = (name for name, task in tasks.items() if name.endswith(".compare") and task.state == "failed")
        for theme in ("light", "dark"):
            page = signed_in(chromium, stage, theme)
            page.goto(f"{stage.airflow.url}/dags/{DAG_ID}/runs/{RUN_ID}")
            page.wait_for_selector("text=Task Instances")
            page.wait_for_timeout(3000)  # the grid is drawn when nothing says so
            page.screenshot(path=str(PICTURES / f"grid-{theme}.png"))
            page.goto(f"{stage.airflow.url}/dags/{DAG_ID}/runs/{RUN_ID}/tasks/{compare}")
            page.wait_for_selector("text=needed 100 : 1")
            # Where it was raised is of no interest; a real click would scroll to it.
            page.locator("summary", has_text="AirflowFailException").evaluate("summary => summary.click()")
            page.wait_for_timeout(2000)
            page.screenshot(path=str(PICTURES / f"compare-{theme}.png"))
            page.context.close()


def signed_in(chromium: Any, stage: Stage, theme: str) -> Any:
    context = chromium.new_context(viewport={"width": 1500, "height": 900}, color_scheme=theme)
    context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
    stage.airflow.api.login()
    context.add_cookies([{"name": "_token", "value": stage.airflow.api._token, "url": stage.airflow.url}])
    return context.new_page()

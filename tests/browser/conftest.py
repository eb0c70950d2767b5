"""A real Airflow that shows our pages, a ledger to fill, and Chromium to look with. All of it started once."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from playwright.sync_api import sync_playwright

from canary_release.ledger import tables
from canary_release.ledger.store import Ledger
from debian import require_tool
from demo.airflow_server import AirflowServer
from demo.airflow_settings import USER
from demo.page_states import PageStates, balancer_connection
from end_to_end.rehearsed_releases import ASKS, Rehearsal
from postgres import Postgres

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("checkout", "search", "web")
VIEWER = "vera"
FLAGS = [
    "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
]  # fmt: skip
# Runs to hang the pages on, each waiting for a person; what is released stands in the ledger alone.
DAGS = f"""
from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Param

for service in {SERVICES}:
    with DAG(f"release_{{service}}", schedule=None) as dag:
        ApprovalOperator(
            task_id="approve_25",
            subject=f"{{service}}: 5 % → 25 %?",
            response_timeout=timedelta(hours=1),
            params={{"comment": Param(None, type=["null", "string"])}},
        )
    globals()[dag.dag_id] = dag
"""
# Released by the DAGs of their release files, which ask somebody before 100 %.
RELEASED = ("till", "kiosk")


@dataclass(frozen=True)
class Site:
    """An Airflow with our pages. balancer: the file in which the load balancer of ``checkout`` keeps its weights.

    released: the services that this Airflow can really release.
    """

    airflow: AirflowServer
    ledger: Ledger
    balancer: Path
    released: Mapping[str, Rehearsal]

    def refill(self, fill: Callable[[PageStates], object]) -> None:
        """Nothing in the ledger but what ``fill`` writes."""
        with self.ledger._write() as connection:
            for table in reversed(tables.metadata.sorted_tables):
                if sa.inspect(connection).has_table(table.name):
                    connection.execute(table.delete())
        fill(PageStates(self.ledger))

    def password(self, user: str) -> str:
        passwords: dict[str, str] = json.loads((self.airflow.home / "passwords.json").read_text())
        return passwords[user]


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "dags").mkdir()
    (folder / "dags" / "pages.py").write_text(DAGS)
    shutil.copy(ROOT / "dags" / "canary_releases.py", folder / "dags")
    released = {name: Rehearsal(name, folder, ASKS.replace("TIMEOUT", "10m")) for name in RELEASED}
    url = f"sqlite:///{folder / 'ledger.db'}"
    connection = json.dumps({"conn_type": "generic", "extra": {"sqlalchemy_url": url}})
    users = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin,{VIEWER}:viewer"}
    env = {"AIRFLOW_CONN_CANARY_LEDGER": connection, "CANARY_RELEASES": str(folder / "releases")} | users
    env |= {"AIRFLOW_VAR_CANARY_RELEASE_GROUPS": json.dumps({"people": [USER]})}
    env |= balancer_connection(folder / "balancer.json", "checkout", 5)
    (folder / "releases").mkdir()
    for rehearsal in released.values():
        rehearsal.write_release(folder / "releases")
        env |= rehearsal.connections()
    plugins = ROOT / "plugins"
    with (
        Postgres() as postgres,
        AirflowServer(
            folder / "home", dags=folder / "dags", plugins=plugins, extra_env=env, database=postgres.url
        ) as server,
    ):
        dags = [f"release_{service}" for service in (*SERVICES, *RELEASED)]
        server.wait_healthy(120, dags=dags, plugin="canary_release")
        ledger = Ledger.open(url)
        yield Site(server, ledger, folder / "balancer.json", released)
        ledger.close()


@dataclass
class Look:
    """One tab, signed in. troubles: errors on its console, broken scripts, and requests to other hosts."""

    page: Any
    site: Site
    troubles: list[str] = field(default_factory=list)

    def go(self, path: str, shows: str = ".canary-page h1") -> None:
        """Open a page of Airflow and wait until ours is there."""
        self.page.goto(self.site.airflow.url + path)
        self.page.wait_for_selector(shows, timeout=20_000)

    def resized(self, width: int) -> None:
        """Give the window this width, and wait until the charts were drawn for it."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.wait_for_function(CHARTS_FIT, timeout=20_000)

    def overflow(self) -> list[str]:
        """What is wider than the place that it has; what scrolls by itself is meant to be."""
        found: list[str] = self.page.evaluate(OVERFLOW)
        return found


# Every chart is as wide as its place, give or take the rounding; true on pages without charts.
CHARTS_FIT = """() => {
  const place = document.querySelector(".canary-charts");
  if (!place) return true;
  const charts = [...place.querySelectorAll("svg")];
  return charts.length > 0 && charts.every((svg) => {
    const room = svg.parentElement.getBoundingClientRect().width;
    return svg.width.baseVal.value <= room + 1 && svg.width.baseVal.value > room - 25;
  });
}"""
OVERFLOW = """() => {
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) found.push(`document ${root.scrollWidth} > ${innerWidth}`);
  for (const page of document.querySelectorAll(".canary-page")) {
    const edge = page.getBoundingClientRect().right + 1;
    for (const each of page.querySelectorAll("*")) {
      if (each.closest(".canary-scroll table, .canary-said, svg, .canary-hidden")) continue;
      if (each.getBoundingClientRect().right > edge) found.push(`${each.tagName}.${each.className}`);
    }
  }
  return found;
}"""


@pytest.fixture(scope="package")
def chromium() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(require_tool("chromium")), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def look(chromium: Any, site: Site) -> Iterator[Callable[..., Look]]:
    """``look("dark")`` gives a tab in that theme, signed in as the admin; closed after the test."""
    opened = []

    def open_tab(theme: str = "light") -> Look:
        context = chromium.new_context(viewport={"width": 1600, "height": 900}, color_scheme=theme)
        opened.append(context)
        context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
        site.airflow.api.login()
        token = site.airflow.api._token
        context.add_cookies([{"name": "_token", "value": token, "url": site.airflow.url}])
        tab = Look(context.new_page(), site)
        tab.page.on("console", lambda said: said.type == "error" and tab.troubles.append(_console(said)))
        tab.page.on("pageerror", lambda error: tab.troubles.append(f"script: {error}"))
        tab.page.on("request", lambda request: _note_foreign(tab, request.url))
        return tab

    yield open_tab
    for context in opened:
        context.close()


def _console(said: Any) -> str:
    return f"console: {said.text} {said.location.get('url', '')}"


def _note_foreign(tab: Look, url: str) -> None:
    if not url.startswith((tab.site.airflow.url, "data:", "blob:")):
        tab.troubles.append(f"request to {url}")

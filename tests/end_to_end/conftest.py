"""One stage for all end-to-end tests: two shops behind a real Traefik, clients, and a real Airflow."""

from collections.abc import Iterator

import pytest

from demo.stage import DAG_ID, Stage
from end_to_end.rehearsed_releases import Rehearsal, StageWithPeople, begin_all, rehearsals
from postgres import Postgres

SHORT = """\
service: shop
load_balancer: {type: traefik, connection: canary_traefik, route: shop, backends: [shop-blue, shop-green]}
metrics: {type: scrape, connection: canary_metrics, preset: traefik}
poll: 1s
lease: 20s
steps:
  - {weight: 10%, bake: 9s}
  - {weight: 50%, bake: 9s}
  - {weight: 100%, bake: 9s}
checks:
  - {metric: error_rate, max_increase: 0.5pp}
  - {metric: page_load_time, quantile: 0.95, max_increase: 10%}
"""


@pytest.fixture(scope="package")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    releases = folder / "releases"
    releases.mkdir()
    (releases / "shop.yaml").write_text(SHORT)
    (releases / "broken.yaml").write_text(SHORT.replace("poll: 1s", "pool: 1s"))
    for rehearsal in rehearsals(folder).values():
        rehearsal.write_release(releases)
    with (
        Postgres() as postgres,
        StageWithPeople(folder / "run", rate=200, releases=releases, database=postgres.url) as running,
    ):
        running.airflow.wait_healthy(120, dags=[DAG_ID, "release_broken", "canary_guardian"], plugin="canary_release")
        for dag in (DAG_ID, "release_broken", "canary_guardian", "canary_abort"):
            running.airflow.api.pause(dag, False)
        yield running


@pytest.fixture(scope="package")
def begun(stage: Stage) -> dict[str, Rehearsal]:
    """The releases that wait for people, calendars and calls, all begun."""
    return begin_all(stage)

"""A real Airflow for tests: one over the checkout's own dags/ and plugins/, shared, and more on demand."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo.airflow_server import AirflowServer

ROOT = Path(__file__).resolve().parents[2]

AirflowMaker = Callable[..., AirflowServer]


@pytest.fixture(scope="module")
def make_airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowMaker]:
    """``make_airflow(extra_env=None, *, dags=..., plugins=...)`` gives a started Airflow, ended with the module.

    It is started but not yet healthy: call ``wait_healthy`` with what the test needs, and ``stop`` to end it sooner.
    """
    with ExitStack() as servers:

        def make(
            extra_env: Mapping[str, str] | None = None,
            *,
            dags: Path = ROOT / "dags",
            plugins: Path = ROOT / "plugins",
        ) -> AirflowServer:
            home = tmp_path_factory.mktemp("airflow")
            return servers.enter_context(AirflowServer(home, dags=dags, plugins=plugins, extra_env=extra_env))

        yield make


@pytest.fixture(scope="module")
def airflow(make_airflow: AirflowMaker) -> AirflowServer:
    """The Airflow over the checkout's DAGs and plugins, with all components healthy."""
    server = make_airflow()
    server.wait_healthy(60)
    return server

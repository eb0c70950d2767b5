"""Two services on real load balancers under real traffic, and, for tests marked ``faults``, a real Airflow to break.

`make test-faults` runs those; they take minutes, so that they are left out of any other run.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from canary_release.ledger.records import Rollout
from faults_real.fault_stage import FaultStage
from faults_real.patience import wait_for
from faults_real.results import Results
from faults_real.store import Store

Gone = Callable[..., float]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests without Airflow come first: its guardians give back every weight that does not stand in its own ledger."""
    mine = [item for item in items if item.path.parent == Path(__file__).parent]
    ordered = iter(sorted(mine, key=lambda item: "whole_stage" in getattr(item, "fixturenames", ())))
    items[:] = [next(ordered) if item in mine else item for item in items]


@pytest.fixture(scope="package")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Behind Traefik, which ends no lease by itself."""
    with _running(tmp_path_factory, "shop") as store:
        yield store


@pytest.fixture(scope="package")
def till(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Behind HAProxy, which ends a lease by itself."""
    with _running(tmp_path_factory, "till") as store:
        yield store


@pytest.fixture(scope="package")
def whole_stage(tmp_path_factory: pytest.TempPathFactory, shop: Store, till: Store) -> Iterator[FaultStage]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_CANARY_LEDGER", "")  # put back at the end, whatever the stage sets
        patch.setenv("CANARY_RELEASES", "")
        with FaultStage(tmp_path_factory.mktemp("faults"), shop, till) as stage:
            yield stage


@pytest.fixture
def stage(whole_stage: FaultStage) -> Iterator[FaultStage]:
    """With both services idle, before and after."""
    yield whole_stage
    whole_stage.clean()


@pytest.fixture(scope="package")
def results() -> Iterator[Results]:
    """What was required and seen; written to the file that CANARY_FAULT_RESULTS names."""
    collected = Results()
    yield collected
    collected.write()


@pytest.fixture
def gone(results: Results) -> Gone:
    """``gone(store, rollout, since, bound, row=..., fault=...)`` waits for the end of the canary's traffic, by the
    clients' own counts, records how long it went on after ``since``, and demands that the bound was held.

    Gives the seconds from ``since`` to the last answer of the canary.
    """

    def wait(store: Store, rollout: Rollout, since: float, bound: float, *, row: int, fault: str) -> float:
        def over() -> bool:
            return store.weights()[rollout.canary] == 0

        try:
            wait_for(f"{store.name}: {fault}: canary off", over, bound + 15)
        finally:
            store.let_clients_speak()
            seen = store.last_answer(rollout.version) - since
            result = results.add(row, fault, store.balancer, bound=bound, seen=seen)
        assert result.held, f"{store.name}: canary traffic for {result.seen:g} s after: {fault}; bound {bound:g} s"
        return seen

    return wait


@contextmanager
def _running(factory: pytest.TempPathFactory, name: str) -> Iterator[Store]:
    with Store(factory.mktemp("stores"), name) as store, pytest.MonkeyPatch.context() as patch:
        for variable, value in store.connections().items():
            patch.setenv(variable, value)
        yield store

"""The stage of the faults: both services, a ledger on a real PostgreSQL, a real Airflow, and a guard beside it."""

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from canary_release.control.ending import abort
from canary_release.control.real_desk import open_desk
from canary_release.ledger.records import Rollout
from canary_release.ledger.store import Ledger
from demo.airflow_api import AirflowApi
from demo.airflow_server import COMPONENTS, AirflowServer
from demo.processes import Process
from faults_real.patience import wait_for
from faults_real.store import Store, require_exposed
from postgres import Postgres

ROOT = Path(__file__).resolve().parents[2]
GUARD_PERIOD = 2.0
DAGS = ("release_shop", "release_till", "release_shop_quick", "release_shop_crowd", "canary_guardian", "canary_abort")


class FaultStage:
    """stores: ``shop`` and ``till``, already running. A context manager; leaving ends Airflow, guard and ledger."""

    def __init__(self, folder: Path, shop: Store, till: Store) -> None:
        self.shop = shop
        self.till = till
        self.folder = folder
        self._exit = ExitStack()
        self._runs: list[tuple[str, str]] = []
        self._serials = count(1)

    # --- rollouts

    def expose(self, *stores: Store, error_rate: float = 0.0) -> list[Rollout]:
        """A rollout for each store, whose canary has traffic and whose bake is being watched."""
        runs = [self.trigger(store, store.next_version(error_rate=error_rate)) for store in stores]
        rollouts = [self.watched(dag, run) for dag, run in runs]
        for store, rollout in zip(stores, rollouts, strict=True):
            require_exposed(store, self.ledger.rollout(rollout.id))
        return rollouts

    def trigger(self, store: Store, version: str, *, dag: str | None = None) -> tuple[str, str]:
        """Begin a run; gives its DAG's and its own id."""
        run = (dag or store.dag, f"{store.name}-{version}-{next(self._serials)}")
        self.airflow.api.trigger(*run, conf={"version": version})
        self._runs.append(run)
        return run

    def watched(self, dag: str, run: str) -> Rollout:
        """The run's rollout once its first windows are recorded."""

        def look() -> Rollout | None:
            rollout = self.ledger.rollout_of_run(dag, run)
            return rollout if rollout and self.ledger.windows(rollout.id) else None

        try:
            return wait_for(f"the canary of {run} is being watched", look, 90)
        except AssertionError:
            states = {task: each.state for task, each in self.airflow.api.tasks(dag, run).items() if each.state}
            raise AssertionError(f"{run} of {dag} did not get as far as its bake: {states}") from None

    def begun(self, dag: str, run: str) -> Rollout:
        return wait_for(f"{run} is in the ledger", lambda: self.ledger.rollout_of_run(dag, run), 60)

    def raises(self, rollout: Rollout) -> list[str]:
        """The weights that were asked for in raises, in order."""
        return [str(write.asked) for write in self.ledger.writes(rollout.id) if write.raises]

    def writes(self) -> int:
        """All intents of all rollouts."""
        return sum(entry.event.startswith("intends") for entry in self.ledger.audit_trail())

    def clean(self) -> None:
        """End what is unfinished, runs included, so that the next test finds both services idle."""
        for store in (self.shop, self.till):
            store.heal()
            if self.ledger.active(store.name) is not None:
                abort(open_desk(), store.name, "the test is over", actor="test")
        for run in self._runs:
            if not self.airflow.api.run(*run).over:
                self.airflow.api.mark_run(*run, "failed")
        for run in self._runs:
            self.airflow.api.wait_until_ended(*run, 90)
        self._runs.clear()

    # --- processes

    def task_process(self, pid: int) -> psutil.Process:
        process = psutil.Process(pid)
        assert pid in self.airflow.pids(), f"{process} is no process of this Airflow"
        return process

    def kill_component(self, component: str) -> None:
        """The component with all its children, as when its machine dies."""
        children = psutil.Process(self.airflow.pid(component)).children(recursive=True)
        self.airflow.kill(component)
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()

    def kill_airflow(self) -> None:
        for component in COMPONENTS:
            self.airflow.kill(component)
        for pid in self.airflow.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_components(self, *components: str) -> None:
        for component in components:
            self.airflow.start_component(component)
        self.airflow.wait_healthy(90, dags=DAGS)

    @contextmanager
    def nobody_guards(self) -> Iterator[None]:
        """Inside, neither the guard beside Airflow nor the guardian DAG acts."""
        self.guard.kill(signal.SIGSTOP)
        self.airflow.api.pause("canary_guardian")
        try:
            yield
        finally:
            self.guard.kill(signal.SIGCONT)
            self.airflow.api.pause("canary_guardian", False)

    # --- life

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._exit.close()

    def _start(self) -> None:
        self.postgres = self._exit.enter_context(Postgres())
        self.dags, self.releases = self.folder / "dags", self.folder / "releases"
        shutil.copytree(ROOT / "dags", self.dags, ignore=shutil.ignore_patterns("__pycache__"))
        self.releases.mkdir()
        (self.releases / "shop.yaml").write_text(self.shop.release_text())
        (self.releases / "shop_quick.yaml").write_text(self.shop.release_text(quick=True))
        # Fifty runs at once keep two cores from a task for minutes.
        (self.releases / "shop_crowd.yaml").write_text(self.shop.release_text(lease=300.0, blind=300.0))
        (self.releases / "till.yaml").write_text(self.till.release_text())
        environment = {**self.shop.connections(), **self.till.connections(), **self.postgres.connection()}
        environment["CANARY_RELEASES"] = str(self.releases)
        os.environ.update(environment)  # this process looks at the same ledger with the same eyes
        self.ledger: Ledger = open_desk().ledger
        home = self.folder / "airflow"
        database = self._exit.enter_context(Postgres()).url
        self.airflow = AirflowServer(
            home, dags=self.dags, plugins=ROOT / "plugins", extra_env=environment, database=database
        )
        self.airflow.api = AirflowApi(self.airflow.url, self.airflow.user, self.airflow.password, timeout=120)
        self._exit.enter_context(self.airflow)
        self.airflow.wait_healthy(120, dags=DAGS)
        for dag in DAGS:
            self.airflow.api.pause(dag, False)
        self.start_guard()

    def start_guard(self) -> None:
        """The guard beside Airflow; again, after ``kill_guard``."""
        self.guard = self._exit.enter_context(self.new_guard("guard"))

    def kill_guard(self) -> None:
        self.guard.kill()

    def new_guard(self, name: str) -> Process:
        """A ``canary guard`` that is guarding; a context manager, leaving ends it."""
        api = self.airflow
        airflow = f"http://{api.user}:{api.password}@127.0.0.1:{api.port}"
        process = Process(
            [sys.executable, "-m", "canary_release", "guard", "--every", f"{GUARD_PERIOD:g}s"],
            log=self.folder / f"{name}.log",
            env=self.airflow.environment() | {"AIRFLOW_CONN_CANARY_AIRFLOW": airflow, "PYTHONUNBUFFERED": "1"},
            cwd=self.folder,
            name=name,
        )
        process.wait_until(lambda: "guarding" in process.tail(), 30, "begin to guard")
        return process

"""A real Airflow on the loopback for the demo and the tests: four components, LocalExecutor, one home folder.

Everything it listens on is 127.0.0.1, everything it needs to know stands in ``airflow.cfg`` of its home, and whoever
started it ends it, tasks that outlived their scheduler included.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from canary_release.core.problems import CanaryError
from demo.airflow_api import AirflowApi, AirflowApiError
from demo.airflow_settings import USER, AirflowSettings
from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "api-server": ("api-server",),
    # Airflow's own log servers would listen on every address of the machine, and no setting says otherwise. The API
    # server reads the log files itself, since all of it is one machine.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
TEMPLATES = Path(__file__).resolve().parents[2] / ".demo"  # migrated databases, one for each version of Airflow
POLL = 0.1  # seconds between two looks at a component
GRACE = 4.0  # seconds that the components have to end by themselves; without running tasks they need 3
# Importing Airflow creates millions of objects that stay; collecting garbage among them took a quarter of its start.
LAUNCH = "import gc; gc.set_threshold(100_000, 20, 20); from airflow.__main__ import main; main()"


class AirflowServerError(CanaryError):
    """Airflow did not start, or something other than the Airflow that was started answers."""


class AirflowServer:
    """One Airflow in the folder ``home``, started with ``start``, ready after ``wait_healthy``, ended with ``stop``.

    dags, plugins: the folders it runs.  extra_env: added to the environment of every component, for example
    ``AIRFLOW_CONN_…``.  port: the API server's and user interface's; a free one when it is not given.
    database: SQLAlchemy's URL of the database that Airflow has to itself; a SQLite file in the home when not given.
    ``api`` is a client that is logged in as ``user`` (the only one, an admin) with ``password``.
    Use it as a context manager: entering starts it, leaving ends every process of it.
    """

    user = USER

    def __init__(
        self,
        home: Path,
        *,
        dags: Path,
        plugins: Path,
        extra_env: Mapping[str, str] | None = None,
        port: int | None = None,
        database: str | None = None,
    ) -> None:
        self.home = home.resolve()
        self._database = database
        self.dags = dags.resolve()
        self.plugins = plugins.resolve()
        self.port = port or free_ports(1)[0]
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._settings = AirflowSettings(self.home, database)
        self.password = self._settings.password
        self.api = AirflowApi(self.url, self.user, self.password)
        self._extra_env = dict(extra_env or {})
        self._processes: dict[str, Process] = {}
        self._replaced: list[Process] = []
        self._started: dict[str, float] = {}
        self._reserved: socket.socket | None = None

    # --- life

    def start(self) -> None:
        """Make the home, its settings and its database, and start the four components; does not wait for them."""
        if self._processes:
            raise AirflowServerError(f"The Airflow in {self.home} runs already; stop it before starting it again.")
        self._reserved = _reserve(self.port)
        try:
            self._settings.write(dags=self.dags, plugins=self.plugins, port=self.port)
            self._make_database()
            for component in COMPONENTS:
                self.start_component(component)
        except BaseException:
            self.stop()
            raise

    def start_component(self, component: str) -> None:
        """Start one component, again after it was killed; what its former life left running goes on."""
        former = self._processes.get(component)
        if former is not None:
            if former.running:
                raise AirflowServerError(f"The {component} runs already as process {former.pid}; kill it first.")
            self._replaced.append(former)
        self._started[component] = time.time()
        self._processes[component] = self._airflow(component, *COMPONENTS[component])

    def kill(self, component: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the component's own process; its children live on, as they do after a crash."""
        self._process(component).kill(number)

    def kill_with_children(self, component: str) -> None:
        """End the component at once with everything that it started, as when its container or machine dies.

        A child that lives on keeps the connection to the database that it inherited, and with it the locks of a
        transaction in which the component died: Airflow itself then queues no task any more.
        """
        self._process(component).kill_session()

    def wait_healthy(self, seconds: float = 90.0, *, dags: Collection[str] = (), plugin: str | None = None) -> None:
        """Return once all four components are alive, these DAGs parsed (any DAG when none is named and there are
        DAG files), and the plugin of this name loaded.

        Raises AirflowServerError with the log's end when a component dies, another server holds the port, or time is
        over.
        """
        deadline = time.monotonic() + seconds
        while missing := self._missing(dags, plugin):
            for component, process in self._processes.items():
                if not process.running:
                    raise AirflowServerError(
                        f"Airflow's {component} ended with code {process.returncode}.{process.tail()}"
                    )
            if time.monotonic() > deadline:
                raise AirflowServerError(f"Airflow in {self.home} was not ready within {seconds:g} s: {missing}.")
            time.sleep(POLL)

    def stop(self) -> None:
        """End every component and every task process, also those whose scheduler is gone; safe to call twice."""
        everything = [*self._processes.values(), *self._replaced]
        for process in everything:
            process.kill(signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while any(process.running for process in everything) and time.monotonic() < deadline:
            time.sleep(POLL)
        for process in everything:
            process.stop(grace=0)
        self._processes.clear()
        self._replaced.clear()
        self.api.close()
        self.api = AirflowApi(self.url, self.user, self.password)
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # --- what is seen of it

    def pid(self, component: str) -> int:
        return self._process(component).pid

    def pids(self) -> set[int]:
        """Every living process of this Airflow: components, their children, and orphans of killed components."""
        everything = [*self._processes.values(), *self._replaced]
        return {pid for process in everything for pid in process.session_members()}

    def log_tail(self, component: str, lines: int = 30) -> str:
        """The end of a component's log; tasks have logs of their own (``api.log``)."""
        return self._process(component).tail(lines)

    def environment(self) -> dict[str, str | None]:
        """What differs from this process's environment for a command that works on this Airflow; None removes."""
        foreign: dict[str, str | None] = dict.fromkeys(name for name in os.environ if name.startswith("AIRFLOW_"))
        own = {
            "AIRFLOW_HOME": str(self.home),
            "PYTHONPATH": str(self.plugins),
            "NO_PROXY": f"{LOOPBACK},localhost",
            "no_proxy": f"{LOOPBACK},localhost",
        }
        # Without compiled files every process compiles Airflow anew, which doubles the time to start.
        return foreign | {"PYTHONDONTWRITEBYTECODE": None} | own | self._extra_env

    # --- how it is made

    def _process(self, component: str) -> Process:
        if component not in COMPONENTS:
            raise AirflowServerError(f"Airflow has no component {component!r}; it has {', '.join(COMPONENTS)}.")
        if component not in self._processes:
            raise AirflowServerError(f"The {component} was never started; call start() first.")
        return self._processes[component]

    def _airflow(self, name: str, *arguments: str, home: Path | None = None) -> Process:
        environment = self.environment() | ({"AIRFLOW_HOME": str(home)} if home else {})
        return Process(
            [sys.executable, "-c", LAUNCH, *arguments],
            log=self.home / "components" / f"{name}.log",
            env=environment,
            cwd=self.home,
            name=f"airflow {name}",
        )

    def _make_database(self) -> None:
        if self._database is not None:
            self._run_migration(self.home)
            return
        database = self.home / "airflow.db"
        if database.exists():
            return
        template = TEMPLATES / f"airflow-{version('apache-airflow-core')}.db"
        if not template.exists():
            self._migrate(template)
        shutil.copyfile(template, database)

    def _migrate(self, template: Path) -> None:
        """Make an empty database for this version of Airflow; a home starts from a copy of it."""
        template.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=template.parent) as scratch:
            (Path(scratch) / "airflow.cfg").write_text("[core]\nload_examples = False\n")
            self._run_migration(Path(scratch))
            # Renamed in one go: two that start at the same time both end up with a whole file.
            os.replace(Path(scratch) / "airflow.db", template)

    def _run_migration(self, home: Path) -> None:
        with self._airflow("db-migrate", "db", "migrate", home=home) as migration:
            if migration.wait(180) != 0:
                raise AirflowServerError(f"airflow db migrate failed.{migration.tail()}")

    # --- is it ready

    def _missing(self, dags: Collection[str], plugin: str | None) -> str | None:
        """What is not ready yet, in words; None when everything is."""
        if not _somebody_listens(self.port):
            return f"nobody listens on {self.url} yet{self.log_tail('api-server', 5)}"
        self._check_owner()
        try:
            health = self.api.health()
            # Built with its first request, which would otherwise be the first task's.
            self.api.execution_health()
        except AirflowApiError as error:
            return str(error)
        for component, beat in (
            ("scheduler", "latest_scheduler_heartbeat"),
            ("dag-processor", "latest_dag_processor_heartbeat"),
            ("triggerer", "latest_triggerer_heartbeat"),
        ):
            state = health[component.replace("-", "_")]
            if state["status"] != "healthy" or _seconds(state[beat]) < self._started[component]:
                return f"the {component} has no heartbeat yet{self.log_tail(component, 5)}"
        return self._missing_dags(dags) or self._missing_plugin(plugin)

    def _check_owner(self) -> None:
        """Another Airflow on the same port would answer just as well."""
        if not any(_listens(pid, self.port) for pid in self._process("api-server").session_members()):
            raise AirflowServerError(
                f"Port {self.port} is answered by another program than the Airflow that was started; stop that program "
                "or choose another port."
            )

    def _missing_dags(self, dags: Collection[str]) -> str | None:
        parsed = set(self.api.dags())
        absent = set(dags) - parsed
        if not absent and (parsed or not any(self.dags.glob("*.py"))):
            return None
        errors = self.api.import_errors()
        words = "".join(f"\n{name}:\n{trace}" for name, trace in errors.items())
        return f"DAGs are not parsed yet: {', '.join(sorted(absent)) or 'none of them is'}{words}"

    def _missing_plugin(self, plugin: str | None) -> str | None:
        if plugin is None:
            return None
        loaded = self.api.plugins()
        return None if plugin in loaded else f"the plugin {plugin} is not loaded, only {', '.join(loaded) or 'none'}"


def _reserve(port: int) -> socket.socket:
    """Keep ``port`` from being given to anybody else, as long as the result is open; the API server may still bind it.

    Raises AirflowServerError when somebody listens there already.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((LOOPBACK, port))
    except OSError as error:
        held.close()
        raise AirflowServerError(
            f"Port {port} is taken ({error.strerror}); stop the program that listens there or choose another port."
        ) from error
    return held


def _somebody_listens(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def _listens(pid: int, port: int) -> bool:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)


def _seconds(heartbeat: str | None) -> float:
    return datetime.fromisoformat(heartbeat).timestamp() if heartbeat else 0.0

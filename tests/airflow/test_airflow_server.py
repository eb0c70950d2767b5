"""The real Airflow that the demo and the end-to-end tests stand on, itself tested with a tiny DAG folder."""

import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import psutil
import pytest

from demo.airflow_api import AirflowApi, AirflowApiError, AirflowUnreachableError
from demo.airflow_server import COMPONENTS, AirflowServer, AirflowServerError
from demo.free_ports import free_port
from postgres import Postgres

pytestmark = pytest.mark.slow

DAGS = """
from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.sensors.time_delta import TimeDeltaSensor
from airflow.sdk import DAG
from tiny_settings import GREETING


def greet(params):
    print(GREETING, params["name"])


def sleep_long():
    import time

    time.sleep(600)


with DAG("waits", schedule=None, params={"name": "nobody"}):
    wait = TimeDeltaSensor(task_id="wait", delta=timedelta(seconds=10), deferrable=True)
    wait >> PythonOperator(task_id="greet", python_callable=greet)

with DAG("sleeps", schedule=None):
    PythonOperator(task_id="sleep", python_callable=sleep_long)

with DAG("asks", schedule=None):
    ApprovalOperator(task_id="approve", subject="1 % → 5 %?", response_timeout=timedelta(minutes=5))
"""
PLUGIN = """
from airflow.plugins_manager import AirflowPlugin


class TinyPlugin(AirflowPlugin):
    name = "tiny"
"""
DAG_IDS = ("waits", "sleeps", "asks")


def folders(root: Path) -> tuple[Path, Path]:
    dags, plugins = root / "dags", root / "plugins"
    dags.mkdir()
    plugins.mkdir()
    (dags / "tiny_dags.py").write_text(DAGS)
    (plugins / "tiny_plugin.py").write_text(PLUGIN)
    (plugins / "tiny_settings.py").write_text('GREETING = "Hello"\n')
    return dags, plugins


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    root = tmp_path_factory.mktemp("tiny")
    dags, plugins = folders(root)
    with (
        Postgres() as postgres,
        AirflowServer(root / "home", dags=dags, plugins=plugins, database=postgres.url) as server,
    ):
        server.wait_healthy(120, dags=DAG_IDS, plugin="tiny")
        yield server


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return met


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """The addresses on which these processes accept TCP connections, from the kernel's socket tables."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(os.readlink(descriptor))
            except FileNotFoundError:  # closed while we look
                continue
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                words = bytes.fromhex(address)
                packed = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
                found.add((socket.inet_ntop(family, packed), int(port, 16)))
    return found


def test_four_components_are_healthy_and_dags_and_plugin_are_loaded(tiny: AirflowServer) -> None:
    health = tiny.api.health()
    assert {name: state["status"] for name, state in health.items()} == dict.fromkeys(
        ("metadatabase", "scheduler", "dag_processor", "triggerer"), "healthy"
    )
    assert set(DAG_IDS) <= set(tiny.api.dags())
    assert tiny.api.import_errors() == {}
    assert "tiny" in tiny.api.plugins()
    assert len({tiny.pid(component) for component in COMPONENTS}) == 4


def test_it_listens_on_the_loopback_only(tiny: AirflowServer) -> None:
    addresses = listening(tiny.pids())
    assert ("127.0.0.1", tiny.port) in addresses
    assert {address for address, _ in addresses} == {"127.0.0.1"}


def test_it_is_connected_to_nobody_outside_the_machine(tiny: AirflowServer) -> None:
    pids = tiny.pids()
    others = {each.raddr.ip for each in psutil.net_connections("inet") if each.pid in pids and each.raddr}
    assert others <= {"127.0.0.1"}


def test_a_socket_open_to_everybody_would_be_seen() -> None:
    with socket.create_server(("", 0)) as server:
        assert ("0.0.0.0", server.getsockname()[1]) in listening({os.getpid()})


def test_only_the_generated_password_is_let_in(tiny: AirflowServer) -> None:
    with AirflowApi(tiny.url, tiny.user, "admin") as stranger, pytest.raises(AirflowApiError) as refused:
        stranger.dags()
    assert refused.value.status == 401
    assert stat.S_IMODE((tiny.home / "airflow.cfg").stat().st_mode) == 0o600
    assert stat.S_IMODE((tiny.home / "passwords.json").stat().st_mode) == 0o600


def test_a_run_that_defers_for_ten_seconds_succeeds(tiny: AirflowServer) -> None:
    started = tiny.api.trigger("waits", "v1.2.3", {"name": "canary"}, note="first")
    assert started.note == "first"

    run = tiny.api.wait_until_ended("waits", "v1.2.3", 60)

    tasks = tiny.api.tasks("waits", "v1.2.3")
    assert run.state == "success", tasks
    assert {name: (task.state, task.try_number) for name, task in tasks.items()} == {
        "wait": ("success", 1),
        "greet": ("success", 1),
    }
    assert "Hello canary" in tiny.api.log("waits", "v1.2.3", "greet").splitlines()
    assert run.seconds is not None
    assert run.seconds >= 9


def test_the_servers_own_words_are_in_the_error(tiny: AirflowServer) -> None:
    with pytest.raises(AirflowApiError, match="no-such-dag") as unknown:
        tiny.api.trigger("no-such-dag", "v1")
    assert unknown.value.status == 404
    tiny.api.pause("asks")  # a run that begins in this moment could not be deleted
    tiny.api.trigger("asks", "twice")
    with pytest.raises(AirflowApiError) as again:
        tiny.api.trigger("asks", "twice")
    assert again.value.status == 409
    tiny.api.delete_run("asks", "twice")
    tiny.api.pause("asks", False)


def test_an_open_approval_is_listed_and_answered(tiny: AirflowServer) -> None:
    tiny.api.trigger("asks", "v2")
    # An answer in the first seconds can meet the task before Airflow has filed it as waiting.
    tiny.api.wait_until("asks", "v2", lambda _, tasks: tasks["approve"].state == "awaiting_input", 30, "ask")
    [question] = tiny.api.approvals("asks", "v2")
    assert question.subject == "1 % → 5 %?"
    assert set(question.options) == {"Approve", "Reject"}

    with pytest.raises(AirflowApiError) as refused:
        tiny.api.answer(question, "Maybe")
    assert refused.value.status == 400
    assert tiny.api.approvals("asks", "v2") == [question]


def test_a_run_marked_failed_by_a_person_ends_failed(tiny: AirflowServer) -> None:
    tiny.api.trigger("sleeps", "v3")
    tiny.api.wait_until("sleeps", "v3", lambda _, tasks: tasks["sleep"].state == "running", 30, "start its task")

    tiny.api.mark_run("sleeps", "v3", "failed")

    assert tiny.api.wait_until_ended("sleeps", "v3", 30).state == "failed"


def test_a_paused_dag_starts_nothing_until_it_goes_on(tiny: AirflowServer) -> None:
    tiny.api.pause("sleeps")
    tiny.api.trigger("sleeps", "v4")
    assert tiny.api.run("sleeps", "v4").state == "queued"
    tiny.api.pause("sleeps", False)
    tiny.api.wait_until("sleeps", "v4", lambda run, _: run.state == "running", 30, "start")
    tiny.api.mark_run("sleeps", "v4", "failed")


def test_a_killed_scheduler_is_started_again_and_works(tiny: AirflowServer) -> None:
    dead = tiny.pid("scheduler")
    tiny.kill_with_children("scheduler")
    assert not psutil.pid_exists(dead)

    tiny.start_component("scheduler")
    tiny.wait_healthy(60)
    tiny.api.trigger("waits", "after-kill")

    assert tiny.pid("scheduler") != dead
    assert tiny.api.wait_until_ended("waits", "after-kill", 60).state == "success"


def test_nothing_is_left_of_a_stopped_airflow_with_a_running_task_and_an_orphan(tmp_path: Path) -> None:
    dags, plugins = folders(tmp_path)
    server = AirflowServer(tmp_path / "home", dags=dags, plugins=plugins)
    server.start()
    try:
        server.wait_healthy(120, dags=DAG_IDS)
        server.api.trigger("sleeps", "orphan")
        server.api.wait_until(
            "sleeps", "orphan", lambda _, tasks: tasks["sleep"].state == "running", 60, "start its task"
        )
        sessions = {server.pid(component) for component in COMPONENTS}
        scheduler = server.pid("scheduler")
        server.kill("scheduler")
        everything = server.pids()
        orphans = {pid for pid in everything if _session(pid) == scheduler}
        assert orphans, "a killed scheduler leaves its task processes running, or this test shows nothing"
    finally:
        server.stop()

    assert not [pid for pid in everything if _alive(pid)]
    assert not [pid for pid in psutil.pids() if _session(pid) in sessions and _alive(pid)]
    assert server.pids() == set()
    with socket.create_server(("127.0.0.1", server.port)):
        pass  # the port is free again


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _alive(pid: int) -> bool:
    # Orphans become zombies until the system's first process looks after them.
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_port_that_is_taken_is_noticed_before_anything_starts(tmp_path: Path) -> None:
    dags, plugins = folders(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = AirflowServer(tmp_path / "home", dags=dags, plugins=plugins, port=taken.getsockname()[1])
        with pytest.raises(AirflowServerError, match="is taken"):
            server.start()
    assert server.pids() == set()


class Impostor(BaseHTTPRequestHandler):
    """Answers as a healthy Airflow would."""

    def do_GET(self) -> None:
        body = b'{"metadatabase": {"status": "healthy"}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_another_server_that_took_the_port_meanwhile_is_noticed(tmp_path: Path) -> None:
    dags, plugins = folders(tmp_path)
    with AirflowServer(tmp_path / "home", dags=dags, plugins=plugins) as server:
        impostor = HTTPServer(("127.0.0.1", server.port), Impostor)
        thread = Thread(target=impostor.serve_forever)
        thread.start()
        try:
            with pytest.raises(AirflowServerError, match="answered by another program"):
                server.wait_healthy(60)
        finally:
            impostor.shutdown()
            thread.join()
            impostor.server_close()


class BusyDatabase(BaseHTTPRequestHandler):
    """Airflow's answers while another of its processes writes into SQLite: refused twice, then done."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self._answer(200, {"access_token": "x"}) if self.path == "/auth/token" else self._busy()

    def do_PATCH(self) -> None:
        self._busy()

    def _busy(self) -> None:
        self.asked.append(self.command)
        if self.asked.count(self.command) <= 2:
            self._answer(500, {"detail": {"reason": "Database error", "statement": "hidden"}})
        else:
            self._answer(200, {})

    def _answer(self, status: int, content: object) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_while_sqlite_is_locked_only_what_may_be_asked_twice_is_asked_again() -> None:
    busy = HTTPServer(("127.0.0.1", 0), BusyDatabase)
    thread = Thread(target=busy.serve_forever)
    thread.start()
    try:
        with AirflowApi(f"http://127.0.0.1:{busy.server_port}", "admin", "x") as api:
            api.pause("waits")
            with pytest.raises(AirflowApiError, match="Database error"):
                api.call("POST", "/api/v2/dags/waits/clearTaskInstances", {})
            assert api.call("POST", "/api/v2/dags/waits/dagRuns", {}, repeatable=True) == {}
    finally:
        busy.shutdown()
        thread.join()
        busy.server_close()
    assert BusyDatabase.asked == ["PATCH", "PATCH", "PATCH", "POST", "POST", "POST"]


def test_no_airflow_at_all_is_one_sentence() -> None:
    api = AirflowApi(f"http://127.0.0.1:{free_port()}", "admin", "x")
    with api, pytest.raises(AirflowUnreachableError, match="No Airflow answers GET"):
        api.health()


def test_a_dag_file_that_cannot_be_imported_is_named_when_waiting_is_over(tiny: AirflowServer) -> None:
    broken = tiny.dags / "broken_dag.py"
    broken.write_text("from airflow.sdk import DAG\nraise RuntimeError('this DAG is broken')\n")
    try:
        assert wait_for(lambda: "broken_dag.py" in tiny.api.import_errors(), 45)
        with pytest.raises(AirflowServerError, match="this DAG is broken"):
            tiny.wait_healthy(1, dags=["broken"])
    finally:
        broken.unlink()


def test_unknown_component_and_second_start_are_refused(tiny: AirflowServer) -> None:
    with pytest.raises(AirflowServerError, match="it has api-server, scheduler"):
        tiny.kill("webserver")
    with pytest.raises(AirflowServerError, match="runs already"):
        tiny.start_component("scheduler")
    with pytest.raises(AirflowServerError, match="runs already"):
        tiny.start()


def test_the_session_wide_airflow_imports_all_of_the_checkouts_dags(airflow: AirflowServer) -> None:
    assert airflow.dags.name == "dags"
    assert airflow.api.import_errors() == {}

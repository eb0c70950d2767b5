"""Child processes: started, waited for, and gone afterwards, whatever happens to whom."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

import canary_release
import demo
from demo.free_ports import free_ports
from demo.processes import Process, ProcessError

FAMILY = ["sh", "-c", "sleep 600 & sleep 600 & wait"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done"]


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(20))) == 20


def test_leaving_the_block_ends_the_children_too(tmp_path: Path) -> None:
    with Process(FAMILY, log=tmp_path / "log") as process:
        process.wait_until(lambda: len(process.session_members()) == 3, 5, "have its children")
    assert process.session_members() == []


def test_orphans_of_a_killed_parent_are_found_and_ended(tmp_path: Path) -> None:
    with Process(FAMILY, log=tmp_path / "log") as process:
        process.wait_until(lambda: len(process.session_members()) == 3, 5, "have its children")
        process.kill()
        assert len(process.session_members()) == 2
        process.kill_session()
        assert process.session_members() == []


def test_one_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    process = Process(STUBBORN, log=tmp_path / "log")
    process.wait_until(lambda: "ready" in process.tail(), 5, "be ready")
    process.stop(grace=0.1)
    assert process.returncode == -signal.SIGKILL
    process.stop()
    assert process.session_members() == []


def test_one_that_dies_early_is_reported_at_once_with_its_last_words(tmp_path: Path) -> None:
    with (
        Process(["sh", "-c", "echo no such port >&2; exit 3"], log=tmp_path / "log", name="server") as process,
        pytest.raises(ProcessError, match=r"server ended with code 3(.|\n)*no such port"),
    ):
        process.wait_until(lambda: False, 60, "listen")


def test_one_that_is_never_ready_is_reported_when_time_is_over(tmp_path: Path) -> None:
    with (
        Process(["sleep", "600"], log=tmp_path / "log") as process,
        pytest.raises(ProcessError, match=r"sleep did not listen within 0\.1 s"),
    ):
        process.wait_until(lambda: False, 0.1, "listen")


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="nowhere-to-be-found"):
        Process(["nowhere-to-be-found"], log=tmp_path / "log")


def test_the_environment_is_added_to_and_taken_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNWANTED", "here")
    show = ["sh", "-c", 'echo "[$WANTED$UNWANTED]"']
    with Process(show, log=tmp_path / "log", env={"WANTED": "yes", "UNWANTED": None}) as process:
        assert process.wait(5) == 0
        assert "[yes]" in process.tail()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_parent_that_is_told_to_end_takes_its_children_with_it(tmp_path: Path, number: signal.Signals) -> None:
    script = f"""
import signal
import time
from pathlib import Path
from demo.processes import Process, unwind_on_terminate
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, these tests too, ignore it
with unwind_on_terminate(), Process({FAMILY!r}, log=Path({str(tmp_path / "child.log")!r})) as child:
    child.wait_until(lambda: len(child.session_members()) == 3, 5, "have its children")
    print(*child.session_members(), flush=True)
    time.sleep(600)
"""
    paths = [Path(module.__file__ or "").parent.parent for module in (demo, canary_release)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    with subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        family = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(family) == 3
        parent.send_signal(number)
        parent.wait(10)
    assert [pid for pid in family if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"] == []

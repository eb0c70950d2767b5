"""Child processes that leave nothing behind: each has its own session, a log file, and an end."""

import contextlib
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import psutil

from canary_release.core.problems import CanaryError

POLL = 0.02  # seconds between two looks at a child
LOG_TAIL = 30  # lines of a log that an error shows


class ProcessError(CanaryError):
    """A child process died, or was not ready in time."""


class Process:
    """A running child in a session of its own; stdout and stderr go to the file ``log``, appended.

    env: added to this process's environment; a value of None removes the name.  Raises ProcessError when the program
    cannot be started.  Use it as a context manager: leaving the block ends every process of the session.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        name: str = "",
    ) -> None:
        self.argv = [str(part) for part in argv]
        self.log = log
        self.name = name or Path(self.argv[0]).name
        self._stopped = False
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("ab") as out:
                self._child = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=_environment(env),
                    start_new_session=True,
                )
        except OSError as error:
            raise ProcessError(f"{self.name} cannot be started ({error}); the command was {self.argv[0]}.") from error

    @property
    def pid(self) -> int:
        """The child's process id, which is its group's and its session's id, too."""
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number when a signal ended it."""
        return self._child.poll()

    def wait_until(self, ready: Callable[[], bool], seconds: float, what: str) -> None:
        """Return once ``ready()``; raise ProcessError with the log's end if the child dies first or time is over.

        what: completes "<name> did not …", for example ``answer on http://127.0.0.1:8080``.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise ProcessError(
                    f"{self.name} ended with code {self.returncode} before it could {what}.{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name} did not {what} within {seconds:g} s.{self.tail()}")
            time.sleep(POLL)

    def wait(self, seconds: float) -> int:
        """The return code once the child ends by itself; ProcessError with the log's end when time is over."""
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{self.name} was still running after {seconds:g} s.{self.tail()}") from None

    def tail(self, lines: int = LOG_TAIL) -> str:
        """The end of the log as an indented block, for error messages; empty when nothing was logged."""
        text = self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
        return "".join(f"\n    {line}" for line in [f"The end of {self.log}:", *text]) if text else ""

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the started process alone; its children live on, as they do when a program crashes."""
        if self.running:
            self._child.send_signal(number)
            if number == signal.SIGKILL:
                self._child.wait()

    def kill_session(self) -> None:
        """End every process of the started session at once, orphans of a dead parent included."""
        deadline = time.monotonic() + 10
        while members := self.session_members():
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._child.poll()
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name}: processes {members} outlived SIGKILL for 10 s.")
            time.sleep(POLL)

    def session_members(self) -> list[int]:
        """The living processes of the session that was started here, whoever their parent is now."""
        return [pid for pid in psutil.pids() if _session_of(pid) == self.pid and _alive(pid)]

    def stop(self, grace: float = 5.0) -> None:
        """End it: SIGTERM to the process group, up to ``grace`` seconds of waiting, SIGKILL for the whole session.

        Does nothing the second time.
        """
        if self._stopped:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self.session_members() and time.monotonic() < deadline:
            self._child.poll()
            time.sleep(POLL)
        self.kill_session()
        self._child.wait()
        # Only now: the system may give the same number to a stranger's session later.
        self._stopped = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


@contextlib.contextmanager
def unwind_on_terminate() -> Iterator[None]:
    """Inside the block SIGTERM and SIGHUP raise SystemExit, so that context managers end what they started.

    Python's default is to die at once and leave the children behind.  Only in the main thread.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        raise ProcessError("unwind_on_terminate must be entered in the main thread: only there are signals handled.")
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def answers(url: str, status: int = 200) -> Callable[[], bool]:
    """A question for ``wait_until``: does a GET of this URL give this status now?"""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask() -> bool:
        try:
            with opener.open(url, timeout=2) as response:
                return bool(response.status == status)
        except urllib.error.HTTPError as error:
            return error.code == status
        except OSError:
            return False

    return ask


def _environment(changes: Mapping[str, str | None] | None) -> dict[str, str]:
    merged: dict[str, str | None] = {**os.environ, **(changes or {})}
    return {name: value for name, value in merged.items() if value is not None}


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _alive(pid: int) -> bool:
    # A zombie is dead already and only waits for its parent to look.
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

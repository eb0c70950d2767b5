"""``canary guard``: the guardian as a process that needs no running Airflow."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from canary_release.control.desk import Desk, log_page
from canary_release.control.guardian import LONGEST_TICK, Finding, Guardian, Kind

log = logging.getLogger(__name__)

SAY_AGAIN = 300.0
"""Seconds after which a finding that lasts is printed once more."""

SHORTEST_WAIT = 5.0
"""Seconds for which a tick waits at least for load balancers that do not answer."""

# Whoever reads a log or a journal wants the line now.
_show = partial(print, flush=True)


def new_guardian(*, mend: bool, every: float | None = None) -> Guardian:
    """The guardian with the real ledger, clock and hooks; it asks Airflow only where ``canary_airflow`` says how.

    every: seconds between its ticks, which then do not wait much longer for load balancers that hang; None: one tick.
    """
    from canary_release.control import real_desk
    from canary_release.hooks.airflow_runs import AirflowRuns, is_configured

    def open_desk() -> Desk:
        desk = real_desk.open_desk()
        # Where nobody else is woken, the line that is printed is the page.
        return replace(desk, page=lambda service, sentence: None) if desk.page is log_page else desk

    run_state = AirflowRuns().run_state if is_configured() else None
    longest = LONGEST_TICK if every is None else min(LONGEST_TICK, max(every, SHORTEST_WAIT))
    name = f"program on {socket.gethostname()}"
    return Guardian(open_desk, name=name, run_state=run_state, mend=mend, longest_tick=longest)


def guard_once(guardian: Guardian, *, show: Callable[[str], None] = _show) -> int:
    """One tick. 0 when nothing was to be done or all that was done is safe, 1 when something is not safe."""
    findings = guardian.tick()
    for finding in findings:
        show(_line(finding))
    if not findings:
        show(f"{_now()}  nothing to do")
    return 0 if all(finding.safe for finding in findings) else 1


def guard_until_told(
    guardian: Guardian, *, every: float, stop: threading.Event, show: Callable[[str], None] = _show
) -> int:
    """A tick every ``every`` seconds until ``stop`` is set, or SIGTERM or SIGINT comes; what was begun is finished."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    show(f"{_now()}  guarding, every {every:g} s")
    shown: dict[tuple[Kind, str], float] = {}
    _tell_systemd("READY=1")
    while not stop.is_set():
        began = time.monotonic()
        for finding in _tick(guardian):
            key = (finding.kind, finding.subject)
            if finding.safe or began - shown.get(key, -SAY_AGAIN) >= SAY_AGAIN:
                shown[key] = began
                show(_line(finding))
        _tell_systemd("WATCHDOG=1")
        stop.wait(max(0.0, every - (time.monotonic() - began)))
    show(f"{_now()}  told to stop; nobody guards from here until it is started again")
    return 0


def _tick(guardian: Guardian) -> list[Finding]:
    try:
        return guardian.tick()
    except Exception as error:
        # The next tick may work; a guard that is gone never does.
        log.exception("one tick of the guard failed")
        sentence = f"this tick failed: {type(error).__name__}: {error}"
        return [Finding(Kind.NOT_SAFE, "guard", "guard", sentence)]


def _line(finding: Finding) -> str:
    return f"{_now()}  {finding.kind:<9}  {' '.join(finding.sentence.split())}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tell_systemd(words: str) -> None:
    """Where systemd started this, it restarts a guard that hangs. Protocol: man sd_notify."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
            out.connect("\0" + address[1:] if address.startswith("@") else address)
            out.sendall(words.encode())
    except OSError as error:
        log.warning("systemd was not told %s: %s", words, error)

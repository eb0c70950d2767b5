"""The desk as tasks, triggers, the guardian and the terminal use it: real clock, ledger, hooks and release files."""

from functools import cache
from pathlib import Path

from canary_release.control.desk import Desk
from canary_release.control.late_herald import LateHerald
from canary_release.control.system_clock import SystemClock
from canary_release.core.release import Release
from canary_release.core.release_file import load_release
from canary_release.figures import AirflowFigures
from canary_release.hooks import registry
from canary_release.hooks.ledger_connection import ledger_url
from canary_release.ledger.store import Ledger


@cache
def open_ledger() -> Ledger:
    """One a process: it holds a pool of connections."""
    return Ledger.open(ledger_url())


def open_desk() -> Desk:
    desk = Desk(
        ledger=open_ledger(),
        clock=SystemClock(),
        balancer_of=registry.make_load_balancer,
        source_of=lambda release, stable, canary: registry.make_metric_source(release, stable=stable, canary=canary),
        read_release=read_frozen,
    )
    desk.herald = LateHerald(desk)
    desk.figures = AirflowFigures()
    return desk


def read_release(path: Path) -> Release:
    """A release file as it stands. ReleaseFileError with every problem."""
    return load_release(path, source_name=path.name, backends=registry.BACKENDS)


def read_frozen(text: str, name: str) -> Release:
    return load_release(text, source_name=name, backends=registry.BACKENDS)

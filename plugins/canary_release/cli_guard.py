"""``canary guard`` and ``canary doctor``."""

import argparse
import logging
import threading
from collections.abc import Callable
from typing import Any

_SHORTEST, _LONGEST = 1.0, 60.0

_Add = Callable[[Any, str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_guard_commands(commands: Any, add: _Add) -> None:
    guard = add(commands, "guard", _guard, "take off every canary that nobody watches; needs no running Airflow")
    guard.add_argument("--once", action="store_true", help="look once; exit 1 when something is not safe")
    guard.add_argument("--every", type=_period, default=15.0, metavar="15s", help="from 1s to 60s (default: 15s)")
    guard.add_argument("--mend", action="store_true", help="also give back split traffic that belongs to no rollout")

    doctor = add(commands, "doctor", _doctor, "look at everything that a rollout and its way back depend on")
    doctor.add_argument(
        "files", nargs="*", metavar="FILE", help="release files to look at besides what the ledger knows"
    )
    doctor.add_argument("--write", action="store_true", help="also write each load balancer's weights as they are")
    doctor.add_argument("--json", action="store_true")


def _period(text: str) -> float:
    from canary_release.core.problems import UnitError
    from canary_release.core.units import read_duration

    try:
        seconds = read_duration(text)
    except UnitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not _SHORTEST <= seconds <= _LONGEST:
        # A longer period would leave an abandoned canary standing, and look to the doctor as if nobody guarded.
        raise argparse.ArgumentTypeError(f"{text} is not from 1s to 60s")
    return seconds


def _guard(arguments: argparse.Namespace) -> int:
    from canary_release.control.guard_program import guard_once, guard_until_told, new_guardian

    _quiet()
    guardian = new_guardian(mend=arguments.mend, every=None if arguments.once else arguments.every)
    if arguments.once:
        return guard_once(guardian)
    return guard_until_told(guardian, every=arguments.every, stop=threading.Event())


def _doctor(arguments: argparse.Namespace) -> int:
    from canary_release.control.doctor import run_doctor

    _quiet()
    return run_doctor(files=arguments.files, write=arguments.write, as_json=arguments.json)


def _quiet() -> None:
    """Airflow's logging writes to the standard output, where each line here is a result."""
    logging.getLogger("alembic").setLevel(logging.WARNING)

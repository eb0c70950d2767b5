"""``canary status``, ``history``, ``abort`` and ``report``: from the ledger, or from a remote Airflow.

With CANARY_AIRFLOW_URL in the environment Airflow is asked, unless ``--ledger`` says otherwise.
"""

import argparse
import getpass
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canary_release.core.problems import CanaryError

if TYPE_CHECKING:
    from canary_release.hooks.airflow_remote import RemoteAirflow
    from canary_release.ledger.overview import Brief
    from canary_release.ledger.records import Rollout
    from canary_release.ledger.store import Ledger

_Add = Callable[[Any, str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
POLL = 2.0
"""Seconds between two looks of a watching terminal."""
MOST = 1000
"""Past rollouts that are listed at once."""


def add_rollout_commands(commands: Any, add: _Add) -> None:
    status = add(commands, "status", _status, "rollouts in progress and how each service stands")
    status.add_argument("service", nargs="?", metavar="SERVICE")
    status.add_argument("--watch", action="store_true", help="until it is over; exit 0 when promoted, else 1")
    status.add_argument("--json", action="store_true")

    history = add(commands, "history", _history, "a service's past rollouts, newest first")
    history.add_argument("service", metavar="SERVICE")
    history.add_argument("--limit", type=int, default=20, metavar="N", help=f"at most {MOST} (default: 20)")
    history.add_argument("--json", action="store_true")

    abort = add(commands, "abort", _abort, "give all traffic back to the safe side, now")
    abort.add_argument("service", metavar="SERVICE")
    abort.add_argument("--reason", default="")

    report = add(commands, "report", _report, "everything about a rollout as one printable HTML file")
    report.add_argument("rollout", metavar="ROLLOUT", help="its id, for example shop-12 (see: canary history)")
    report.add_argument("-o", "--output", metavar="FILE", help="default: ROLLOUT.html; - for the terminal")
    for parser in (status, history, abort, report):
        parser.add_argument("--ledger", action="store_true", help="ask the ledger even where CANARY_AIRFLOW_URL is set")


def remote_airflow(arguments: argparse.Namespace) -> "RemoteAirflow | None":
    """The Airflow that the environment names, None where the ledger is to be asked."""
    from canary_release.hooks.airflow_remote import URL, RemoteAirflow

    if arguments.ledger or not os.environ.get(URL):
        return None
    return RemoteAirflow.from_environment(os.environ)


# --- status -----------------------------------------------------------------------------------------------------------


def _status(arguments: argparse.Namespace) -> int:
    remote = remote_airflow(arguments)
    if arguments.watch and arguments.service is None:
        raise WrongCallError("--watch needs a SERVICE.")
    if arguments.watch:
        rollout_id = _newest_id(remote, arguments.service)
        return watch(lambda: _page(remote, rollout_id), as_json=arguments.json)
    rows = _remote_rows(remote, arguments.service) if remote else _ledger_rows(arguments.service)
    if arguments.service is None or arguments.json:
        return _show(rows, arguments.json, empty="no rollout has been started yet")
    _print_tree(_page(remote, rows[0]["rollout"]))
    return 0


class WrongCallError(CanaryError):
    """The call itself is wrong: exit code 2."""


def watch(look: Callable[[], dict[str, Any]], *, as_json: bool = False, poll: float = POLL) -> int:
    """Show a rollout until it is over: a tree that changes on a terminal, lines elsewhere. 0 when promoted, else 1."""
    from rich.console import Console
    from rich.live import Live

    from canary_release.cli_tree import changed, ended_well, line, tree

    console = Console()
    page, shown = look(), None
    drawn = partial(_drawn, tree)
    if as_json or not console.is_terminal:
        while True:
            now = _drawn(changed, page)
            if now != shown:
                shown = now
                print(json.dumps(page["row"]) if as_json else _drawn(line, page), flush=True)
            if not page["row"]["in_progress"]:
                return 0 if ended_well(page) else 1
            time.sleep(poll)
            page = look()
    with Live(drawn(page), console=console, refresh_per_second=4) as live:
        while page["row"]["in_progress"]:
            time.sleep(poll)
            page = look()
            live.update(drawn(page))
    return 0 if ended_well(page) else 1


def _print_tree(page: dict[str, Any]) -> None:
    from rich.console import Console

    from canary_release.cli_tree import tree

    Console().print(_drawn(tree, page))


def _drawn(draw: Callable[[dict[str, Any]], Any], page: dict[str, Any]) -> Any:
    """What another version answers may lack what this one shows."""
    try:
        return draw(page)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise CanaryError(
            f"the answer is no rollout as this version of canary knows it ({type(error).__name__}: {error}); use the "
            "version that runs in Airflow."
        ) from None


def _page(remote: "RemoteAirflow | None", rollout_id: str) -> dict[str, Any]:
    if remote is not None:
        return remote.rollout(rollout_id)
    from pydantic import TypeAdapter

    from canary_release.control.real_desk import open_ledger
    from canary_release.ui.rollout_page import RolloutPage, read_story, rollout_page

    ledger = open_ledger()
    rollout = ledger.rollout(rollout_id)
    page = rollout_page(ledger, read_story(ledger, rollout, time.time()), user="", may_change=False)
    plain: dict[str, Any] = TypeAdapter(RolloutPage).dump_python(page, mode="json")
    return plain


def _newest_id(remote: "RemoteAirflow | None", service: str) -> str:
    rows = _remote_rows(remote, service) if remote else _ledger_rows(service)
    return str(rows[0]["rollout"])


def _ledger_rows(service: str | None) -> list[dict[str, Any]]:
    from canary_release.control.real_desk import open_ledger

    ledger = open_ledger()
    known = list(ledger.services())
    _require_known(service, known, "the ledger")
    newest = [_active_or_latest(ledger, name) for name in ([service] if service else known)]
    return [_row(each) for each in _as_json([found for found in newest if found is not None])]


def _remote_rows(remote: "RemoteAirflow", service: str | None) -> list[dict[str, Any]]:
    rows = remote.services()
    _require_known(service, [row["service"] for row in rows], "Airflow")
    return [_row(row) for row in rows if service in (None, row["service"])]


def _require_known(service: str | None, known: list[str], where: str) -> None:
    if service is not None and service not in known:
        there = ", ".join(known) or "none yet"
        raise CanaryError(f"{where} knows no service {service!r}; it knows: {there}.")


def _active_or_latest(ledger: "Ledger", service: str) -> "Rollout | None":
    return ledger.active(service) or next(iter(ledger.history(service, limit=1)), None)


def _as_json(rollouts: "Sequence[Rollout | Brief]") -> list[dict[str, Any]]:
    """What Airflow's answer to the same question would hold."""
    from canary_release.ledger.overview import Brief, brief_of
    from canary_release.ui.past_rows import past_rows

    briefs = [each if isinstance(each, Brief) else brief_of(each) for each in rollouts]
    return [asdict(row) for row in past_rows(briefs)]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    """row: from the list of services or from a service's history."""
    return {
        "service": row["service"],
        "rollout": row["rollout"],
        "version": f"{row['old_version']} -> {row['version']}",
        "state": row["state"],
        "step": row["step"] + 1,
        "started": _instant(row["started_at"]),
        "ended": _instant(row["ended_at"]),
        "by": row["started_by"],
        "why": row["outcome_reason"],
    }


def _instant(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


# --- the others -------------------------------------------------------------------------------------------------------


def _history(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.limit <= MOST:
        raise WrongCallError(f"--limit must be between 1 and {MOST}.")
    service, remote = arguments.service, remote_airflow(arguments)
    found = remote.history(service, arguments.limit) if remote else _ledger_history(service, arguments.limit)
    return _show([_row(each) for each in found], arguments.json, empty=f"no rollout of {service}")


def _ledger_history(service: str, limit: int) -> list[dict[str, Any]]:
    from canary_release.control.real_desk import open_ledger
    from canary_release.ledger.overview import past_of

    ledger = open_ledger()
    _require_known(service, list(ledger.services()), "the ledger")
    return _as_json(past_of(ledger, service, limit))


def _abort(arguments: argparse.Namespace) -> int:
    remote = remote_airflow(arguments)
    if remote is not None:
        print(remote.abort(arguments.service, arguments.reason))
        return 0
    from canary_release.control.ending import abort
    from canary_release.control.real_desk import open_desk

    ended = abort(open_desk(), arguments.service, arguments.reason, actor=f"{getpass.getuser()} (terminal)")
    print(ended.sentence)
    if ended.written is not None:
        print(f"the load balancer reads back: {ended.written.read_back} ({ended.written.seconds:.2f} s)")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    remote = remote_airflow(arguments)
    text = remote.report(arguments.rollout) if remote is not None else _report_from_ledger(arguments.rollout)
    if arguments.output == "-":
        print(text)
        return 0
    file = Path(arguments.output or f"{arguments.rollout}.html")
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CanaryError(f"{file} cannot be written: {error.strerror}; choose another file with -o.") from None
    print(f"{file}: the report of {arguments.rollout}")
    return 0


def _report_from_ledger(rollout_id: str) -> str:
    from canary_release.control.real_desk import open_ledger
    from canary_release.ui.report_page import report_html
    from canary_release.ui.rollout_page import read_story, rollout_page

    ledger = open_ledger()
    story = read_story(ledger, ledger.rollout(rollout_id), time.time())
    return report_html(rollout_page(ledger, story, user="", may_change=False), story)


def _show(rows: list[dict[str, Any]], as_json: bool, *, empty: str) -> int:
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    if not rows:
        print(empty)
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from canary_release.cli_tree import clean

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(clean(value)) for value in row.values()))
    Console(soft_wrap=False).print(table)
    return 0

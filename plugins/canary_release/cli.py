"""``canary …``: release files, rollouts and verdicts from a terminal or a CI job.

Exit codes: 0 as asked, 1 something is wrong (said in one line a problem), 2 the call itself is wrong.
Heavy modules (pandas, the ledger, Airflow's hooks) are imported by the command that needs them.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from canary_release.cli_evidence import add_evidence_commands
from canary_release.cli_guard import add_guard_commands
from canary_release.core.problems import CanaryError, ReleaseFileError

_Command = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    run: _Command = arguments.run
    try:
        return run(arguments)
    except ReleaseFileError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
    except CanaryError as error:
        print(f"canary: {error}", file=sys.stderr)
    except BrokenPipeError:
        # Whoever read our output has gone; give Python somewhere to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("canary: stopped", file=sys.stderr)
        return 130
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="canary", description="Canary releases of services behind load balancers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    lint = _add(commands, "lint", _lint, "check release files; prints one problem a line")
    lint.add_argument("files", nargs="+", metavar="FILE")

    status = _add(commands, "status", _status, "rollouts in progress and how each service stands")
    status.add_argument("service", nargs="?", metavar="SERVICE")
    status.add_argument("--json", action="store_true")

    history = _add(commands, "history", _history, "a service's past rollouts, newest first")
    history.add_argument("service", metavar="SERVICE")
    history.add_argument("--limit", type=int, default=20)
    history.add_argument("--json", action="store_true")

    abort = _add(commands, "abort", _abort, "give all traffic back to the safe side, now")
    abort.add_argument("service", metavar="SERVICE")
    abort.add_argument("--reason", default="")

    audit = _add(commands, "audit", _audit, "look for edits, deletions and a cut-off end in the audit trail")
    audit.add_argument("what", choices=["verify"])

    add_evidence_commands(commands, _add)
    add_guard_commands(commands, _add)
    return parser


def _add(commands: Any, name: str, run: _Command, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    return parser


def _lint(arguments: argparse.Namespace) -> int:
    from canary_release.core.release_file import lint
    from canary_release.hooks.registry import BACKENDS

    wrong = 0
    for name in arguments.files:
        problems = lint(Path(name), source_name=name, backends=BACKENDS)
        for problem in problems:
            print(problem)
        wrong += bool(problems)
        if not problems:
            print(f"{name}: ok")
    return 1 if wrong else 0


def _status(arguments: argparse.Namespace) -> int:
    from canary_release.control.real_desk import open_ledger

    ledger = open_ledger()
    known = list(ledger.services())
    wanted = [arguments.service] if arguments.service else known
    if arguments.service and arguments.service not in known:
        there = ", ".join(known) or "none yet"
        raise CanaryError(f"the ledger knows no service {arguments.service!r}; it knows: {there}.")
    rows = [_row(rollout) for name in wanted if (rollout := (ledger.active(name) or _latest(ledger, name)))]
    return _show(rows, arguments.json, empty="no rollout has been started yet")


def _latest(ledger: Any, service: str) -> Any:
    return next(iter(ledger.history(service, limit=1)), None)


def _history(arguments: argparse.Namespace) -> int:
    from canary_release.control.real_desk import open_ledger

    rollouts = open_ledger().history(arguments.service, limit=arguments.limit)
    return _show([_row(rollout) for rollout in rollouts], arguments.json, empty=f"no rollout of {arguments.service}")


def _abort(arguments: argparse.Namespace) -> int:
    import getpass

    from canary_release.control.ending import abort
    from canary_release.control.real_desk import open_desk

    ended = abort(open_desk(), arguments.service, arguments.reason, actor=f"{getpass.getuser()} (terminal)")
    print(ended.sentence)
    if ended.written is not None:
        print(f"the load balancer reads back: {ended.written.read_back} ({ended.written.seconds:.2f} s)")
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from canary_release.control.real_desk import open_ledger

    head, problems = open_ledger().verify_audit()
    for problem in problems:
        print(problem)
    print(f"{head.seq} entries, head {head.hash}: {'NOT whole' if problems else 'whole'}")
    return 1 if problems else 0


def _row(rollout: Any) -> dict[str, Any]:
    return {
        "service": rollout.service,
        "rollout": rollout.id,
        "version": f"{rollout.old_version} -> {rollout.version}",
        "state": str(rollout.state),
        "step": rollout.step + 1,
        "started": datetime.fromtimestamp(rollout.started_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
        "by": rollout.started_by,
        "why": rollout.outcome_reason,
    }


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

    table = Table(*rows[0], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    Console(soft_wrap=False).print(table)
    return 0

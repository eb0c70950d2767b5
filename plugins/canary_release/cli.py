"""``canary …``: release files, rollouts and verdicts from a terminal or a CI job.

Exit codes: 0 as asked (with --watch: promoted), 1 something is wrong (said in one line a problem; with --watch: not
promoted), 2 the call itself is wrong, 130 stopped by Ctrl-C.
Heavy modules (pandas, the ledger, Airflow's hooks) are imported by the command that needs them.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from canary_release.cli_evidence import add_evidence_commands
from canary_release.cli_guard import add_guard_commands
from canary_release.cli_remote import add_remote_commands
from canary_release.cli_rollouts import WrongCallError, add_rollout_commands
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
    except WrongCallError as error:
        print(f"canary: {error}", file=sys.stderr)
        return 2
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

    audit = _add(commands, "audit", _audit, "look for edits, deletions and a cut-off end in the audit trail")
    audit.add_argument("what", choices=["verify"])

    add_rollout_commands(commands, _add)
    add_remote_commands(commands, _add)
    add_evidence_commands(commands, _add)
    add_guard_commands(commands, _add)
    return parser


def _add(commands: Any, name: str, run: _Command, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    return parser


def _lint(arguments: argparse.Namespace) -> int:
    from canary_release.control.notice_checks import missing_providers
    from canary_release.core.release_file import lint, load_release
    from canary_release.hooks.registry import BACKENDS

    wrong = 0
    for name in arguments.files:
        problems = lint(Path(name), source_name=name, backends=BACKENDS)
        for problem in problems:
            print(problem)
        wrong += bool(problems)
        if not problems:
            print(f"{name}: ok")
            for sentence in missing_providers(load_release(Path(name), source_name=name, backends=BACKENDS)):
                print(f"{name}: warning: {sentence}")
    return 1 if wrong else 0


def _audit(arguments: argparse.Namespace) -> int:
    from canary_release.control.real_desk import open_ledger

    head, problems = open_ledger().verify_audit()
    for problem in problems:
        print(problem)
    print(f"{head.seq} entries, head {head.hash}: {'NOT whole' if problems else 'whole'}")
    return 1 if problems else 0

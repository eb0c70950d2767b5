"""``python -m bench``: run a profile of the bench and print, or write, its tables."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from bench.grid import Past, Row, run
from bench.profiles import PROFILES
from bench.report import BenchError, page, read_csv, write_csv
from canary_release.core.problems import CanaryError

PUBLISHED_SEED = 20261


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        rows = _run(asked)
        text = page(rows, _made_by(asked, rows))
        if asked.markdown is None:
            sys.stdout.write(text)
        else:
            _write(asked.markdown, text)
    except CanaryError as problem:
        sys.stderr.write(f"bench: {problem}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="The judge beside the rules of other tools.")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="quick")
    parser.add_argument(
        "--cells", default="*", metavar="PATTERN", help="only cells whose name matches, such as 'good*'"
    )
    parser.add_argument("--rollouts", type=_positive, metavar="N", help="instead of each cell's own number")
    parser.add_argument("--seed", type=int, default=PUBLISHED_SEED)
    parser.add_argument("--no-history", action="store_true", help="leave out the judge that learned noise from a past")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="keep rows here; cells that it has are not run again")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page here instead of printing it")
    parser.add_argument("--budget", type=float, default=float("inf"), metavar="SECONDS", help="begin no cell later")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _run(asked: argparse.Namespace) -> list[Row]:
    chosen = [(cell, number) for cell, number in PROFILES[asked.profile]() if fnmatch(cell.name, asked.cells)]
    if not chosen:
        raise BenchError(
            f"no cell of the profile {asked.profile} matches {asked.cells!r}; try 'good*' or '*errors x3*'."
        )
    rows = _kept(asked)
    wanted = {Past.NONE} if asked.no_history else set(Past)
    done = {cell for cell in {row.cell for row in rows} if wanted <= {row.judge for row in rows if row.cell == cell}}
    began = time.monotonic()
    for place, (cell, number) in enumerate(chosen, start=1):
        if cell.name in done:
            continue
        if time.monotonic() - began > asked.budget:
            sys.stderr.write(f"bench: {len(chosen) - place + 1} of {len(chosen)} cells left; run again with --csv\n")
            break
        rows = [row for row in rows if row.cell != cell.name]
        rows += run(cell, asked.rollouts or number, asked.seed, learned=not asked.no_history)
        sys.stderr.write(f"bench: {place}/{len(chosen)} {time.monotonic() - began:.0f} s  {cell.name}\n")
        if asked.csv is not None:
            write_csv(rows, asked.csv)
    return rows


def _kept(asked: argparse.Namespace) -> list[Row]:
    if asked.csv is None or not asked.csv.exists():
        return []
    rows = read_csv(asked.csv)
    if any(row.seed != asked.seed for row in rows):
        raise BenchError(f"{asked.csv}: made with another seed than {asked.seed}; name another file.")
    return rows


def _made_by(asked: argparse.Namespace, rows: Sequence[Row]) -> str:
    cells = len({row.cell for row in rows})
    took = sum(row.took for row in rows)
    return (
        f"Made by `python -m bench --profile {asked.profile} --seed {asked.seed}`: {cells} cells, "
        f"{took / 60:.1f} minutes of judging on one core."
    )


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise BenchError(f"{path}: cannot be written ({problem.strerror}); name another file.") from problem


if __name__ == "__main__":
    raise SystemExit(main())

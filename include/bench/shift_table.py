"""Writes the README's table of load balancers from what ``make bench-shift`` measured.

python -m bench.shift_table FIGURES.json README.md
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- balancers: begin, written by `make bench-shift` -->", "<!-- balancers: end -->"
HEAD = (
    "load balancer", "tested against", "shift p50 / p95", "lost requests", "off at 1 / 5 / 25 %", "finest step",
    "abilities", "weights stand after a restart",
)  # fmt: skip


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The table as Markdown. figures: by type, as the figures file holds them."""
    rows = sorted(figures.values(), key=lambda row: str(row["title"]))
    lines = [HEAD, ["---"] * len(HEAD), *map(_cells, rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(row: Mapping[str, Any]) -> list[str]:
    errors = row.get("split_error")
    return [
        row["title"],
        row["tested_against"],
        f"{1000 * row['p50']:.0f} / {1000 * row['p95']:.0f} ms",
        _lost(row),
        " / ".join(f"{errors[share]:+.2f}" for share in ("1", "5", "25")) + " pp" if errors else "-",
        f"{row['finest_step']} %",
        ", ".join(f"`{ability}`" for ability in row["abilities"]) or "-",
        _after_restart(row),
    ]


def _lost(row: Mapping[str, Any]) -> str:
    if "lost" not in row:
        return "no traffic through it"
    again = f" ({row['asked_again']:,} asked again)" if row.get("asked_again") else ""
    return f"{row['lost']:,} of {row['requests']:,}{again}"


def _after_restart(row: Mapping[str, Any]) -> str:
    if "survives_restart" not in row:
        return "-"
    if row["survives_restart"]:
        return f"yes, with {row['kept_by']}" if row["kept_by"] else "yes"
    return "no: all to stable" if row["back_to_stable"] else "no: as configured"


def put_into(page: str, text: str) -> str:
    """The page with what stands between its two marks replaced. ValueError when it has no such marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{text}{END}{after}"


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m bench.shift_table FIGURES.json PAGE.md", file=sys.stderr)
        return 2
    source, target = map(Path, arguments)
    try:
        figures = json.loads(source.read_text())
        target.write_text(put_into(target.read_text(), table(figures)))
    except (OSError, ValueError, KeyError) as error:
        print(f"{source} -> {target}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Writes docs/faults.md from what the fault tests recorded.

CANARY_FAULT_RESULTS=.fault-results.json pytest -m "faults or not faults" tests/faults tests/faults_real ...
python include/faults/report.py .fault-results.json docs/faults.md

It fails when a row has not been run: a page with holes would look like a page about what holds.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = """# What happens when something breaks

Each row is a fault, when it strikes, what must come of it, and what the tests saw. *simulated*: the real control code
and ledger on a virtual clock, with every process, load balancer and metric source in the test's hand. *real processes*:
an Airflow, load balancers and databases that are really killed. *tests of their own*: what tests elsewhere look at.

Moments: T0 before the lease · T1 intent written · T2 weight set, not recorded · T3 baking · T4 decided, not acted upon
· T5 promoting · T6 rolling back · T7 over. Seconds: the longest time for which clients were served by a side that the
ledger no longer permitted; a lease that still ran is not in it.

The tests of a row are called after it: `pytest -m "faults or not faults" -k row_07` runs those of row 7. The simulated
ones are part of `make test`; `make test-faults` runs all and writes this page (`include/faults/report.py`).

| # | fault | moment | required | seen | seconds |
|---|---|---|---|---|---|
"""
FOOT = """
## What the rows do not say

- **Blind.** A look that shows nothing (metrics unreadable, or nothing new in them) renews the lease only while the load
  balancer still says this step's weights, and never beyond `blind.max` after the first such look. Evidence that was
  stored before still takes the canary off meanwhile.
- **Promotion at a load balancer with a lease.** The lease is renewed whole before the ledger commits, and ended right
  behind. Should everything die between those two calls and stay dead for longer than the lease, clients go back to the
  old side, which still runs, until a guardian finishes the promotion.
- **A dead stable side.** The guardian leaves the canary as it is, and wakes somebody, while both the record and the
  metrics of now prove that stable fails nine of ten requests and the canary answers. Not proved is not held: metrics
  that cannot be read, or a stable side that died after the last look, end as ever. An abort, a failed verdict and a
  load balancer's own lease do not ask.
- **Failing calls.** One hook call of HAProxy is several questions to its socket. With nine of ten failing it is its
  lease that ends the canary, not the rollback.
- **Out of memory** is a kill, rows 1 and 2.
- **Without stable traffic** (the last step) errors are held against twice what stable had before, on top of the check's
  tolerance, and against absolute limits; latency only against absolute limits.
"""
FIGURES = """
## Figures

| what | required | seen |
|---|---|---|
"""
NOT_RUN = "not yet run"


def page(rows: Sequence[Mapping[str, Any]], figures: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown. rows, figures: as they stand in the results file."""
    table = "".join(f"| {' | '.join(_cells(row))} |\n" for row in rows)
    numbers = "".join(f"| {one['what']} | {one['required']} | {_seen(one)} |\n" for one in figures)
    return HEAD + table + FIGURES + numbers + FOOT


def _seen(figure: Mapping[str, Any]) -> str:
    return str(figure["seen"] or NOT_RUN)


def _cells(row: Mapping[str, Any]) -> list[str]:
    seen, seconds = [], []
    for name, key in (("simulated", "simulated"), ("real processes", "real"), ("tests of their own", "own")):
        if name not in row["how"]:
            continue
        found = row.get(key)
        seen.append(f"{name}: {found['seen'] if found else NOT_RUN}")
        if found and found["seconds"] is not None:
            seconds.append(f"{found['seconds']:g}")
    cells = [str(row["number"]), row["fault"], row["moments"], row["required"], "<br>".join(seen), "<br>".join(seconds)]
    return [cell.replace("|", "\\|") for cell in cells]


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 2:
        print("usage: report.py RESULTS.json PAGE.md", file=sys.stderr)
        return 2
    source, target = map(Path, arguments)
    try:
        found = json.loads(source.read_text())
        rows, figures = found["rows"], found["figures"]
        target.write_text(page(rows, figures))
    except (OSError, ValueError, KeyError) as error:
        print(f"{source} -> {target}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    missing = [f"row {row['number']}" for row in rows if NOT_RUN in _cells(row)[4]]
    missing += [one["key"] for one in figures if _seen(one) == NOT_RUN]
    print(f"{target}: {len(rows)} rows" + (f"; not run everywhere: {', '.join(missing)}" if missing else ""))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

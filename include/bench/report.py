"""Rows of the bench as CSV and as a page of tables, with the promises of the judge held against them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median

import pandas as pd

from bench.against_peers import delay
from bench.chance import percent
from bench.grid import Past, Row
from bench.promises import findings, short
from bench.told import TOLD
from canary_release.core.problems import CanaryError

ABOUT = """\
# The judge beside the rules of other tools

Simulated traffic, not production: requests are Poisson, errors and latency follow the models in
`include/bench/traffic.py`. The other tools did not run: `include/bench/peers.py` holds their decision rules, written
anew from their public documentation and source, with the settings shown there (and, as *tuned*, Flagger and Argo
Rollouts with limits at twice the service's own error rate and p99). Each rule sees the same counts. None waits for a
scrape, a query or a load balancer. The *oracle* knows the true effect, its onset and what hits both sides alike; no
real judge can. It ignores clumps and instance noise, which makes it faster there than a valid test could be. *bound* is
the time in which log(1/0.01) of information comes in, on average, without any noise; *with noise* the time in which as
much is left of it by clumps and instances (`include/bench/bounds.py`): no test of these counts that keeps 1 % false
rollbacks and misses nothing is faster on average, whatever it does. For latency both look, like the oracle, only at the
edge nearest p95; a test that takes all buckets as signs of one stretch can be faster. *least missed* is the share that
even the best test misses, which knows the effect, its onset and how large and lasting the noise is, and weighs all of a
rollout at once: noise can look like this effect, or hide it, so often (`include/bench/best_test.py`). *soonest* is the
mean time in which the best rule promotes a good canary when it may leave a step early in 5 % of canaries with just too
many errors for the next weight, after two windows at the least; whatever it has not left by then ends with its bake.

Each rollout lasts 40 minutes. A false rollback is one of a canary that is the same as stable; in brackets, the 95 %
interval of the simulation's own sampling error (Wilson). Times are seconds after the onset: mean of the caught / 95th
percentile of all. *ours* works without any history. *ours, own series* has learned noise from six hours of the service
as a whole, which a metric source is asked for before each rollout; *ours, history* from six hours of its instances.

Unless a cell says otherwise: 1000 requests/s, 0.5 % errors, 12 instances of stable and a fifth of that for the canary
(at least two), four steps of 1, 5, 25 and 50 %, windows of 30 s, no tolerance for errors. Latency tolerates 10 % for
good canaries and nothing for bad ones.

*Kept by no test in* counts the cells in which a promise asks for less time than the bound *with noise*, for fewer
misses than *least missed*, or for a promotion before *soonest*: there the promise is a mistake, and no judge can keep
it. *told* is a test that knows the noise exactly and has only to find the harm: with the judge's own stakes, the true
likelihoods window by window, and no window that decides alone (`include/bench/told.py`). *Nor by told in* counts the
cells, those of no test among them, in which it does not keep the promise either. A peer is compared with the judge only
where it is as careful, with at most 1 % false rollbacks over all good canaries under the same noise and traffic; a miss
counts as the rest of the rollout.
"""


class BenchError(CanaryError):
    """The bench was asked for something that it does not have."""


# --- rows -------------------------------------------------------------------------------------------------------------


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) for row in rows], columns=[one.name for one in fields(Row)])


def write_csv(rows: Sequence[Row], path: Path) -> None:
    try:
        frame_of(rows).to_csv(path, index=False, float_format="%.6g")
    except OSError as problem:
        raise BenchError(f"{path}: cannot be written ({problem.strerror}); name another file.") from problem


def read_csv(path: Path) -> list[Row]:
    """Rows written before. Raises BenchError."""
    try:
        frame = pd.read_csv(path)
        missing = [one.name for one in fields(Row) if one.name not in frame]
        if missing and {"cell", "judge"} <= set(frame):
            raise BenchError(
                f"{path}: made by an older bench, without {' and '.join(missing)}; remove it or name another file."
            )
        return [Row(**{one.name: row[one.name] for one in fields(Row)}) for row in frame.to_dict("records")]
    except (OSError, KeyError, ValueError) as problem:
        raise BenchError(f"{path}: not a table of this bench ({problem}); remove it or name another file.") from problem


# --- page -------------------------------------------------------------------------------------------------------------


def page(rows: Sequence[Row], made_by: str) -> str:
    """The whole report as markdown."""
    parts = [ABOUT, made_by, "\n## Promises\n", _promises(rows), _beside_told(rows)]
    for kind, title, cell_of in (
        ("good", "Good canaries: false rollbacks", _false_cell),
        ("bad", "Bad canaries: seconds until the rollback", _delay_cell),
        ("bad", "Bad canaries: requests hurt until the rollback, on average", _hurt_cell),
        ("early", "When the judge decides itself", _early_cell),
    ):
        some = [row for row in rows if row.kind == kind]
        if some:
            parts += [f"\n## {title}\n", _matrix(some, cell_of)]
    return "\n".join(parts) + "\n"


def _beside_told(rows: Sequence[Row]) -> str:
    """How much longer the judge takes for not knowing the noise."""
    told = {row.cell: delay(row) for row in rows if row.judge == TOLD and row.kind == "bad"}
    lines = []
    for judge in Past:
        ratios = {row.cell: delay(row) / told[row.cell] for row in rows if row.judge == judge and row.cell in told}
        if ratios:
            worst = max(ratios, key=ratios.__getitem__)
            lines.append(
                f"- *{judge}*: {median(ratios.values()):.2f} times as long as *told* in the median of {len(ratios)} "
                f"cells; at most {ratios[worst]:.2f} times, in {short(worst)}"
            )
    said = ["", "Until the rollback of a bad canary, a missed one counted as the rest of the rollout:", "", *lines]
    return "\n".join(said) if lines else ""


def _promises(rows: Sequence[Row]) -> str:
    found = findings(rows)
    head = "| promise | judge | cells | held in | kept by no test in | nor by *told* in | worst |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for one in found:
        cells = f"{one.cells} | {one.cells - len(one.broken)} | {one.impossible} | {one.too_much}"
        lines.append(f"| {one.promise} | {one.judge} | {cells} | {one.worst} |")
    for one in found:
        if one.broken:
            lines += ["", f"Not held by *{one.judge}*: {one.promise}", ""]
            lines += [f"- {cell}" for cell in one.broken]
    return "\n".join(lines)


def _matrix(rows: Sequence[Row], cell_of: Callable[[Row], str]) -> str:
    judges = list(dict.fromkeys(row.judge for row in rows))
    limits = LIMITS_BESIDE.get(cell_of, {})
    head = ["cell", "rollouts", *limits, *judges]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cell in dict.fromkeys(row.cell for row in rows):
        own = {row.judge: row for row in rows if row.cell == cell}
        first = next(iter(own.values()))
        line = [short(cell).removeprefix(f"{first.kind}: "), str(first.rollouts)]
        line += [limit(first) for limit in limits.values()]
        line += [cell_of(own[judge]) if judge in own else "" for judge in judges]
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def _false_cell(row: Row) -> str:
    return percent(row.false, row.rollouts)


def _delay_cell(row: Row) -> str:
    mean = "–" if math.isnan(row.mean) else f"{row.mean:.0f} / {'never' if math.isinf(row.late) else f'{row.late:.0f}'}"
    missed = f", misses {100 * row.missed:.0f} %" if row.missed > 0 else ""
    false = f", before the onset {100 * row.false:.0f} %" if row.false > 0 else ""
    return mean + missed + false


def _hurt_cell(row: Row) -> str:
    return "–" if math.isnan(row.hurt) else f"{row.hurt:,.0f}"


def _early_cell(row: Row) -> str:
    if math.isnan(row.finish):
        promoted = "none promoted"
    else:
        promoted = f"{100 * row.finished:.0f} % promoted after {row.finish:.0f} s"
    return f"{promoted}; left a step unsafely {percent(row.unsafe, row.rollouts)}"


LIMITS_BESIDE: dict[Callable[[Row], str], dict[str, Callable[[Row], str]]] = {
    _delay_cell: {
        "bound": lambda row: f"{row.bound:.0f}",
        "with noise": lambda row: f"{row.noisy_bound:.0f}",
        "least missed": lambda row: f"{100 * row.least_missed:.1f} %",
    },
    _early_cell: {"soonest": lambda row: "" if math.isnan(row.soonest) else f"{row.soonest:.0f} s"},
}
"""What is possible at all, beside what the judges did."""

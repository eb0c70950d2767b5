"""Rows of the bench as CSV and as a page of tables, with the promises of the judge held against them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import NormalDist

import pandas as pd

from bench.against_peers import beaten_by, delay
from bench.grid import Row
from canary_release.core.problems import CanaryError

PROMISED_FALSE, PROMISED_MISSES, PROMISED_UNSAFE, PROMISED_FINISH = 0.01, 0.02, 0.05, 600.0
TIMES_ORACLE, TIMES_ORACLE_INSTANCES, GRACE = 1.5, 2.5, 60.0
DEADLINES = {
    "errors x20": 60.0,
    "errors x5 from 900 s": 120.0,
    "latency +50 %": 90.0,
    "latency +10 %": 420.0,
}
DOUBT = 1e-3
OURS = ("ours", "ours, history")
IMPOSSIBLE = "a mistake in the promise, no test can"

ABOUT = """\
# The judge beside the rules of other tools

Simulated traffic, not production: requests are Poisson, errors and latency follow the models in
`include/bench/traffic.py`. The other tools did not run: `include/bench/peers.py` holds their decision rules, written
anew from their public documentation and source, with the settings shown there (and, as *tuned*, Flagger and Argo
Rollouts with limits at twice the service's own error rate and p99). Each rule sees the same counts. None waits for a
scrape, a query or a load balancer. The *oracle* knows the true effect, its onset and what hits both sides alike; no
real judge can. It ignores clumps and instance noise, which makes it faster there than a valid test could be. *bound* is
the time in which log(1/0.01) of information comes in, on average, without any noise; *with noise* the time in which as
much is left of it by clumps and instances (`include/bench/oracle.py`): no test of these counts that keeps 1 % false
rollbacks and misses nothing is faster on average, whatever it does.

Each rollout lasts 40 minutes. A false rollback is one of a canary that is the same as stable; in brackets, the 95 %
interval of the simulation's own sampling error (Wilson). Times are seconds after the onset: mean of the caught / 95th
percentile of all. *ours* works without any history; *ours, history* learns noise from six hours of stable's instances.

Unless a cell says otherwise: 1000 requests/s, 0.5 % errors, 12 instances of stable and a fifth of that for the canary
(at least two), four steps of 1, 5, 25 and 50 %, windows of 30 s, no tolerance for errors. Latency tolerates 10 % for
good canaries and nothing for bad ones.

*Kept by no test in* counts the cells in which a promise asks for less time than the bound *with noise*: there the
promise is a mistake, and no judge can keep it. A peer is compared with the judge only where it is as careful, with at
most 1 % false rollbacks over all good canaries under the same noise and traffic; a miss counts as the rest of the
rollout.
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
        return [Row(**{one.name: row[one.name] for one in fields(Row)}) for row in frame.to_dict("records")]
    except (OSError, KeyError, ValueError) as problem:
        raise BenchError(f"{path}: not a table of this bench ({problem}); remove it or name another file.") from problem


USUAL = ("none", "1000/s", "0.5 %", "12 instances", "1/5/25/50", "30 s", "limits none, 10%", "limits none, none")


def short(cell: str) -> str:
    """The cell's name without what is usual."""
    kind, _, rest = cell.partition(": ")
    return f"{kind}: " + "; ".join(part for part in rest.split("; ") if part not in USUAL)


# --- numbers ----------------------------------------------------------------------------------------------------------


def wilson(share: float, number: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a binomial share (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + 0.5 * confidence)
    middle = share + z * z / (2 * number)
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    scale = 1 + z * z / number
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def chance_of_as_many(count: int, number: int, chance: float) -> float:
    """P(Binomial(number, chance) >= count)."""
    logs = (
        math.lgamma(number + 1) - math.lgamma(k + 1) - math.lgamma(number - k + 1)
        + k * math.log(chance) + (number - k) * math.log1p(-chance)
        for k in range(count)
    )  # fmt: skip
    return max(0.0, 1.0 - math.fsum(math.exp(log) for log in logs))


def refuted(share: float, number: int, promised: float) -> bool:
    """Whether so many by chance, if the promise held, would come once in a thousand."""
    return chance_of_as_many(round(share * number), number, promised) < DOUBT


# --- promises ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """One promise over all cells: how many keep it, the worst, and the cells that do not."""

    promise: str
    judge: str
    cells: int
    worst: str
    broken: tuple[str, ...]

    @property
    def impossible(self) -> int:
        """In how many cells the promise asks for more than the counts can tell."""
        return sum(IMPOSSIBLE in words for words in self.broken)


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Every promise that the rows can say something about, for the judge with and without history."""
    return [found for judge in OURS for check in CHECKS for found in check([r for r in rows if r.judge == judge], rows)]


def _false(own: Sequence[Row], _: Sequence[Row]) -> Iterator[Finding]:
    good = [row for row in own if row.kind == "good"]
    if not good:
        return
    number = sum(row.rollouts for row in good)
    share = sum(row.false * row.rollouts for row in good) / number
    worst = max(good, key=lambda row: row.false)
    said = f"{percent(worst.false, worst.rollouts)} in {short(worst.cell)}; all together {percent(share, number)}"
    broken = tuple(
        f"{short(row.cell)}: {percent(row.false, row.rollouts)}"
        + ("" if refuted(row.false, row.rollouts, PROMISED_FALSE) else ", within the sampling error of 1 %")
        for row in good
        if row.false > PROMISED_FALSE
    )
    yield Finding("false rollbacks ≤ 1 % a rollout", good[0].judge, len(good), said, broken)


def _against_oracle(own: Sequence[Row], rows: Sequence[Row]) -> Iterator[Finding]:
    oracle = {row.cell: row for row in rows if row.judge == "oracle"}
    bad = [row for row in own if row.kind == "bad" and oracle[row.cell].missed <= PROMISED_MISSES]
    if not bad:
        return
    missed = max(bad, key=lambda row: row.missed)
    yield Finding(
        "misses ≤ 2 %, where the oracle has none",
        bad[0].judge,
        len(bad),
        f"{100 * missed.missed:.1f} % in {short(missed.cell)}",
        tuple(f"{short(row.cell)}: {100 * row.missed:.1f} %" for row in bad if row.missed > PROMISED_MISSES),
    )

    def allowed(row: Row) -> float:
        times = TIMES_ORACLE_INSTANCES if "; instances " in row.cell else TIMES_ORACLE
        return times * oracle[row.cell].mean + GRACE

    def over(row: Row) -> float:
        return math.inf if math.isnan(row.mean) else row.mean / allowed(row)

    def words(row: Row) -> str:
        return (
            f"{short(row.cell)}: {took(row)}, allowed {allowed(row):.0f} s "
            f"(oracle {oracle[row.cell].mean:.0f} s){never_faster(row, allowed(row))}"
        )

    yield Finding(
        "mean time ≤ 1.5 × oracle + 60 s (2.5 × with instance noise)",
        bad[0].judge,
        len(bad),
        words(max(bad, key=over)),
        tuple(words(row) for row in bad if over(row) > 1.0),
    )


def took(row: Row) -> str:
    return "never" if math.isnan(row.mean) else f"{row.mean:.0f} s"


def never_faster(row: Row, promised: float) -> str:
    """Where the promise is a mistake."""
    return f"; {IMPOSSIBLE} in less than {beyond(row.noisy_bound)}" if row.noisy_bound > promised else ""


def _peers(own: Sequence[Row], rows: Sequence[Row]) -> Iterator[Finding]:
    found = [(row, others) for row, others in beaten_by(own, rows) if others]
    if not found:
        return
    lost = [(row, [peer for peer, won in others if not won]) for row, others in found]
    lost = [(row, peers) for row, peers in lost if peers]

    def words(row: Row, peers: Sequence[Row]) -> str:
        faster = ", ".join(f"{peer.judge} {delay(peer):.0f} s" for peer in peers)
        return f"{short(row.cell)}: {delay(row):.0f} s; {faster}"

    worst = max(lost, key=lambda one: delay(one[0]) - min(map(delay, one[1])), default=None)
    yield Finding(
        "faster than every peer with false rollbacks ≤ 1 % under the same noise and traffic",
        own[0].judge,
        len(found),
        "" if worst is None else words(*worst),
        tuple(words(row, peers) for row, peers in lost),
    )


def _deadlines(own: Sequence[Row], _: Sequence[Row]) -> Iterator[Finding]:
    for effect, seconds in DEADLINES.items():
        some = [row for row in own if row.cell.startswith(f"bad: {effect};") and "; 1000/s; 0.5 %;" in row.cell]
        if some:
            worst = max(some, key=lambda row: math.inf if math.isnan(row.mean) else row.mean)
            yield Finding(
                f"{effect} at 1000/s and 0.5 %: mean within {seconds:g} s",
                some[0].judge,
                len(some),
                f"{took(worst)} in {short(worst.cell)}",
                tuple(
                    f"{short(row.cell)}: {took(row)}{never_faster(row, seconds)}"
                    for row in some
                    if not row.mean <= seconds
                ),
            )


def _early(own: Sequence[Row], _: Sequence[Row]) -> Iterator[Finding]:
    early = [row for row in own if row.kind == "early"]
    good = [row for row in early if "; just unsafe" not in row.cell and ", just unsafe" not in row.cell]
    unsafe = [row for row in early if row not in good]
    if good:
        worst = max(good, key=lambda row: math.inf if math.isnan(row.finish) else row.finish)
        yield Finding(
            "a good canary is promoted in ≤ 600 s at 1000/s",
            good[0].judge,
            len(good),
            f"{worst.finish:.0f} s ({100 * worst.finished:.0f} % promoted) in {short(worst.cell)}",
            tuple(f"{short(row.cell)}: {row.finish:.0f} s" for row in good if not row.finish <= PROMISED_FINISH),
        )
    if unsafe:
        worst = max(unsafe, key=lambda row: row.unsafe)
        yield Finding(
            "an unsafe step is left early in ≤ 5 %",
            unsafe[0].judge,
            len(unsafe),
            f"{percent(worst.unsafe, worst.rollouts)} in {short(worst.cell)}",
            tuple(
                f"{short(row.cell)}: {percent(row.unsafe, row.rollouts)}"
                for row in unsafe
                if row.unsafe > PROMISED_UNSAFE
            ),
        )


CHECKS: tuple[Callable[[Sequence[Row], Sequence[Row]], Iterator[Finding]], ...] = (
    _false,
    _against_oracle,
    _deadlines,
    _peers,
    _early,
)


# --- page -------------------------------------------------------------------------------------------------------------


def beyond(seconds: float) -> str:
    return "the plan's 40 minutes" if math.isinf(seconds) else f"{seconds:.0f} s"


def percent(share: float, number: int) -> str:
    if math.isnan(share):
        return "–"
    low, high = wilson(share, number)
    return f"{100 * share:.1f} % [{100 * low:.1f}–{100 * high:.1f}]"


def page(rows: Sequence[Row], made_by: str) -> str:
    """The whole report as markdown."""
    parts = [ABOUT, made_by, "\n## Promises\n", _promises(rows)]
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


def _promises(rows: Sequence[Row]) -> str:
    found = findings(rows)
    lines = ["| promise | judge | cells | held in | kept by no test in | worst |", "|---|---|---|---|---|---|"]
    for one in found:
        cells = f"{one.cells} | {one.cells - len(one.broken)} | {one.impossible}"
        lines.append(f"| {one.promise} | {one.judge} | {cells} | {one.worst} |")
    for one in found:
        if one.broken:
            lines += ["", f"Not held by *{one.judge}*: {one.promise}", ""]
            lines += [f"- {cell}" for cell in one.broken]
    return "\n".join(lines)


def _matrix(rows: Sequence[Row], cell_of: Callable[[Row], str]) -> str:
    judges = list(dict.fromkeys(row.judge for row in rows))
    bounded = cell_of is _delay_cell
    head = ["cell", "rollouts", *(["bound", "with noise"] if bounded else []), *judges]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cell in dict.fromkeys(row.cell for row in rows):
        own = {row.judge: row for row in rows if row.cell == cell}
        first = next(iter(own.values()))
        line = [short(cell).removeprefix(f"{first.kind}: "), str(first.rollouts)]
        line += [f"{first.bound:.0f}", f"{first.noisy_bound:.0f}"] if bounded else []
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

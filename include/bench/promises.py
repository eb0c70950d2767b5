"""The promises of the judge, held against the bench's rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.against_peers import beaten_by, delay
from bench.chance import percent, refuted
from bench.grid import UNSAFE, Past, Row

PROMISED_FALSE, PROMISED_MISSES, PROMISED_UNSAFE, PROMISED_FINISH = 0.01, 0.02, UNSAFE, 600.0
TIMES_ORACLE, TIMES_ORACLE_INSTANCES, TIMES_BOUND, GRACE = 1.5, 2.5, 1.5, 60.0
DEADLINES = {
    "errors x20": 60.0,
    "errors x5 from 900 s": 120.0,
    "latency +50 %": 90.0,
    "latency +10 %": 420.0,
}
IMPOSSIBLE = "a mistake in the promise, no test can"
USUAL = ("none", "1000/s", "0.5 %", "12 instances", "1/5/25/50", "30 s", "limits none, 10%", "limits none, none")


def short(cell: str) -> str:
    """The cell's name without what is usual."""
    kind, _, rest = cell.partition(": ")
    return f"{kind}: " + "; ".join(part for part in rest.split("; ") if part not in USUAL)


def beyond(seconds: float) -> str:
    return "the plan's 40 minutes" if math.isinf(seconds) else f"{seconds:.0f} s"


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
    """Every promise that the rows can say something about, for the judge with each kind of past."""
    return [found for judge in Past for check in CHECKS for found in check([r for r in rows if r.judge == judge], rows)]


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
        tuple(
            f"{short(row.cell)}: {100 * row.missed:.1f} %{never_surer(row)}"
            for row in bad
            if row.missed > PROMISED_MISSES
        ),
    )

    def allowed(row: Row) -> float:
        times = TIMES_ORACLE_INSTANCES if "; instances " in row.cell else TIMES_ORACLE
        return times * oracle[row.cell].mean + GRACE

    def measure(row: Row) -> str:
        return f"(oracle {oracle[row.cell].mean:.0f} s){never_faster(row, allowed(row))}"

    yield _mean_times("mean time ≤ 1.5 × oracle + 60 s (2.5 × with instance noise)", bad, allowed, measure)
    # Where noise leaves enough to be certain before the plan's end.
    told = [row for row in bad if math.isfinite(row.noisy_bound)]
    if told:
        yield _mean_times(
            "mean time ≤ 1.5 × bound with noise + 60 s, of what noise leaves",
            told,
            lambda row: TIMES_BOUND * row.noisy_bound + GRACE,
            lambda row: f"(bound with noise {row.noisy_bound:.0f} s)",
        )


def _mean_times(
    promise: str, rows: Sequence[Row], allowed: Callable[[Row], float], measure: Callable[[Row], str]
) -> Finding:
    """allowed: seconds, of each row.  measure: what these were taken from, in words."""

    def over(row: Row) -> float:
        return math.inf if math.isnan(row.mean) else row.mean / allowed(row)

    def words(row: Row) -> str:
        return f"{short(row.cell)}: {took(row)}, allowed {allowed(row):.0f} s {measure(row)}"

    broken = tuple(words(row) for row in rows if over(row) > 1.0)
    return Finding(promise, rows[0].judge, len(rows), words(max(rows, key=over)), broken)


def took(row: Row) -> str:
    return "never" if math.isnan(row.mean) else f"{row.mean:.0f} s"


def never_faster(row: Row, promised: float) -> str:
    """Where the promise is a mistake."""
    return f"; {IMPOSSIBLE} in less than {beyond(row.noisy_bound)}" if row.noisy_bound > promised else ""


def never_surer(row: Row) -> str:
    missed = f"{100 * row.least_missed:.1f} %"
    return f"; {IMPOSSIBLE} with less than {missed}" if row.least_missed > PROMISED_MISSES else ""


def never_sooner(row: Row) -> str:
    return f"; {IMPOSSIBLE} in less than {row.soonest:.0f} s" if row.soonest > PROMISED_FINISH else ""


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
            tuple(
                f"{short(row.cell)}: {row.finish:.0f} s{never_sooner(row)}"
                for row in good
                if not row.finish <= PROMISED_FINISH
            ),
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

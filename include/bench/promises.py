"""The promises of the judge, held against the bench's rows."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bench.against_peers import beaten_by, delay
from bench.chance import percent, refuted
from bench.grid import UNSAFE, Past, Row
from bench.told import TOLD

PROMISED_FALSE, PROMISED_MISSES, PROMISED_UNSAFE, PROMISED_FINISH = 0.01, 0.02, UNSAFE, 600.0
TIMES_ORACLE, TIMES_ORACLE_INSTANCES, TIMES_BOUND, GRACE = 1.5, 2.5, 1.5, 60.0
DEADLINES = {
    "errors x20": 60.0,
    "errors x5 from 900 s": 120.0,
    "latency +50 %": 90.0,
    "latency +10 %": 420.0,
}
IMPOSSIBLE = "a mistake in the promise, no test can"
TOLD_TOO = "*told* does not either:"
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

    @property
    def too_much(self) -> int:
        """In how many cells it asks for more than a test can that is told the noise, or any test."""
        return sum(IMPOSSIBLE in words or TOLD_TOO in words for words in self.broken)


@dataclass(frozen=True)
class Promise:
    """``amount`` of a row is ``most`` at the most; ``say`` it, and why it cannot be kept where it cannot."""

    words: str
    amount: Callable[[Row], float]
    most: Callable[[Row], float]
    say: Callable[[Row], str]
    why: Callable[[Row], str] = lambda row: ""

    def over(self, row: Row) -> float:
        amount = self.amount(row)
        return math.inf if math.isnan(amount) else amount / self.most(row)

    def held_against(self, rows: Sequence[Row]) -> Iterator[Finding]:
        if not rows:
            return
        worst = max(rows, key=self.over)
        broken = tuple(f"{short(row.cell)}: {self.say(row)}{self.why(row)}" for row in rows if self.over(row) > 1.0)
        yield Finding(self.words, rows[0].judge, len(rows), f"{self.say(worst)} in {short(worst.cell)}", broken)


Beside = Mapping[str, Row]  # another judge's row, by cell


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Every promise that the rows can say something about: for the judge with each kind of past, and for ``told``."""
    return [
        found
        for judge in (*Past, TOLD)
        for check in CHECKS
        if judge != TOLD or check not in (_peers, _early)
        for found in check([row for row in rows if row.judge == judge], rows)
    ]


def _rows_of(judge: str, rows: Sequence[Row]) -> Beside:
    return {row.cell: row for row in rows if row.judge == judge}


def _false(own: Sequence[Row], _: Sequence[Row]) -> Iterator[Finding]:
    good = [row for row in own if row.kind == "good"]
    number = sum(row.rollouts for row in good)
    promise = Promise(
        "false rollbacks ≤ 1 % a rollout",
        lambda row: row.false,
        lambda row: PROMISED_FALSE,
        lambda row: percent(row.false, row.rollouts),
        lambda row: "" if refuted(row.false, row.rollouts, PROMISED_FALSE) else ", within the sampling error of 1 %",
    )
    for found in promise.held_against(good):
        share = sum(row.false * row.rollouts for row in good) / number
        yield replace(found, worst=f"{found.worst}; all together {percent(share, number)}")


def _against_oracle(own: Sequence[Row], rows: Sequence[Row]) -> Iterator[Finding]:
    oracle, told = _rows_of("oracle", rows), _rows_of(TOLD, rows)
    bad = [row for row in own if row.kind == "bad" and oracle[row.cell].missed <= PROMISED_MISSES]
    yield from Promise(
        "misses ≤ 2 %, where the oracle has none",
        lambda row: row.missed,
        lambda row: PROMISED_MISSES,
        lambda row: f"{100 * row.missed:.1f} %",
        partial(never_surer, told=told),
    ).held_against(bad)

    def allowed(row: Row) -> float:
        times = TIMES_ORACLE_INSTANCES if "; instances " in row.cell else TIMES_ORACLE
        return times * oracle[row.cell].mean + GRACE

    yield from _mean_time(
        "mean time ≤ 1.5 × oracle + 60 s (2.5 × with instance noise)",
        allowed,
        lambda row: f"oracle {oracle[row.cell].mean:.0f} s",
        told,
    ).held_against(bad)
    yield from _mean_time(
        "mean time ≤ 1.5 × bound with noise + 60 s, of what noise leaves",
        lambda row: TIMES_BOUND * row.noisy_bound + GRACE,
        lambda row: f"bound with noise {row.noisy_bound:.0f} s",
        told,
    ).held_against([row for row in bad if math.isfinite(row.noisy_bound)])  # enough to be certain before the end


def _mean_time(words: str, most: Callable[[Row], float], measure: Callable[[Row], str], told: Beside) -> Promise:
    """most: seconds, of each row.  measure: what these were taken from, in words."""
    return Promise(
        words,
        lambda row: row.mean,
        most,
        lambda row: f"{took(row)}, allowed {most(row):.0f} s ({measure(row)})",
        lambda row: never_faster(row, most(row), told),
    )


def took(row: Row) -> str:
    return "never" if math.isnan(row.mean) else f"{row.mean:.0f} s"


def never_faster(row: Row, promised: float, told: Beside) -> str:
    """Where no test can, or none that has to find the harm."""
    if row.noisy_bound > promised:
        return f"; {IMPOSSIBLE} in less than {beyond(row.noisy_bound)}"
    other = told.get(row.cell)
    return f"; {TOLD_TOO} {took(other)}" if other and other is not row and not other.mean <= promised else ""


def never_surer(row: Row, told: Beside) -> str:
    if row.least_missed > PROMISED_MISSES:
        return f"; {IMPOSSIBLE} with less than {100 * row.least_missed:.1f} %"
    other = told.get(row.cell)
    too = other and other is not row and other.missed > PROMISED_MISSES
    return f"; {TOLD_TOO} {100 * other.missed:.1f} %" if other and too else ""


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


def _deadlines(own: Sequence[Row], rows: Sequence[Row]) -> Iterator[Finding]:
    told = _rows_of(TOLD, rows)
    for effect, seconds in DEADLINES.items():
        yield from Promise(
            f"{effect} at 1000/s and 0.5 %: mean within {seconds:g} s",
            lambda row: row.mean,
            lambda row, most=seconds: most,  # type: ignore[misc]
            took,
            partial(never_faster, promised=seconds, told=told),
        ).held_against([r for r in own if r.cell.startswith(f"bad: {effect};") and "; 1000/s; 0.5 %;" in r.cell])


def _early(own: Sequence[Row], _: Sequence[Row]) -> Iterator[Finding]:
    early = [row for row in own if row.kind == "early"]
    unsafe = [row for row in early if ", just unsafe" in row.cell]
    yield from Promise(
        "a good canary is promoted in ≤ 600 s at 1000/s",
        lambda row: row.finish,
        lambda row: PROMISED_FINISH,
        lambda row: "never" if math.isnan(row.finish) else f"{row.finish:.0f} s",
        never_sooner,
    ).held_against([row for row in early if row not in unsafe])
    yield from Promise(
        "an unsafe step is left early in ≤ 5 %",
        lambda row: row.unsafe,
        lambda row: PROMISED_UNSAFE,
        lambda row: percent(row.unsafe, row.rollouts),
    ).held_against(unsafe)


CHECKS: tuple[Callable[[Sequence[Row], Sequence[Row]], Iterator[Finding]], ...] = (
    _false,
    _against_oracle,
    _deadlines,
    _peers,
    _early,
)

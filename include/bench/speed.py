"""How fast the judge is: ten thousand recorded windows of fifty checks, and one new window. ``python -m bench.speed``.

Seconds are of processor time, so that a busy machine does not change them much.
"""

from dataclasses import dataclass, replace
from decimal import Decimal
from time import process_time

import numpy as np
import pandas as pd

from bench.traffic import Plan, Regression, Service, simulate
from canary_release.core.frames import record_from_frame
from canary_release.core.judge import judge
from canary_release.core.judge_state import JudgeState
from canary_release.core.record import Record
from canary_release.core.release import Check, CheckKind, Limit, LimitKind, Release, Step, Target

WINDOWS, CHECKS = 10_000, 50
OWN = 13  # checks on metrics of which there is only one
_NOWHERE = Target("nowhere", "none")


@dataclass(frozen=True)
class Speed:
    """replay: reading the table and judging it.  fold: adding a window.  word: the judgement with all sentences."""

    replay: float
    fold: float
    word: float


def fifty_checks() -> tuple[Check, ...]:
    """A quarter on proportions of their own, a quarter on errors within different limits, half on latency."""
    errors = Check("error_rate", CheckKind.PROPORTION, max_change=Limit(LimitKind.POINTS, 0.005, "0.5pp"))
    latency = Check("page_load_time", CheckKind.LATENCY, 0.95, Limit(LimitKind.RELATIVE, 0.1, "10%"))
    limits = [Limit(LimitKind.POINTS, 0.001 * (at + 1), f"{0.1 * (at + 1):g}pp") for at in range(CHECKS // 2 - OWN)]
    return (
        *(replace(errors, metric=f"metric_{at}") for at in range(OWN)),
        *(replace(errors, max_change=limit) for limit in limits),
        *(replace(latency, quantile=float(share)) for share in np.linspace(0.5, 0.99, CHECKS // 2)),
    )


def a_release() -> Release:
    steps = tuple(Step(Decimal(weight), 75_000.0) for weight in (1, 5, 25, 50))
    return Release("shop", _NOWHERE, ("blue", "green"), _NOWHERE, steps, fifty_checks())


def windows_table() -> pd.DataFrame:
    plan, rng = Plan(window=30.0, seconds=30.0 * WINDOWS), np.random.default_rng(1)
    table = simulate(Service(), plan, Regression(), 1, seed=1).frame(0)
    for at in range(OWN):
        table[f"metric_{at}_of"] = rng.binomial(table["requests"], 0.9)
        table[f"metric_{at}_events"] = rng.binomial(table[f"metric_{at}_of"], 0.002 * (1 + at))
    return table


def replay_seconds() -> float:
    """From the table to every verdict."""
    table, release = windows_table(), a_release()
    began = process_time()
    said = judge(release, record_from_frame(table))
    for at in range(len(said)):
        said.verdict(at)
    return process_time() - began


def one_window_seconds(repeats: int = 41) -> float:
    """Median for a window that comes after an hour of others: its evidence and its whole judgement in words."""
    speed = _one_window(record_from_frame(windows_table()), repeats)
    return speed[0] + speed[1]


def _one_window(record: Record, repeats: int) -> tuple[float, float]:
    state = JudgeState(a_release())
    state.fold(record[:120])
    took = []
    for at in range(120, 120 + repeats):
        began = process_time()
        said = state.fold(record[at : at + 1])
        folded = process_time()
        said[-1].to_json()
        took.append((folded - began, process_time() - folded))
    fold, word = np.median(took, axis=0).tolist()
    return fold, word


def main() -> None:
    replayed = replay_seconds()
    fold, word = _one_window(record_from_frame(windows_table()), 41)
    print(f"{WINDOWS:,} windows x {CHECKS} checks, table to verdicts: {replayed:.2f} s (promised 2 s)")
    words = f"{1000 * fold:.1f} ms evidence, {1000 * word:.1f} ms words"
    print(f"one new window of {CHECKS} checks: {words} (promised 5 ms)")


if __name__ == "__main__":
    main()

"""The fault matrix as data."""

from dataclasses import dataclass
from enum import StrEnum


class How(StrEnum):
    SIMULATED = "simulated"
    REAL = "real processes"
    BOTH = "simulated, real processes"
    OWN = "tests of their own"


@dataclass(frozen=True)
class Row:
    """moments: T0 before the lease, T1 intent written, T2 weight set and not recorded, T3 baking, T4 decided and not
    acted upon, T5 promoting, T6 rolling back, T7 over.
    """

    number: int
    fault: str
    moments: str
    required: str
    how: How


ROWS = (
    Row(1, "a task is killed", "T1-T6", "run again, the same weight, at most one more identical write", How.BOTH),
    Row(2, "a task and its supervisor are killed", "T1-T6", "canary off within lease and guardian period", How.BOTH),
    Row(3, "the scheduler is dead for 5 min", "T1-T6", "the balancer's lease ends it; never raised again", How.BOTH),
    Row(4, "triggerer, DAG processor or API server dead for 30 and 120 s", "T3",
        "no wrong promotion; rolled back only when blind for longer than allowed", How.BOTH),
    Row(5, "all of Airflow is dead", "T2, T3, T6", "the balancer alone returns to stable", How.BOTH),
    Row(6, "a task is stopped for 3 min and goes on as a zombie", "T1, T2",
        "nothing is raised after somebody took over; what overtook is taken back", How.BOTH),
    Row(7, "balancer API: 500, timeout, reset before and after the write", "T1, T2, T5, T6",
        "shift: safe; rollback: keeps trying, pages within 60 s; the last weight is read back", How.BOTH),
    Row(8, "balancer API: 429 for 5 min, 403, 404", "T1, T5, T6",
        "at most 40 calls a minute while refused; somebody is woken", How.SIMULATED),
    Row(9, "balancer says yes and does nothing, or applies 90 s later", "T2, T5, T6",
        "no step before it reads back; a late write does not stand", How.SIMULATED),
    Row(10, "balancer restarts with its base weights", "T3", "noticed; never raised again by itself", How.BOTH),
    Row(11, "somebody else sets 0, 50 or 100 %", "T3, T5", "noticed within one poll; hold and page; at most one write",
        How.SIMULATED),
    Row(12, "metrics: down, timeout", "T3, T4", "no data, never a pass; safe after the allowed time", How.BOTH),
    Row(13, "metrics: empty, NaN, reset, swapped, stale, one side missing, zero", "T3, T4",
        "no wrong promotion, no traceback", How.SIMULATED),
    Row(14, "a good canary, every tenth poll blind", "T3", "promoted", How.SIMULATED),
    Row(15, "run paused, marked failed or success, task cleared", "T1-T7",
        "safe within a guardian period; nothing but evidence promotes", How.BOTH),
    Row(16, "old runs are cleared and run again", "T7", "no write to the balancer", How.BOTH),
    Row(17, "50 starts of one service at once", "T0", "one begins, 49 are refused in words", How.BOTH),
    Row(18, "abort: while promoting, twice, when idle, 1,000 races with a promotion", "T3, T5, T7",
        "abort wins unless the promotion was committed before; twice is as once", How.SIMULATED),
    Row(19, "the ledger's database is gone, locked, or loses an answer", "T1-T6",
        "no raise without an intent; the lease ends; goes on afterwards", How.BOTH),
    Row(20, "disk full, no file handles, read-only file system, out of memory", "T1-T4, T6",
        "no torn record; a rollback needs no disk", How.OWN),
    Row(21, "the clock jumps by an hour either way", "T3", "no early promotion; safe", How.SIMULATED),
    Row(22, "bad release files, 10,000 fuzzed", "T0", "refused with place and key; no traceback, no call", How.OWN),
    Row(23, "sticky clients, keep-alive, WebSocket, long requests", "T6",
        "no new request to the canary after the rollback; none lost", How.REAL),
    Row(24, "the canary's servers die", "T3", "weight 0 within one poll", How.BOTH),
    Row(25, "the stable servers die", "T3, T5", "no rollback onto a dead side; page and hold", How.SIMULATED),
    Row(26, "no guardian, or two", "any", "the balancer's lease still bounds; two do what one does", How.BOTH),
    Row(27, "the audit is edited", "T7", "every change is found", How.OWN),
    Row(28, "injection, anonymous callers", "T0", "refused or escaped", How.OWN),
    Row(29, "1,000 random stories with one to three faults each", "all", "invariants I1-I8 hold", How.SIMULATED),
)  # fmt: skip


def row(number: int) -> Row:
    return ROWS[number - 1]

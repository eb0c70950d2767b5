"""The file that CANARY_FAULT_RESULTS names: what the fault tests saw, from which the page about faults is written.

Several test runs add to one file, each its own part; what a run did not look at stays as it was.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from faults.matrix import ROWS

TARGET = "CANARY_FAULT_RESULTS"


@dataclass(frozen=True)
class Figure:
    """A number that was promised. key: how tests name it."""

    key: str
    what: str
    required: str


FIGURES = (
    Figure("killed haproxy", "Bad-canary traffic after kill -9 of all of Airflow and of the guard, HAProxy's own lease",
           "at most the lease + 1 s"),
    Figure("killed traefik", "Bad-canary traffic after kill -9 of all of Airflow, Traefik, `canary guard` beside it",
           "at most the lease + one guard period, + 2 s for its write"),
    Figure("fail simulated", "Fail verdict to weight 0 read back, control part on a virtual clock", "p99 at most 2 s"),
    Figure("fail real", "Fail verdict to weight 0 read back, real Airflow", "at most one poll + 1 s"),
    Figure("90 % failing", "Rollback while 90 % of the load balancer's calls fail", "all converge, p95 at most 60 s"),
    Figure("50 starts", "50 starts of one service at once, threads on one ledger", "1 begins, 49 refused in words"),
    Figure("50 triggers", "50 people trigger one service at once in a real Airflow",
           "1 begins, 49 refused in words"),
    Figure("crash cells", "Crash points T0-T7 x outcomes of load balancer, metrics and ledger, 20 s and 150 s long",
           "every cell ends safely"),
    Figure("soak", "1,000 rollouts with one to three random faults", "invariants I1-I8 hold"),
    Figure("races", "1,000 aborts against promotions", "abort wins unless the commit was first"),
    Figure("wrong promotions", "Wrong promotions, all simulated stories", "0"),
    Figure("false rollbacks", "Good versions rolled back for a blip of the control plane, soak", "at most 1 %"),
    Figure("false rollbacks real", "The same on real processes: restarts of scheduler, API server, DAG processor, "
           "PostgreSQL, load balancer; metrics that break once", "0"),
    Figure("release files", "Generated release files", "10,000: 0 tracebacks, 0 calls of a load balancer"),
    Figure("confs", "Generated confs", "10,000: 0 tracebacks, 0 calls of a load balancer"),
    Figure("audit", "Forged audit trails found", "1,000 of 1,000"),
)  # fmt: skip


def record_figure(key: str, seen: str, *, held: bool) -> None:
    """Put down what was seen of a promised figure, whether it was held or not."""
    assert key in {figure.key for figure in FIGURES}, f"no figure is called {key!r}"
    print(f"figure  {key}: {seen}{'' if held else '  NOT HELD'}")

    def add(stored: dict[str, Any]) -> None:
        for entry in stored["figures"]:
            if entry["key"] == key:
                entry["seen"] = seen if held else f"NOT HELD: {seen}"

    change(add)


def record_own(number: int, sentence: str) -> None:
    """What a test outside the fault suites saw of a row."""

    def add(stored: dict[str, Any]) -> None:
        entry = stored["rows"][number - 1]
        said = (entry["own"] or {}).get("results", {})
        # A sentence that differs in its numbers only replaces the one of an earlier run.
        said[re.sub(r"[\d,.]+", "#", sentence)] = sentence
        entry["own"] = {"seen": "; ".join(said.values()), "seconds": None, "results": said}

    change(add)


def change(act: Callable[[dict[str, Any]], None]) -> None:
    """Let ``act`` change the file's content, if there is to be a file. rows and figures are complete and in order."""
    target = os.environ.get(TARGET)
    if not target:
        return
    path = Path(target)
    stored = json.loads(path.read_text()) if path.exists() else {}
    rows = {entry["number"]: entry for entry in stored.get("rows", [])}
    figures = {entry["key"]: entry for entry in stored.get("figures", [])}
    nothing = {"simulated": None, "real": None, "own": None}
    content = {
        "rows": [nothing | rows.get(one.number, {}) | asdict(one) for one in ROWS],
        "figures": [{"seen": None} | figures.get(one.key, {}) | asdict(one) for one in FIGURES],
    }
    act(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")

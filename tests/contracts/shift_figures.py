"""Measures one load balancer of the contract suite, for ``make bench-shift`` and the README's table."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Protocol

from canary_release.core.ports import KeepsLease, LoadBalancer
from canary_release.core.values import Weights
from contracts.conftest import BACKENDS
from contracts.load_client import ask_many, under_load
from contracts.waiting import wait_until

STABLE, CANARY = BACKENDS
FLIPS = 200
SHARES = ("1", "5", "25")
ASKED = 4000  # for each share; a balancer that draws at random is then off by 0.16, 0.34 and 0.68 points (one sd)


class Case(Protocol):
    """What is measured; ``test_balancers.Case`` is one."""

    balancer: LoadBalancer
    restart: Callable[[], None]
    url: str
    closes_idle: bool
    tested_against: str


def real(name: str, argv: Sequence[str], environment: Mapping[str, str | None] | None = None) -> str:
    """``real NAME VERSION`` as the program itself tells it."""
    variables = {key: value for key, value in (environment or {}).items() if value is not None}
    told = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=os.environ | variables)
    version = re.search(r"[0-9]+\.[0-9]+\.[0-9]+", told.stdout + told.stderr)
    return f"real {name} {version.group() if version else '(it tells no version)'}"


def measured(case: Case) -> dict[str, Any]:
    """Seconds of 200 flips, requests lost and how far off the split was while clients asked; JSON values."""
    row = described(case)
    seconds = under_traffic(case, row) if case.url else [one_flip(case, number) for number in range(FLIPS)]
    row |= {"shifts": len(seconds), "p50": quantile(seconds, 0.50), "p95": quantile(seconds, 0.95)}
    return row | {"survives_restart": survives_restart(case)}


def shift(balancer: LoadBalancer, canary_percent: str) -> None:
    weights = Weights.split(stable=STABLE, canary=CANARY, canary_percent=Decimal(canary_percent))
    balancer.set_weights(weights)
    wait_until(lambda: balancer.get_weights() == weights, f"{weights} read back")


def described(case: Case) -> dict[str, Any]:
    return {
        "tested_against": case.tested_against,
        "finest_step": str(case.balancer.finest_step),
        "lease": isinstance(case.balancer, KeepsLease),
    }


def under_traffic(case: Case, row: dict[str, Any]) -> list[float]:
    with under_load(case.url, ask_again=case.closes_idle) as load:
        load.wait_for_more(50)
        seconds = []
        for number in range(FLIPS):
            seconds.append(one_flip(case, number))
            load.wait_for_more(20)
    bad = sum(count for (_, status), count in load.answers.items() if status != 200)
    if case.closes_idle:
        row["asked_again"] = load.asked_again
    row |= {"lost": len(load.failures) + bad, "requests": load.total + len(load.failures)}
    row["split_error"] = {share: split_error(case, share) for share in SHARES}
    return seconds


def one_flip(case: Case, number: int) -> float:
    """Seconds from the call until the balancer itself says the new weights."""
    began = time.perf_counter()
    shift(case.balancer, "0" if number % 2 else "100")
    return time.perf_counter() - began


def split_error(case: Case, share: str) -> float:
    """Points between the share asked for and the share that clients got."""
    shift(case.balancer, share)
    answers = ask_many(case.url, ASKED)
    return round(100 * answers[(CANARY, 200)] / ASKED - float(share), 2)


def survives_restart(case: Case) -> bool:
    """Whether a weight stands after the balancer was ended and started again."""
    shift(case.balancer, "12.5" if Decimal("12.5") % case.balancer.finest_step == 0 else "50")
    stood = case.balancer.get_weights()
    case.restart()
    wait_until(lambda: bool(case.balancer.get_weights()), "weights after the restart")
    return case.balancer.get_weights() == stood


def quantile(seconds: list[float], share: float) -> float:
    return round(sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))], 4)

"""Measures one load balancer of the contract suite, for ``make bench-shift`` and the README's table."""

import time
from decimal import Decimal
from typing import Any

from canary_release.core.ports import LoadBalancer
from canary_release.core.values import Weights
from canary_release.hooks.abilities import abilities_of
from contracts.case import Case
from contracts.load_client import ask_many, under_load
from contracts.shop import BACKENDS
from contracts.waiting import wait_until

STABLE, CANARY = BACKENDS
FLIPS = 200
SHARES = ("1", "5", "25")
ASKED = 4000  # for each share; a balancer that draws at random is then off by 0.16, 0.34 and 0.68 points (one sd)


def measured(name: str, case: Case) -> dict[str, Any]:
    """Seconds of 200 flips, requests lost and how far off the split was while clients asked; JSON values."""
    row = described(name, case)
    seconds = under_traffic(case, row) if case.url else [one_flip(case, number) for number in range(FLIPS)]
    row |= {"shifts": len(seconds), "p50": quantile(seconds, 0.50), "p95": quantile(seconds, 0.95)}
    if case.restarts:
        row["survives_restart"] = survives_restart(case)
    return row


def in_words(row: dict[str, Any]) -> str:
    """What a person reads while the figures are made: one line a load balancer."""
    lost = f"lost {row['lost']:,} of {row['requests']:,} requests" if "lost" in row else "no traffic through it"
    latency = f"{row['shifts']} shifts, p50 {1000 * row['p50']:.0f} ms, p95 {1000 * row['p95']:.0f} ms"
    return f"{row['title'].replace('`', ''):<28} {latency}, {lost}"


def shift(balancer: LoadBalancer, canary_percent: str) -> None:
    weights = Weights.split(stable=STABLE, canary=CANARY, canary_percent=Decimal(canary_percent))
    balancer.set_weights(weights)
    wait_until(lambda: balancer.get_weights() == weights, f"{weights} read back")


def described(name: str, case: Case) -> dict[str, Any]:
    return {
        "title": case.title or f"`{name}`",
        "tested_against": case.tested_against,
        "finest_step": str(case.balancer.finest_step),
        "abilities": sorted(abilities_of(type(case.balancer))),
        "back_to_stable": case.leased,
        "kept_by": case.kept_by,
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

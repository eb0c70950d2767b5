"""The list of services as a page shows it: where each one stands, in words, and who must act first.

Instants are seconds since the epoch, shares are percent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from canary_release.core.values import Weights
from canary_release.core.wording import amount
from canary_release.ledger.overview import Brief, Finished, ServiceView
from canary_release.ledger.records import State
from canary_release.ui.phases import Phase, Question, phase_of, question_of

_CERTAIN = 4.0  # standard deviations between the observed and the set share that are no chance


@dataclass(frozen=True)
class Traffic:
    """The canary's share: asked for, said by the load balancer, and seen in the newest windows; None where unknown.

    differs: what is wrong between them, empty when nothing is.
    """

    stable: str
    canary: str
    asked: float | None
    read_back: float | None
    read_back_at: float | None
    observed: float | None
    requests: int
    differs: str


@dataclass(frozen=True)
class Worst:
    """The check with the most evidence against the canary."""

    check: str
    verdict: str
    words: str


@dataclass(frozen=True)
class Outcome:
    rollout: str
    version: str
    state: str
    ended_at: float | None


@dataclass(frozen=True)
class ServiceRow:
    service: str
    rollout: str
    dag_id: str
    run_id: str
    version: str
    old_version: str
    state: str
    in_progress: bool
    phase: Phase
    traffic: Traffic
    worst: Worst | None
    step: int
    steps: int
    started_at: float
    ended_at: float | None
    started_by: str
    reason: str
    outcome_reason: str
    question: Question | None
    past: list[Outcome]
    yours: bool
    may_change: bool


@dataclass(frozen=True)
class Figures:
    """Of the rollouts that started in the last ``days`` days; None where there is nothing to count."""

    days: int
    finished: int
    promoted: int
    rolled_back: int
    success_rate: float | None
    seconds_to_full: float | None
    seconds_to_zero: float | None


@dataclass(frozen=True)
class ServiceList:
    at: float
    user: str
    figures: Figures
    services: list[ServiceRow]


def service_row(view: ServiceView, rollout: Brief, *, now: float, user: str, may_change: bool) -> ServiceRow:
    """view: of the same rollout."""
    question = question_of(view)
    phase = phase_of(view, rollout, now)
    approvers = question.approvers if question else []
    return ServiceRow(
        service=view.service,
        rollout=rollout.id,
        dag_id=rollout.dag_id,
        run_id=rollout.run_id,
        version=rollout.version,
        old_version=rollout.old_version,
        state=str(rollout.state),
        in_progress=not rollout.state.final,
        phase=phase,
        traffic=traffic_of(view, rollout),
        worst=worst_check(view.decision.judgement if view.decision else None),
        step=rollout.step,
        steps=len(view.steps),
        started_at=rollout.started_at,
        ended_at=rollout.ended_at,
        started_by=rollout.started_by,
        reason=rollout.reason,
        outcome_reason=rollout.outcome_reason,
        question=question,
        past=[Outcome(*each) for each in view.past],
        yours=user in (rollout.started_by, *approvers),
        may_change=may_change,
    )


def by_urgency(rows: Sequence[ServiceRow]) -> list[ServiceRow]:
    """Who must act first, then what is in flight, then the newest."""
    return sorted(rows, key=lambda row: (row.phase.urgency, -row.started_at, row.service))


def figures_of(finished: Sequence[Finished], days: int) -> Figures:
    promoted = [each for each in finished if each.state == State.PROMOTED]
    to_full = [each.seconds for each in promoted if each.seconds is not None]
    to_zero = [each.seconds for each in finished if each.state != State.PROMOTED and each.seconds is not None]
    return Figures(
        days=days,
        finished=len(finished),
        promoted=len(promoted),
        rolled_back=len(finished) - len(promoted),
        success_rate=len(promoted) / len(finished) if finished else None,
        seconds_to_full=median(to_full) if to_full else None,
        seconds_to_zero=mean(to_zero) if to_zero else None,
    )


def traffic_of(view: ServiceView, rollout: Brief) -> Traffic:
    asked = _share(view.write.asked if view.write else None, rollout.canary)
    read_back = _share(view.write.seen if view.write else None, rollout.canary)
    requests = view.requests.canary + view.requests.stable if view.requests and not rollout.state.final else 0
    observed = 100.0 * view.requests.canary / requests if view.requests and requests else None
    return Traffic(
        stable=rollout.stable,
        canary=rollout.canary,
        asked=asked,
        read_back=read_back,
        read_back_at=view.write.seen_at if view.write else None,
        observed=observed,
        requests=requests,
        differs=_differs(asked, read_back, observed, requests),
    )


def _differs(asked: float | None, read_back: float | None, observed: float | None, requests: int) -> str:
    if asked is not None and read_back is not None and asked != read_back:
        return f"asked for {asked:g} %, the load balancer says {read_back:g} %"
    if observed is None or read_back is None:
        return ""
    expected = read_back / 100.0
    spread = math.sqrt(max(expected * (1.0 - expected), 1e-4) / requests)
    if abs(observed / 100.0 - expected) > _CERTAIN * spread:
        return f"the load balancer says {read_back:g} %, {observed:.3g} % of the requests were seen on the canary"
    return ""


def worst_check(judgement: Mapping[str, Any] | None) -> Worst | None:
    """None before the first judgement."""
    checks = (judgement or {}).get("checks") or []
    if not checks:
        return None
    worst = max(checks, key=_badness)
    seen = f"{amount(worst['canary'], worst['unit'])} vs {amount(worst['stable'], worst['unit'])}"
    words = "no data" if worst["verdict"] == "no_data" else f"{seen}, limit {worst['limit']}"
    return Worst(worst["check"], worst["verdict"], words)


def _badness(check: Mapping[str, Any]) -> tuple[bool, float]:
    return check["verdict"] == "fail", (check["evidence"] or 0.0) / (check["needed"] or 1.0)


def _share(weights: Weights | None, backend: str) -> float | None:
    share = weights.shares.get(backend) if weights is not None else None
    return None if share is None else float(share)

"""The past rollouts of one service, as the API and the terminal list them.

Instants are seconds since the epoch.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from canary_release.ledger.overview import Brief


@dataclass(frozen=True)
class PastRow:
    """One rollout, in progress or over. step: index of the last weight it came to, -1 before the first."""

    service: str
    rollout: str
    dag_id: str
    run_id: str
    version: str
    old_version: str
    profile: str
    state: str
    step: int
    started_at: float
    ended_at: float | None
    started_by: str
    reason: str
    outcome_reason: str


@dataclass(frozen=True)
class History:
    """Newest first; those whose DAG the user may not read are left out."""

    service: str
    rollouts: list[PastRow]


def past_rows(rollouts: Iterable[Brief]) -> list[PastRow]:
    return [
        PastRow(
            service=each.service,
            rollout=each.id,
            dag_id=each.dag_id,
            run_id=each.run_id,
            version=each.version,
            old_version=each.old_version,
            profile=each.profile,
            state=str(each.state),
            step=each.step,
            started_at=each.started_at,
            ended_at=each.ended_at,
            started_by=each.started_by,
            reason=each.reason,
            outcome_reason=each.outcome_reason,
        )
        for each in rollouts
    ]

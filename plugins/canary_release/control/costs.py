"""What a rollout did to its users so far, from the ledger."""

from canary_release.control.desk import Desk
from canary_release.core.aftermath import Aftermath, Shown, aftermath
from canary_release.core.values import Decision
from canary_release.ledger.records import Rollout


def cost_of(desk: Desk, rollout: Rollout) -> Aftermath:
    """Up to now while it is in progress. Raises LedgerError."""
    decisions = desk.ledger.decisions(rollout.id)
    back = next((each for each in decisions if each.decision == Decision.ROLL_BACK and each.window >= 0), None)
    return aftermath(
        desk.ledger.windows(rollout.id),
        [
            Shown(write.read_back_at, float(write.read_back.shares.get(rollout.canary, 0)))
            for write in desk.ledger.writes(rollout.id)
            if write.read_back is not None and write.read_back_at is not None
        ],
        desk.release(rollout).checks,
        started_at=rollout.started_at,
        ended_at=rollout.ended_at or desk.clock.now(),
        decided=back.window if back is not None else None,
        blamed=(back.judgement or {}).get("blamed") if back is not None else None,
    )

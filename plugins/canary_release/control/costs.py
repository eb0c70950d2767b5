"""What a rollout did to its users so far, from the ledger."""

from collections.abc import Sequence

from canary_release.control.desk import Desk
from canary_release.core.aftermath import Aftermath, Shown, aftermath
from canary_release.core.release import Ability, Release
from canary_release.core.values import Decision, Window
from canary_release.ledger.records import DecisionRecord, Rollout, Write


def cost_of(desk: Desk, rollout: Rollout) -> Aftermath:
    """Up to now while it is in progress. Raises LedgerError."""
    ledger = desk.ledger
    told = (ledger.windows(rollout.id), ledger.writes(rollout.id), ledger.decisions(rollout.id))
    return cost(rollout, desk.release(rollout), *told, now=desk.clock.now())


def cost(
    rollout: Rollout,
    release: Release | None,
    windows: Sequence[Window],
    writes: Sequence[Write],
    decisions: Sequence[DecisionRecord],
    *,
    now: float,
) -> Aftermath:
    """release: None where the frozen file cannot be read any more."""
    shown = [
        Shown(write.read_back_at, float(write.read_back.shares.get(rollout.canary, 0)))
        for write in writes
        if write.read_back is not None and write.read_back_at is not None
    ]
    back = next((each for each in decisions if each.decision == Decision.ROLL_BACK and each.window >= 0), None)
    found = aftermath(
        windows,
        shown,
        release.checks if release is not None else (),
        started_at=rollout.started_at,
        ended_at=rollout.ended_at or now,
        decided=back.window if back is not None else None,
        blamed=(back.judgement or {}).get("blamed") if back is not None else None,
    )
    if release is None:
        return found
    return found.for_users(release.requests_per_user, sticky=Ability.STICKY in release.needs)

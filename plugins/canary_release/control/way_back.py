"""Ending a rollout on its safe side. Imports little: it must work while the rest of the package does not."""

from dataclasses import dataclass

from canary_release.control.desk import Desk
from canary_release.control.safe_writes import Written
from canary_release.control.telling import tell_ended
from canary_release.ledger.records import Rollout, State


@dataclass(frozen=True)
class BroughtBack:
    """written: the write that gave the safe side everything, None when the rollout was over already."""

    rollout: Rollout
    written: Written | None
    sentence: str


def bring_back(desk: Desk, rollout: Rollout, why: str, *, actor: str, patience: float | None) -> BroughtBack:
    """Give everything to the safe side, see it in force, record the end.

    After promotion was committed the safe side is the new version. Raises LoadBalancerError when ``patience`` (seconds,
    None: never) runs out, and LedgerError.
    """
    wrote: str | None = None
    while True:
        now = desk.ledger.rollout(rollout.id)
        if now.state.final and wrote in (None, now.safe_side):
            return BroughtBack(now, None, f"{now.id} is over: {now.state.words} ({now.outcome_reason})")
        reason = now.outcome_reason or why
        written = desk.writer(desk.release(now), actor=actor).to_safe_side(
            now.service, now, safe=now.safe_side, other=now.other_side, why=reason, patience=patience
        )
        wrote = now.safe_side if written.asked[now.safe_side] else now.other_side
        # The intent to lower bars a later promotion; one that was committed just before it has moved the safe side.
        if desk.ledger.rollout(rollout.id).safe_side == wrote:
            break
    now = desk.ledger.rollout(rollout.id)
    state = State.PROMOTED if now.safe_side == now.canary else State.ROLLED_BACK
    ended = desk.ledger.end(now, state, reason=reason, actor=actor, at=written.at)
    tell_ended(desk, ended, written, actor=actor)
    return BroughtBack(ended, written, f"{ended.id} {ended.state.words}: {ended.outcome_reason}")


def unwatched(rollout: Rollout, now: float) -> str | None:
    """Why nobody is in charge of this rollout at ``now`` (seconds since the epoch), None while somebody is."""
    if rollout.lease_until is not None and now > rollout.lease_until:
        late = f"its lease ran out {now - rollout.lease_until:.0f} s ago: nobody watched the canary"
        return rollout.outcome_reason or late
    if now > rollout.deadline:
        return rollout.outcome_reason or f"it is {now - rollout.deadline:.0f} s past its deadline"
    return None

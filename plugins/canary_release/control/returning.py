"""The way back after a promotion: everything to the side that was stable, at once, while it is still kept.

It is raised without steps or checks, since it was the proven side until a moment ago.
"""

from canary_release.control.desk import Desk
from canary_release.control.ending import Ended
from canary_release.control.way_back import bring_back
from canary_release.core.problems import RefusedError
from canary_release.ledger.audit_notes import note
from canary_release.ledger.returns import begin_return

# Should this process die, whoever guards goes on after the lease.
_LEASE = 60.0
_TIME = 3600.0


def return_to_old(desk: Desk, service: str, why: str, actor: str, *, patience: float | None = None) -> Ended:
    """Give everything back to the old side of the service's last promotion, and see it in force.

    RefusedError, and nothing is written, when the old side is not kept (any more), or another rollout runs or followed.
    The promotion ends as rolled back in the ledger, with the audit events ``returning`` and ``returned``.
    """
    past = [rollout for rollout in desk.ledger.history(service, limit=50) if not rollout.dry_run]
    if not past:
        known = ", ".join(desk.ledger.services()) or "none yet"
        raise RefusedError(f"the ledger knows no service {service!r}; it knows: {known}.")
    last, now = past[0], desk.clock.now()
    reason = f"returned to {last.old_version} by {actor}" + (f": {why}" if why else "")
    begun = begin_return(
        desk.ledger, last, why=reason, actor=actor, at=now, lease_until=now + _LEASE, deadline=now + _TIME
    )
    done = bring_back(desk, begun, reason, actor=actor, patience=patience)
    written = {"read_back": done.written.read_back.to_json()} if done.written is not None else {}
    note(desk.ledger, begun, "returned", {"why": reason} | written, actor=actor, at=desk.clock.now())
    return Ended(done.rollout, done.written, done.sentence)

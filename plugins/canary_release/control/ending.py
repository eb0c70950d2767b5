"""Every way a rollout ends: promoted, rolled back, settled after a crash, or aborted by a person."""

import logging
from dataclasses import dataclass

from canary_release.control.desk import Desk, plan_of, weights_for
from canary_release.control.patience import patiently
from canary_release.control.safe_writes import Written
from canary_release.control.starting import sides
from canary_release.control.stepping import ruling_of
from canary_release.control.way_back import BroughtBack, bring_back
from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, RefusedError
from canary_release.core.values import FULL, Weights
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.returns import keep_old

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """written: the write that brought the safe side everything, None when there was nothing to write."""

    rollout: Rollout
    written: Written | None
    sentence: str


def promote(desk: Desk, rollout: Rollout, *, actor: str) -> Ended:
    """Make the canary the side that holds the traffic for good.

    RefusedError unless the plan's last step was decided to promote, in the ledger, and the load balancer gives the
    canary everything.
    """
    if rollout.state is State.PROMOTED:
        return Ended(rollout, None, f"{rollout.id} was promoted already")
    steps = plan_of(rollout).weight_steps
    balancer, wanted = desk.balancer(desk.release(rollout)), weights_for(rollout, steps[-1])
    seen = patiently(desk.clock, balancer.get_weights)
    if seen != wanted:
        raise RefusedError(f"{rollout.id} cannot be promoted: the load balancer says {seen}, not {wanted}.")
    committed = _commit(desk, rollout, actor=actor)
    record = ruling_of(desk, rollout, len(steps) - 1)
    why = f"promoted: {record.reason}" if record is not None else "promoted"
    return _ended(bring_back(desk, committed, why, actor=actor, patience=None))


def _commit(desk: Desk, rollout: Rollout, *, actor: str) -> Rollout:
    """Make the canary the safe side: in the ledger, and at once at a load balancer that keeps a lease.

    The load balancer's lease still names the old side when the ledger names the new one. So it gets a whole lease
    before, and is ended right behind, with nothing in between that could wait; after a crash there, whoever finishes
    the promotion has all of that lease for it. The other order would leave an aborted version its traffic.
    """
    release = desk.release(rollout)
    writer = desk.writer(release, actor=actor)

    def renew() -> None:
        desk.ledger.may_stand(rollout, at=desk.clock.now())
        writer.renew_lease(rollout, desk.clock.now() + release.lease)

    if desk.ledger.rollout(rollout.id).state is State.RUNNING:
        patiently(desk.clock, renew)
    if release.keep_old_for:
        # Before the promotion, so that whoever finishes it need not think of it; without one it means nothing.
        patiently(desk.clock, lambda: keep_old(desk.ledger, rollout, desk.clock.now() + release.keep_old_for))
    committed = patiently(desk.clock, lambda: desk.ledger.commit_promotion(rollout, actor=actor, at=desk.clock.now()))
    try:
        writer.end_lease(committed)
    except (LoadBalancerError, ConnectionSettingsError) as error:
        # What follows tries until it succeeds.
        log.warning("%s: the load balancer's own lease was not ended yet: %s", rollout.id, error)
    return committed


def roll_back(desk: Desk, rollout: Rollout, why: str, *, actor: str, patience: float | None = None) -> Ended:
    """Give everything to the safe side, see it in force, record the end. Never gives up while ``patience`` is None.

    After promotion was committed the safe side is the new version. A rollout that is over is left as it is.
    """
    return _ended(bring_back(desk, rollout, why, actor=actor, patience=patience))


def settle(desk: Desk, rollout: Rollout, *, actor: str) -> Ended | None:
    """The last act of every run: bring whatever is unfinished to the safe side; None when all is finished."""
    if desk.ledger.rollout(rollout.id).state.final:
        return None
    return roll_back(desk, rollout, "the run ended before its rollout was finished", actor=actor)


def abort(desk: Desk, service: str, why: str, *, actor: str, patience: float | None = None) -> Ended:
    """Take a service's canary off, whoever asks. With no rollout in progress it only looks, and mends an orphan weight.

    RefusedError when the ledger has never heard of the service.
    """
    active = desk.ledger.active(service)
    if active is not None:
        said = f"aborted by {actor}: {why}" if why else f"aborted by {actor}"
        return roll_back(desk, active, said, actor=actor, patience=patience)
    past = [rollout for rollout in desk.ledger.history(service) if not rollout.dry_run]
    if not past:
        known = ", ".join(desk.ledger.services()) or "none yet"
        raise RefusedError(f"the ledger knows no service {service!r}; it knows: {known}.")
    last = past[0]
    release = desk.release(last)
    seen = desk.balancer(release).get_weights()
    if seen == Weights({last.safe_side: FULL, last.other_side: FULL - FULL}):
        return Ended(last, None, f"{service}: no rollout in progress and {last.safe_side} has all the traffic")
    try:
        sides(release, seen)
    except RefusedError:
        written = desk.writer(release, actor=actor).to_safe_side(
            service, None, safe=last.safe_side, other=last.other_side, why=f"orphan weight: {why}", patience=patience
        )
        return Ended(last, written, f"{service}: weights without a rollout ({seen}); now {written.read_back}")
    return Ended(last, None, f"{service}: no rollout in progress; somebody gave everything to the other side ({seen})")


def _ended(done: BroughtBack) -> Ended:
    return Ended(done.rollout, done.written, done.sentence)

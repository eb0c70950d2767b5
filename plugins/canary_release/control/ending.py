"""Every way a rollout ends: promoted, rolled back, settled after a crash, aborted by a person, or reconciled."""

from dataclasses import dataclass

from canary_release.control.desk import Desk, plan_of, weights_for
from canary_release.control.safe_writes import Written
from canary_release.control.starting import sides
from canary_release.control.stepping import ruling_of
from canary_release.control.way_back import BroughtBack, bring_back, unwatched
from canary_release.core.problems import CanaryError, RefusedError
from canary_release.core.values import FULL, Weights
from canary_release.ledger.records import Rollout, State


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
    release = desk.release(rollout)
    seen, wanted = desk.balancer(release).get_weights(), weights_for(rollout, steps[-1])
    if seen != wanted:
        raise RefusedError(f"{rollout.id} cannot be promoted: the load balancer says {seen}, not {wanted}.")
    committed = desk.ledger.commit_promotion(rollout, actor=actor, at=desk.clock.now())
    record = ruling_of(desk, rollout, len(steps) - 1)
    why = f"promoted: {record.reason}" if record is not None else "promoted"
    return _ended(bring_back(desk, committed, why, actor=actor, patience=None))


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
        return roll_back(desk, active, f"aborted by {actor}: {why}" if why else f"aborted by {actor}", actor=actor)
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


def reconcile(desk: Desk, *, actor: str) -> list[Ended]:
    """What the guardian does at every tick: end each rollout that nobody watches any more."""
    done: list[Ended] = []
    for rollout in desk.ledger.unfinished():
        why = unwatched(rollout, desk.clock.now())
        if why is None:
            continue
        try:
            done.append(roll_back(desk, rollout, why, actor=actor, patience=_GUARDIAN_PATIENCE))
        except CanaryError as error:
            # One broken service must not keep the guardian from the others; the next tick comes soon.
            done.append(Ended(rollout, None, f"{rollout.id} is NOT safe yet: {error}"))
    return done


_GUARDIAN_PATIENCE = 20.0


def _ended(done: BroughtBack) -> Ended:
    return Ended(done.rollout, done.written, done.sentence)

"""Somebody else moved the weights during a bake: hold and say so, take it as it is, or repair it once."""

from canary_release.control.desk import Desk, step_of, weights_for
from canary_release.control.safe_writes import PAGE_AGAIN
from canary_release.core.decide import Ruling
from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, RefusedError
from canary_release.core.release import Release
from canary_release.core.values import Decision, Weights
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.ticks import last_tick, tick

REPAIR = "repair of somebody else's change"


def after_drift(desk: Desk, rollout: Rollout, release: Release, index: int, ruling: Ruling, *, actor: str) -> Ruling:
    """The ruling, held back while the load balancer does not say what this step asked for.

    A rollback is never held back: taking the canary off needs nobody's permission.
    """
    if ruling.decision is Decision.ROLL_BACK or release.drift == "adopt":
        return ruling
    wanted = weights_for(rollout, step_of(rollout, index))
    try:
        seen = desk.balancer(release).get_weights()
    except (LoadBalancerError, ConnectionSettingsError) as error:
        if ruling.decision is Decision.HOLD:
            return ruling
        return Ruling(Decision.HOLD, f"the load balancer cannot be asked whether the weights stand: {error}")
    if seen == wanted:
        return ruling
    if desk.ledger.rollout(rollout.id).state is not State.RUNNING:
        return Ruling(Decision.HOLD, "the rollout is being ended")
    sentence = f"somebody else moved the weights: the load balancer says {seen}, this step asked for {wanted}"
    if release.drift == "repair" and _repair(desk, rollout, release, index, wanted, actor=actor):
        return Ruling(Decision.HOLD, f"{sentence}; repaired, once")
    _page_once(desk, rollout, sentence)
    return Ruling(Decision.HOLD, f"{sentence}; on hold until a person puts it right or aborts")


def _repair(desk: Desk, rollout: Rollout, release: Release, index: int, wanted: Weights, *, actor: str) -> bool:
    begun = rollout.step_started_at or 0.0
    if any(write.why == REPAIR and write.at >= begun for write in desk.ledger.writes(rollout.id)):
        return False
    until = desk.clock.now() + release.lease
    try:
        desk.writer(release, actor=actor).raise_weight(
            rollout, step=index, weights=wanted, why=REPAIR, lease_until=until
        )
    except (LoadBalancerError, ConnectionSettingsError, RefusedError):
        return False
    return True


def _page_once(desk: Desk, rollout: Rollout, sentence: str) -> None:
    last, now, key = desk.ledger.decisions(rollout.id), desk.clock.now(), f"page drift {rollout.id}"
    if last and sentence in last[-1].reason:
        return
    # While a rollout waits for a person its looks leave no decisions.
    before = last_tick(desk.ledger, key)
    if before is None or now - before >= PAGE_AGAIN:
        tick(desk.ledger, key, now)
        desk.page(rollout.service, f"{rollout.id}: {sentence}")

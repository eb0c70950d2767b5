"""One step of a rollout: shift the weight, watch it, and say what follows.

The ledger is asked at every act what may be done; a task's own memory counts for nothing. Whoever sees the evidence
cross the line takes the canary off in the same breath, before anything is reported.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from canary_release.control.desk import Desk, plan_of, step_of, weights_for
from canary_release.control.drift import after_drift
from canary_release.control.judging import MEMORY
from canary_release.control.learning import noise_of_rollout
from canary_release.control.opening import require_raise_open
from canary_release.control.patience import patiently
from canary_release.control.safe_writes import EAGER_SECONDS, Written
from canary_release.control.telling import tell_looked, tell_shifted
from canary_release.core.contradiction import not_contradicting
from canary_release.core.decide import Ruling, decide
from canary_release.core.judge import judge
from canary_release.core.judgement import Judgement
from canary_release.core.peak_hours import after_peak
from canary_release.core.problems import (
    CanaryError,
    ConnectionSettingsError,
    LoadBalancerError,
    MetricSourceError,
    RefusedError,
)
from canary_release.core.release import Release, Step
from canary_release.core.values import FULL, Cursor, Decision, Verdict, Weights, Window, plain
from canary_release.ledger.leases import renew_lease
from canary_release.ledger.records import DecisionRecord, Rollout, State

log = logging.getLogger(__name__)

# How long the one who saw the failure tries by itself before it reports; the next poll tries again.
_TRIGGER_PATIENCE = 8.0
_CLOCK_SLACK = 5.0


@dataclass(frozen=True)
class Shifted:
    """before: what the load balancer said before. written: None when the step had been shifted already."""

    rollout: Rollout
    step: Step
    before: Weights
    written: Written | None


@dataclass(frozen=True)
class Observed:
    """One look at a step. windows: the new ones. judgement: None while blind or before the first window.

    lowered: the write that took the canary off, when this look decided so and it succeeded.
    """

    rollout: Rollout
    decision: Decision
    reason: str
    windows: Sequence[Window] = ()
    judgement: Judgement | None = None
    lowered: Written | None = None


def shift(desk: Desk, rollout: Rollout, index: int, *, actor: str) -> Shifted:
    """Give the canary the weight of step ``index`` and count from the moment it was read back.

    Doing it twice writes once. RefusedError when the ledger does not allow it, and its ClosedError while the calendar
    does not (nothing is written then). When the
    write itself goes wrong the canary is taken off before the error leaves here.
    """
    step, release = step_of(rollout, index), desk.release(rollout)
    before = patiently(desk.clock, desk.balancer(release).get_weights)
    target = weights_for(rollout, step)
    if rollout.step == index and rollout.step_started_at is not None and before == target:
        return Shifted(rollout, step, before, None)
    require_raise_open(desk, rollout, index)
    _require_no_drift(release, rollout, index, before, target)
    try:
        written = _raise(desk, rollout, release, index, target, actor=actor)
    except RefusedError:
        if desk.balancer(release).get_weights() == target != before:
            # The raise overtook whoever took over from us.
            take_off(desk, rollout, "a late raise takes itself back", actor=actor)
        raise
    except CanaryError as error:
        take_off(desk, rollout, f"the shift to {plain(step.weight)} % went wrong: {error}", actor=actor)
        raise
    shifted = Shifted(patiently(desk.clock, lambda: desk.ledger.rollout(rollout.id)), step, before, written)
    tell_shifted(desk, shifted.rollout, written)
    return shifted


def _raise(desk: Desk, rollout: Rollout, release: Release, index: int, target: Weights, *, actor: str) -> Written:
    written = desk.writer(release, actor=actor).raise_weight(
        rollout,
        step=index,
        weights=target,
        why=f"step {index + 1} of {len(plan_of(rollout).weight_steps)}",
        lease_until=desk.clock.now() + release.lease,
    )
    source = desk.source(release, stable=rollout.stable, canary=rollout.canary)
    _, cursor = patiently(desk.clock, lambda: source.read(None))
    now = desk.clock.now()
    patiently(
        desk.clock,
        lambda: desk.ledger.begin_step(rollout.id, at=now, cursor=cursor, lease_until=now + release.lease),
    )
    return written


def observe(desk: Desk, rollout_id: str, index: int, *, actor: str, waiting: bool = False) -> Observed:
    """Look once: read the counts since the last look, store them, judge, decide; on a fail take the canary off.

    Renews the lease after the evidence was evaluated. A look that shows nothing renews it only as far as the release
    file's allowance for blindness goes, so that whoever cannot see for longer does not keep a canary alive.
    waiting: the step was decided to advance and waits for something else; all it can still do is roll back.
    """
    rollout = desk.ledger.rollout(rollout_id)
    release = desk.release(rollout)
    settled = _settled_already(desk, rollout, index)
    if settled is not None and not (waiting and settled.decision is Decision.ADVANCE):
        return settled
    overdue = _overdue(rollout, release, desk.clock.now())
    if overdue is not None:
        return _roll_back_now(desk, rollout, index, overdue, actor=actor)
    seen = _read(desk, rollout, release)
    known = desk.ledger.windows(rollout.id)
    weight = float(step_of(rollout, index).weight / FULL)
    placed = [
        not_contradicting(window.placed(index=len(known) + offset, step=index, weight=weight))
        for offset, window in enumerate(seen.windows)
    ]
    judgements = MEMORY.judged(rollout, release, known, placed)
    ruling = decide(release, plan_of(rollout).weight_steps, index, [*known, *placed], judgements)
    if waiting and ruling.decision is not Decision.ROLL_BACK:
        ruling = Ruling(Decision.HOLD, ruling.reason)
    if not placed and ruling.decision is not Decision.ROLL_BACK and (seen.trouble or ruling.decision is Decision.HOLD):
        return _blind(desk, rollout, release, index, seen.trouble or "the metrics bring nothing new", actor=actor)
    ruling = after_peak(release, step_of(rollout, index), index, [*known, *placed], ruling)
    ruling = after_drift(desk, rollout, release, index, ruling, actor=actor)
    lease_until = desk.clock.now() + release.lease if placed else None
    if seen.trouble is None and not desk.ledger.store_windows(
        rollout, placed, cursor=seen.cursor, lease_until=lease_until
    ):
        return Observed(rollout, Decision.HOLD, "another reader was faster, or the rollout is being ended")
    if lease_until is not None:
        _renew_at_balancer(desk, rollout, release, lease_until, actor=actor)
    if waiting and ruling.decision is not Decision.ROLL_BACK:
        # The decision to advance stands; a later hold must not be taken for a newer one.
        return Observed(rollout, ruling.decision, ruling.reason, placed, judgements[-1] if judgements else None)
    return _act(desk, rollout, index, placed, judgements[-1] if judgements else None, ruling, actor=actor)


@dataclass(frozen=True)
class _Reading:
    """What a look at the metrics gave. trouble: why it gave nothing at all, else None."""

    windows: Sequence[Window]
    cursor: Cursor
    trouble: str | None = None


def _read(desk: Desk, rollout: Rollout, release: Release) -> _Reading:
    source = desk.source(release, stable=rollout.stable, canary=rollout.canary)
    try:
        windows, cursor = source.read(rollout.cursor)
    except (MetricSourceError, ConnectionSettingsError) as error:
        return _Reading((), rollout.cursor or {}, str(error))
    return _Reading(windows, cursor)


def ruling_of(desk: Desk, rollout: Rollout, index: int) -> DecisionRecord | None:
    """The last decision recorded for a step."""
    records = [record for record in desk.ledger.decisions(rollout.id) if record.step == index]
    return records[-1] if records else None


def judgement_of(desk: Desk, rollout: Rollout, index: int) -> Judgement | None:
    """The step's last judgement, computed again from the recorded windows and nothing else."""
    windows = [window for window in desk.ledger.windows(rollout.id) if window.step <= index]
    judgements = judge(desk.release(rollout), windows, noise=noise_of_rollout(rollout))
    return judgements[-1] if judgements else None


def take_off(
    desk: Desk, rollout: Rollout, why: str, *, actor: str, patience: float = _TRIGGER_PATIENCE
) -> Written | None:
    """Try briefly to give everything to the safe side; None when it did not work (others go on trying)."""
    writer = desk.writer(desk.release(rollout), actor=actor)
    try:
        return writer.to_safe_side(
            rollout.service,
            rollout,
            safe=rollout.safe_side,
            other=rollout.other_side,
            why=why,
            patience=patience,
        )
    except (LoadBalancerError, ConnectionSettingsError):
        return None


def _require_no_drift(release: Release, rollout: Rollout, index: int, before: Weights, target: Weights) -> None:
    if release.drift == "adopt":
        return
    steps = plan_of(rollout).weight_steps
    previous = weights_for(rollout, steps[index - 1]) if index else Weights.split(
        stable=rollout.stable, canary=rollout.canary, canary_percent=FULL - FULL
    )  # fmt: skip
    if before not in (previous, target):
        raise RefusedError(
            f"{rollout.id}: somebody else moved the weights: the load balancer says {before}, we left {previous}."
        )


def _settled_already(desk: Desk, rollout: Rollout, index: int) -> Observed | None:
    """A restarted watcher finds what was decided before, and goes on with a rollback that is not in force yet."""
    if rollout.state is State.ROLLING_BACK:
        began = next((write.at for write in desk.ledger.writes(rollout.id) if not write.raises), 0.0)
        # Whoever was tried for a minute is only asked once a look from then on.
        patience = _TRIGGER_PATIENCE if desk.clock.now() - began < EAGER_SECONDS else 0.0
        lowered = take_off(desk, rollout, rollout.outcome_reason, actor="watcher", patience=patience)
        return Observed(rollout, Decision.ROLL_BACK, rollout.outcome_reason, lowered=lowered)
    if rollout.state.final or rollout.state is State.PROMOTING:
        decision = Decision.ROLL_BACK if rollout.state is State.ROLLED_BACK else Decision.HOLD
        return Observed(rollout, decision, f"{rollout.id} is {rollout.state.words}: {rollout.outcome_reason}")
    record = ruling_of(desk, rollout, index)
    if record is not None and record.decision in (Decision.ADVANCE, Decision.PROMOTE):
        return Observed(rollout, Decision(record.decision), record.reason)
    return None


def _overdue(rollout: Rollout, release: Release, now: float) -> str | None:
    if rollout.blind_since is not None and now - rollout.blind_since >= release.max_blind:
        return f"blind for {now - rollout.blind_since:.0f} s (limit {release.max_blind:.0f} s)"
    if rollout.lease_until is not None and now > rollout.lease_until:
        return f"nobody watched the canary for {now - rollout.lease_until:.0f} s longer than its lease allows"
    if rollout.step_started_at is not None and now < rollout.step_started_at - _CLOCK_SLACK:
        return f"the clock went back by {rollout.step_started_at - now:.0f} s or more, so no lease can be believed"
    if now > rollout.deadline:
        return f"the rollout is {now - rollout.deadline:.0f} s past its deadline"
    return None


def _renew_at_balancer(desk: Desk, rollout: Rollout, release: Release, until: float, *, actor: str) -> None:
    try:
        desk.writer(release, actor=actor).renew_lease(rollout, until)
    except (LoadBalancerError, ConnectionSettingsError) as error:
        # Not renewed is the safe side: the load balancer will take the canary off by itself.
        log.warning("%s: the load balancer's own lease was not renewed: %s", rollout.id, error)


def _blind(desk: Desk, rollout: Rollout, release: Release, index: int, why: str, *, actor: str) -> Observed:
    """Nothing was seen in this look: no verdict, and no lease beyond the end of the allowance for that."""
    now = desk.clock.now()
    since = desk.ledger.set_blind(rollout.id, since=now)
    if now - since >= release.max_blind:
        sentence = f"blind for {now - since:.0f} s (limit {release.max_blind:.0f} s): {why}"
        return _roll_back_now(desk, rollout, index, sentence, actor=actor)
    _stay_blind(desk, rollout, release, index, min(now + release.lease, since + release.max_blind), actor=actor)
    return Observed(rollout, Decision.HOLD, f"blind for {now - since:.0f} s: {why}")


def _stay_blind(desk: Desk, rollout: Rollout, release: Release, index: int, until: float, *, actor: str) -> None:
    """Renew the lease up to ``until``, if at least the weights can be seen to be this step's."""
    wanted = weights_for(rollout, step_of(rollout, index))
    try:
        seen = desk.balancer(release).get_weights()
    except (LoadBalancerError, ConnectionSettingsError) as error:
        log.warning("%s: neither metrics nor weights can be seen, so its lease runs: %s", rollout.id, error)
        return
    if seen != wanted and release.drift != "adopt":
        log.warning("%s: blind, and the weights are %s instead of %s, so its lease runs", rollout.id, seen, wanted)
        return
    if renew_lease(desk.ledger, rollout, until=until):
        _renew_at_balancer(desk, rollout, release, until, actor=actor)


def _act(
    desk: Desk, rollout: Rollout, index: int, placed: Sequence[Window], judgement: Judgement | None, ruling: Ruling, *,
    actor: str,
) -> Observed:  # fmt: skip
    lowered = None
    if ruling.decision is Decision.ROLL_BACK:
        lowered = take_off(desk, rollout, ruling.reason, actor=actor)
    if placed or ruling.decision is not Decision.HOLD:
        verdict = judgement.verdict if judgement else Verdict.NO_DATA
        record = DecisionRecord(
            step=index,
            window=placed[-1].index if placed else -1,
            at=desk.clock.now(),
            decision=ruling.decision,
            verdict=verdict,
            reason=ruling.reason,
            judgement=judgement.to_json() if judgement else None,
        )
        desk.ledger.record_decision(rollout, record, actor=actor)
    tell_looked(desk, rollout, index, placed, judgement, ruling.decision, lowered)
    return Observed(rollout, ruling.decision, ruling.reason, placed, judgement, lowered)


def _roll_back_now(desk: Desk, rollout: Rollout, index: int, why: str, *, actor: str) -> Observed:
    return _act(desk, rollout, index, (), None, Ruling(Decision.ROLL_BACK, why), actor=actor)

"""The guardian: ends every rollout that nobody watches, and says what else is wrong with the weights.

The same code runs as a DAG every minute, as a process that needs no running Airflow, and from a timer. It only ever
gives traffic back to a safe side, which needs nobody's permission; it never raises a weight.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from canary_release.control.dead_side import DeadSides
from canary_release.control.desk import Desk, plan_of
from canary_release.control.side_by_side import SideBySide
from canary_release.control.telling import tell_guarded
from canary_release.control.way_back import bring_back, unwatched
from canary_release.core.problems import CanaryError, LedgerError
from canary_release.core.release import Release
from canary_release.core.values import FULL, NONE, Weights
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.ticks import last_tick, tick

log = logging.getLogger(__name__)

GUARDIAN = "guardian "
"""What the names of all guardians begin with where their ticks are kept."""
PAGE_AGAIN = 300.0
_PATIENCE = 5.0  # seconds of trying in one tick; the next one goes on
_AT_ONCE = 64  # services looked at side by side, so that a load balancer that hangs delays only its own
LONGEST_TICK = 30.0  # seconds, whatever hangs: half of the shortest period that Airflow schedules
# A promotion takes well under a second from its commit to its end; the one who committed it may be dead after this.
_PROMOTION_SECONDS = 10.0

RunState = Callable[[str, str], str | None]
"""(dag_id, run_id) to the run's state, ``paused`` when its DAG is, None when there is no such run.

Raises CanaryError when that cannot be found out, which is no reason to end anything.
"""
_ALIVE = ("queued", "running")


class Kind(StrEnum):
    TAKEN_OFF = "taken_off"  # a rollout was ended and its safe side has everything
    MENDED = "mended"  # a weight without a rollout was given back
    NOT_SAFE = "not_safe"  # a rollout should have been ended and is not
    HELD = "held"  # a rollout that should be ended: its stable side is dead and its canary is not
    DRIFT = "drift"  # somebody else moved the weights of a rollout
    ORPHAN = "orphan"  # split traffic without a rollout
    NO_LEDGER = "no_ledger"  # the ledger cannot be reached


@dataclass(frozen=True)
class Finding:
    """Something that one tick did or found. subject: the rollout's id, or the service where there is none."""

    kind: Kind
    service: str
    subject: str
    sentence: str

    @property
    def safe(self) -> bool:
        return self.kind in (Kind.TAKEN_OFF, Kind.MENDED)


class Guardian:
    """Looks once at every ``tick``. One service that is broken keeps it from no other.

    open_desk: asked at every tick, so that changed connections are noticed; the last desk is kept for when it fails.
    name: who is written into the ledger.  run_state: what Airflow says of a
    rollout's run; without it a dead run is noticed when its lease runs out.  mend: give back split traffic that
    belongs to no rollout, instead of only saying so.  longest_tick: seconds after which a tick no longer waits for
    load balancers that do not answer; what it began goes on, and what comes of it is a later tick's finding.
    """

    def __init__(
        self,
        open_desk: Callable[[], Desk],
        *,
        name: str,
        run_state: RunState | None = None,
        mend: bool = False,
        longest_tick: float = LONGEST_TICK,
    ) -> None:
        self._open_desk = open_desk
        self._desk: Desk | None = None
        self._name = GUARDIAN + name
        self._run_state = run_state
        self._mend = mend
        self._longest_tick = longest_tick
        self._looks: SideBySide[Finding | None] = SideBySide(_AT_ONCE)
        self._remembered: Mapping[str, Rollout] = {}
        self._paged: dict[str, float] = {}
        self._dead_sides = DeadSides()

    def tick(self) -> list[Finding]:
        """Everything done and found, empty when all is well. Raises nothing that the outside could cause."""
        try:
            self._desk = desk = self._open_desk()
            rollouts, services = desk.ledger.unfinished(), list(desk.ledger.services())
        except CanaryError as error:
            return self._paged_for(self._without_ledger(error))
        self._remembered = {rollout.id: rollout for rollout in rollouts}
        busy = {rollout.service for rollout in rollouts}
        looks = [partial(_one, self._look_at, desk, rollout) for rollout in rollouts]
        looks += [partial(_one, self._idle, desk, service) for service in services if service not in busy]
        findings = self._all(looks)
        try:
            tick(desk.ledger, self._name, desk.clock.now())
        except LedgerError as error:
            findings.append(_no_ledger(error))
        return self._paged_for(findings)

    def _all(self, looks: "list[_Look]") -> list[Finding]:
        """Rollouts come first, so that what hangs of services without one keeps nobody waiting."""
        acts = {_subject(look): look for look in looks}
        found = self._looks.run(acts, seconds=self._longest_tick)
        late = [_late(look, self._longest_tick) for subject, look in acts.items() if subject not in found]
        return [finding for finding in (*found.values(), *late) if finding is not None]

    # -- a rollout in progress --------------------------------------------------------------------------------------

    def _look_at(self, desk: Desk, rollout: Rollout) -> Finding | None:
        why = unwatched(rollout, desk.clock.now()) or self._unattended(rollout)
        if why is not None and (proof := self._dead_sides.proof(desk, rollout)):
            return _held(rollout, why, proof)
        if why is None and rollout.state is State.ROLLING_BACK and not _is_safe(desk, rollout):
            why = rollout.outcome_reason or "its rollback was begun and is not in force"
        if why is None and _promotion_is_stuck(desk, rollout):
            why = "its promotion was committed and not finished"
        if why is not None:
            return self._end(desk, rollout, why)
        if rollout.state is not State.RUNNING:
            return None
        try:
            return _drift(desk, rollout)
        except CanaryError as error:
            return _of(Kind.NOT_SAFE, rollout, f"{rollout.id} is watched, but its weights cannot be seen: {error}")

    def _unattended(self, rollout: Rollout) -> str | None:
        if self._run_state is None:
            return None
        try:
            state = self._run_state(rollout.dag_id, rollout.run_id)
        except CanaryError as error:
            log.warning("%s: its run's state is unknown, its lease still counts: %s", rollout.id, error)
            return None
        if state is None:
            return f"Airflow has no run {rollout.run_id} of {rollout.dag_id} any more"
        if state == "paused":
            return f"{rollout.dag_id} is paused, so nothing more of its run is started"
        return None if state in _ALIVE else f"its run ended as {state} and left it unfinished"

    def _end(self, desk: Desk, rollout: Rollout, why: str) -> Finding | None:
        try:
            ended = bring_back(desk, rollout, why, actor=self._name, patience=_PATIENCE)
        except LedgerError as error:
            done = self._take_off_unrecorded(desk, rollout, why)
            return done or _of(Kind.NO_LEDGER, rollout, f"{rollout.id} is safe, but that is not recorded: {error}")
        if ended.written is None:
            return None
        back = f"the load balancer reads back {ended.written.read_back}, {ended.written.seconds:.1f} s after asking"
        return _of(Kind.TAKEN_OFF, rollout, f"{ended.sentence}; {back}")

    # -- a service without a rollout --------------------------------------------------------------------------------

    def _idle(self, desk: Desk, service: str) -> Finding | None:
        last = last_rollout(desk, service)
        if last is None:
            return None
        try:
            release = desk.release(last)
            seen = desk.balancer(release).get_weights()
        except CanaryError as error:
            # It may have been retired long ago; the doctor tells.
            log.info("%s: has no rollout, and its load balancer cannot be asked: %s", service, error)
            return None
        ours = _is_our_late_raise(desk, last, seen)
        if (FULL in seen.shares.values() and not ours) or not _still_idle(desk, service, last):
            return None
        if not self._mend and not ours:
            cure = f"canary abort {service}, or canary guard --mend, gives {last.safe_side} everything"
            sentence = f"{service}: no rollout is in progress, yet the traffic is split ({seen}); {cure}"
            return Finding(Kind.ORPHAN, service, service, sentence)
        written = desk.writer(release, actor=self._name).to_safe_side(
            service, None, safe=last.safe_side, other=last.other_side, why="orphan weight", patience=_PATIENCE
        )
        sentence = f"{service}: the traffic was split without a rollout ({seen}); now {written.read_back}"
        return Finding(Kind.MENDED, service, service, sentence)

    # -- no ledger --------------------------------------------------------------------------------------------------

    def _without_ledger(self, error: CanaryError) -> list[Finding]:
        """Nobody renews a lease in a ledger that cannot be reached: what is remembered and expired is abandoned."""
        desk, findings = self._desk, [_no_ledger(error)]
        if desk is None:
            return findings

        def look(desk: Desk, rollout: Rollout) -> Finding | None:
            why = unwatched(rollout, desk.clock.now())
            return None if why is None else self._take_off_unrecorded(desk, rollout, why)

        return findings + self._all([partial(_one, look, desk, rollout) for rollout in self._remembered.values()])

    def _take_off_unrecorded(self, desk: Desk, rollout: Rollout, why: str) -> Finding | None:
        """None when the safe side has everything already."""
        release = desk.release(rollout)
        seen = desk.balancer(release).get_weights()
        if seen == _safe_weights(rollout):
            return None
        if not _may_be_its_own(rollout, seen):
            unsure = f"{rollout.id}: {why}; but {seen} may be a promotion that the ledger could tell of"
            return _of(Kind.NOT_SAFE, rollout, f"{unsure}. Nothing was written; look, then use the load balancer")
        written = desk.writer(release, actor=self._name).to_safe_side(
            rollout.service, rollout, safe=rollout.safe_side, other=rollout.other_side, why=why, patience=_PATIENCE
        )
        sentence = f"{rollout.id} taken off without a record, the ledger being away: {why}; now {written.read_back}"
        return _of(Kind.TAKEN_OFF, rollout, sentence)

    # -- telling people ---------------------------------------------------------------------------------------------

    def _paged_for(self, findings: list[Finding]) -> list[Finding]:
        if self._desk is not None:
            for finding in findings:
                if self._page_is_due(self._desk, f"page {finding.kind} {finding.subject}"[:250]):
                    _wake(self._desk, finding)
            tell_guarded(self._desk)
        return findings

    def _page_is_due(self, desk: Desk, key: str) -> bool:
        now, last = desk.clock.now(), self._paged.get(key)
        try:
            if last is None:
                last = last_tick(desk.ledger, key)
            if last is not None and now - last < PAGE_AGAIN:
                return False
            self._paged[key] = now
            tick(desk.ledger, key, now)
        except LedgerError:
            self._paged[key] = now
        return True


def last_rollout(desk: Desk, service: str) -> Rollout | None:
    """The service's newest rollout that was more than a dry run."""
    return next((rollout for rollout in desk.ledger.history(service, limit=100) if not rollout.dry_run), None)


_Look = partial["Finding | None"]
"""``_one`` with what to do, the desk, and the rollout or the service to do it for."""


def _one(act: Callable[..., Finding | None], desk: Desk, what: Rollout | str) -> Finding | None:
    service, subject = _names(what)
    try:
        return act(desk, what)
    except CanaryError as error:
        return Finding(Kind.NOT_SAFE, service, subject, f"{subject} is NOT safe yet: {error}")
    except Exception as error:
        # Whatever one service's hook does, the others must be looked at.
        log.exception("%s could not be looked at", subject)
        return Finding(Kind.NOT_SAFE, service, subject, f"{subject} is NOT safe yet: {type(error).__name__}: {error}")


def _names(what: Rollout | str) -> tuple[str, str]:
    """(service, what a finding is about)."""
    return (what, what) if isinstance(what, str) else (what.service, what.id)


def _subject(look: "_Look") -> str:
    return _names(look.args[2])[1]


def _late(look: "_Look", seconds: float) -> Finding | None:
    """A service without a rollout may have been retired long ago, with its load balancer."""
    what = look.args[2]
    if isinstance(what, str):
        log.info("%s: has no rollout, and its load balancer has not answered for %.0f s", what, seconds)
        return None
    sentence = f"{what.id} is NOT known to be safe: its load balancer has not answered for {seconds:.0f} s"
    return _of(Kind.NOT_SAFE, what, f"{sentence}; it is still being tried")


def _promotion_is_stuck(desk: Desk, rollout: Rollout) -> bool:
    """Whether whoever committed this promotion had more than enough time to finish it."""
    if rollout.state is not State.PROMOTING:
        return False
    trail = desk.ledger.audit_trail(rollout_id=rollout.id)
    committed = next((entry.at for entry in reversed(trail) if entry.event == "promoting"), 0.0)
    return desk.clock.now() - committed > _PROMOTION_SECONDS


def _drift(desk: Desk, rollout: Rollout) -> Finding | None:
    """Said, never fought: whoever moved the weights may have had a reason, and two controllers would fight for ever."""
    release = desk.release(rollout)
    astray = None if release.drift == "adopt" else _astray(desk, release, rollout)
    # A shift may have happened between the two questions; then the second look agrees with the ledger.
    if astray is None or astray != _astray(desk, release, rollout):
        return None
    seen, _, left = astray
    return _of(Kind.DRIFT, rollout, f"{rollout.id}: somebody else moved the weights: now {seen}, we left {left}")


def _astray(desk: Desk, release: Release, rollout: Rollout) -> tuple[Weights, int, Weights] | None:
    """(what the load balancer says, the last intent's id, what it should say), None when they agree."""
    seen = desk.balancer(release).get_weights()
    writes = desk.ledger.writes(rollout.id)
    left = next((write.read_back for write in reversed(writes) if write.read_back is not None), None)
    left = left or Weights.split(stable=rollout.stable, canary=rollout.canary, canary_percent=NONE)
    if seen == left or (writes and seen == writes[-1].asked):
        return None
    return seen, writes[-1].intent_id if writes else 0, left


def _still_idle(desk: Desk, service: str, last: Rollout) -> bool:
    """Whether what was seen of the load balancer was seen without a rollout: none began meanwhile."""
    now = last_rollout(desk, service)
    return desk.ledger.active(service) is None and now is not None and now.id == last.id


def _safe_weights(rollout: Rollout) -> Weights:
    return Weights({rollout.safe_side: FULL, rollout.other_side: NONE})


def _is_safe(desk: Desk, rollout: Rollout) -> bool:
    return desk.balancer(desk.release(rollout)).get_weights() == _safe_weights(rollout)


def _may_be_its_own(rollout: Rollout, seen: Weights) -> bool:
    """Whether these weights are an unfinished step of this rollout. With everything on the canary, or at a weight that
    is not in its plan, it may have been promoted and even followed by another one with the sides exchanged.
    """
    own = {step.weight for step in plan_of(rollout).weight_steps if step.weight < FULL}
    return rollout.safe_side == rollout.stable and seen.shares.get(rollout.canary) in own


def _wake(desk: Desk, finding: Finding) -> None:
    try:
        # That a rollout was ended has been told as such; people are called for what is left to do.
        wake = desk.page if finding.safe else desk.wake
        wake(finding.service, finding.sentence)
    except Exception as error:  # noqa: BLE001  a broken pager must not end the guardian
        log.error("%s: nobody could be woken: %s", finding.subject, error)


def _of(kind: Kind, rollout: Rollout, sentence: str) -> Finding:
    return Finding(kind, rollout.service, rollout.id, sentence)


def _held(rollout: Rollout, why: str, proof: str) -> Finding:
    cure = f"Mend {rollout.stable} and it goes back; canary abort {rollout.service} gives it everything at once"
    return _of(Kind.HELD, rollout, f"{rollout.id}: {why}; but {proof}. The canary is left as it is. {cure}")


def _no_ledger(error: CanaryError) -> Finding:
    return Finding(Kind.NO_LEDGER, "ledger", "ledger", f"the ledger cannot be reached: {error}")


def _is_our_late_raise(desk: Desk, last: Rollout, seen: Weights) -> bool:
    """A raise of the last rollout came into force after its end: nobody else's wish is undone."""
    if seen == _safe_weights(last):
        return False
    return any(write.raises and write.asked == seen for write in desk.ledger.writes(last.id))

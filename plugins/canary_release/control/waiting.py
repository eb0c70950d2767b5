"""A rollout that waits for something other than evidence: a person, an opening, a call. Its canary is watched on."""

import logging

from canary_release.control.desk import Desk
from canary_release.control.watching import Watcher
from canary_release.core.problems import LedgerError
from canary_release.core.values import Decision
from canary_release.ledger.leases import renew_lease
from canary_release.ledger.records import Rollout, State

log = logging.getLogger(__name__)

# While nobody is exposed the lease keeps nothing but the service's lock.
IDLE_LEASE = 600.0


class Waiting:
    """Looks at a waiting rollout again and again, like a bake without an end: it renews the lease, and takes the canary
    off when the evidence, blindness or the deadline says so. What it must not lose stands in the ledger.
    """

    def __init__(self, desk: Desk, rollout_id: str, *, actor: str) -> None:
        self._desk = desk
        self._rollout_id = rollout_id
        self._actor = actor
        self._watcher: Watcher | None = None
        self._step = -1

    def look(self) -> str | None:
        """One look. Why there is nothing left to wait for, the canary being off; None while the rollout waits on."""
        try:
            rollout = self._desk.ledger.rollout(self._rollout_id)
        except LedgerError as error:
            log.warning("%s: %s", self._rollout_id, error)
            return self._watched(self._watcher)
        if rollout.dry_run:
            return None
        if rollout.state.final:
            return over(rollout)
        if rollout.step < 0:
            return self._idle(rollout)
        if self._watcher is None or self._step != rollout.step:
            self._watcher = Watcher(self._desk, rollout.id, rollout.step, actor=self._actor, waiting=True)
            self._step = rollout.step
        return self._watched(self._watcher)

    def _idle(self, rollout: Rollout) -> str | None:
        now = self._desk.clock.now()
        if rollout.state is State.ROLLING_BACK:
            return over(rollout)
        if now > rollout.deadline:
            return f"{rollout.id} is {now - rollout.deadline:.0f} s past its deadline"
        renew_lease(self._desk.ledger, rollout, until=now + IDLE_LEASE)
        return None

    @staticmethod
    def _watched(watcher: Watcher | None) -> str | None:
        seen = watcher.look() if watcher is not None else None
        if seen is None or not Watcher.finished(seen):
            return None
        return seen.reason if seen.decision is Decision.ROLL_BACK else over(seen.rollout)


def over(rollout: Rollout) -> str:
    return f"{rollout.id} is {rollout.state.words}" + (f": {rollout.outcome_reason}" if rollout.outcome_reason else "")

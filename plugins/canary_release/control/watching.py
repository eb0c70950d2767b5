"""Watching one step for as long as it takes, also while the ledger is away."""

import logging

from canary_release.control.desk import Desk
from canary_release.control.stepping import Observed, observe, take_off
from canary_release.core.problems import CanaryError, LedgerError
from canary_release.core.values import Decision

log = logging.getLogger(__name__)


class Watcher:
    """Looks at a step again and again; what it must not lose stands in the ledger, not here.

    Only one thing is remembered: the rollout as last seen, so that the canary can be taken off when the ledger is away
    for longer than the lease. Nobody can renew a lease in a ledger that cannot be reached, so an expired one is over.
    """

    def __init__(self, desk: Desk, rollout_id: str, index: int, *, actor: str, waiting: bool = False) -> None:
        self._desk = desk
        self._rollout_id = rollout_id
        self._index = index
        self._actor = actor
        self._waiting = waiting
        self._last: Observed | None = None
        self._lease_until = 0.0

    def look(self) -> Observed | None:
        """One look; None when it was not possible, which does not renew the lease either."""
        try:
            seen = observe(self._desk, self._rollout_id, self._index, actor=self._actor, waiting=self._waiting)
        except LedgerError as error:
            return self._without_ledger(error)
        except CanaryError as error:
            log.warning("%s step %d: could not look: %s", self._rollout_id, self._index + 1, error)
            return None
        self._last = seen
        self._lease_until = seen.rollout.lease_until or 0.0
        return seen

    @staticmethod
    def finished(seen: Observed) -> bool:
        """A rollback is only finished when it is in force; until then every look tries again."""
        if seen.decision is Decision.HOLD:
            return seen.rollout.state.final
        return seen.decision is not Decision.ROLL_BACK or seen.lowered is not None or seen.rollout.state.final

    def _without_ledger(self, error: LedgerError) -> Observed | None:
        now = self._desk.clock.now()
        if self._last is None or now <= self._lease_until:
            log.warning("%s step %d: %s", self._rollout_id, self._index + 1, error)
            return None
        why = f"the ledger is away for longer than the lease allows: {error}"
        log.error("%s: %s", self._rollout_id, why)
        take_off(self._desk, self._last.rollout, why, actor=self._actor)
        return None

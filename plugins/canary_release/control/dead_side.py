"""Whether giving everything back would give it to a side that is dead, while the canary lives.

Proof is what clients were answered, counted. It is asked for only where the record already says so: in every other
case a rollback needs no metrics and waits for none.
"""

import logging
from collections.abc import Sequence

from canary_release.control.desk import Desk
from canary_release.core.ports import KeepsLease
from canary_release.core.values import Counts, Cursor, Window
from canary_release.ledger.records import Rollout, State

log = logging.getLogger(__name__)

# Of fewer answers nothing follows. The canary has a small share, and must only be seen to answer.
_ENOUGH_OF_STABLE, _ENOUGH_OF_CANARY = 20, 5
_DEAD, _ALIVE = 0.9, 0.5  # at least, at most this share of failed requests


class DeadSides:
    """Asks for proof, and remembers how far it read, so that every look is at what came since the last one."""

    def __init__(self) -> None:
        self._cursors: dict[str, Cursor] = {}

    def proof(self, desk: Desk, rollout: Rollout) -> str | None:
        """Why the stable side must not be given this rollout's traffic, in words; None unless it is proved now."""
        if rollout.state is not State.RUNNING:
            return None
        try:
            return self._proof(desk, rollout) if _only_canary_lives(desk.ledger.windows(rollout.id)) else None
        except Exception as error:  # noqa: BLE001  nothing that goes wrong in here may keep a canary up
            log.warning("%s: whether %s is alive cannot be found out: %s", rollout.id, rollout.stable, error)
            return None

    def _proof(self, desk: Desk, rollout: Rollout) -> str | None:
        release = desk.release(rollout)
        balancer = desk.balancer(release)
        # Its own lease has ended the canary already, whatever anybody knows of the stable side.
        if isinstance(balancer, KeepsLease) or not balancer.get_weights()[rollout.canary]:
            return None
        source = desk.source(release, stable=rollout.stable, canary=rollout.canary)
        fresh, self._cursors[rollout.id] = source.read(self._cursors.get(rollout.id, rollout.cursor))
        if not _only_canary_lives(fresh):
            return None
        stable, canary = fresh[-1].stable, fresh[-1].canary
        assert stable is not None and canary is not None  # noqa: PT018  _only_canary_lives has looked
        return f"{rollout.stable} failed {_failed(stable)}, {rollout.canary} {_failed(canary)}"


def _only_canary_lives(windows: Sequence[Window]) -> bool:
    """Whether the last window proves it. No windows, or one that may not be judged, prove nothing."""
    last = windows[-1] if windows else None
    if last is None or last.broken or last.stable is None or last.canary is None:
        return False
    if last.stable.requests < _ENOUGH_OF_STABLE or last.canary.requests < _ENOUGH_OF_CANARY:
        return False
    dead = last.stable.errors >= _DEAD * last.stable.requests
    return dead and last.canary.errors <= _ALIVE * last.canary.requests


def _failed(counts: Counts) -> str:
    return f"{counts.errors} of its last {counts.requests} requests"

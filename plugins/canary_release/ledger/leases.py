"""Renewing a lease without windows: while nothing can be seen, as long as the release file allows that."""

from canary_release.ledger import tables
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger


def renew_lease(ledger: Ledger, rollout: Rollout, *, until: float) -> bool:
    """Let the rollout's weight stand until ``until`` (seconds since the epoch). Raises LedgerError.

    False, and nothing is changed, when it is being ended, or when another reader has seen something meanwhile. A lease
    that is longer already stays.
    """
    table = tables.rollouts
    with ledger._write() as connection:
        changed = connection.execute(
            table.update()
            .where(
                table.c.id == rollout.id,
                table.c.cursor_moves == rollout.cursor_moves,
                table.c.state == State.RUNNING,
                table.c.lease_until < until,
            )
            .values(lease_until=until)
        )
        return changed.rowcount == 1

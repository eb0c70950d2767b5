"""Moving the instant after which a rollout is ended, for one that had to wait for its release window."""

from canary_release.ledger import tables
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger


def extend_deadline(ledger: Ledger, rollout: Rollout, until: float) -> None:
    """Let the rollout live until ``until`` (seconds since the epoch); a later deadline stays. Raises LedgerError."""
    table = tables.rollouts
    with ledger._write() as connection:
        connection.execute(
            table.update()
            .where(table.c.id == rollout.id, table.c.state == State.RUNNING, table.c.deadline < until)
            .values(deadline=until)
        )

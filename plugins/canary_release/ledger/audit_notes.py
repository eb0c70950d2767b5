"""Events of the audit trail that change nothing else in the ledger."""

from collections.abc import Mapping
from typing import Any

from canary_release.ledger.records import Rollout
from canary_release.ledger.store import Ledger


def note(ledger: Ledger, rollout: Rollout, event: str, detail: Mapping[str, Any], *, actor: str, at: float) -> None:
    """Add an entry to the audit trail. event: at most 40 characters. Raises LedgerError."""
    with ledger._write() as connection:
        ledger._audit(connection, at, rollout.service, rollout.id, actor, event, detail)

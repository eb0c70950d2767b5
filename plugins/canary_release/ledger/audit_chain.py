"""A chain of hashes over the audit entries, so that an edit, a removal or a swap can be found."""

import hashlib
import json
from typing import Any

import sqlalchemy as sa

from canary_release.ledger.records import AuditEntry

GENESIS = "0" * 64


def link(
    last: sa.Row[Any] | None, *, at: float, service: str, rollout_id: str | None, actor: str, event: str, detail: str
) -> dict[str, Any]:
    """The next entry's columns, tied to the one before."""
    values: dict[str, Any] = {
        "seq": 1 if last is None else last.seq + 1,
        "at": at,
        "service": service,
        "rollout_id": rollout_id,
        "actor": actor,
        "event": event,
        "detail": detail,
        "prev_hash": GENESIS if last is None else last.hash,
    }
    return values | {"hash": digest(values)}


def digest(values: dict[str, Any]) -> str:
    """SHA-256 over every column but the hash itself, in a fixed order."""
    names = ("seq", "at", "service", "rollout_id", "actor", "event", "detail", "prev_hash")
    return hashlib.sha256(json.dumps([values[name] for name in names]).encode()).hexdigest()


def entry(row: sa.Row[Any]) -> AuditEntry:
    return AuditEntry(
        row.seq, row.at, row.service, row.rollout_id, row.actor, row.event, json.loads(row.detail), row.prev_hash,
        row.hash,
    )  # fmt: skip

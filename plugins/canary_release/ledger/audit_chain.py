"""A chain of hashes over the audit entries, so that an edit, a removal, a swap or a cut-off end can be found.

The head (number and hash of the last entry) is kept apart from the entries, and every rollout's end prints it into a
task log: whoever can write the whole database can forge entries and head, but not the logs as well.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from canary_release.ledger.records import AuditEntry

GENESIS = "0" * 64


def link(
    last: "Head", *, at: float, service: str, rollout_id: str | None, actor: str, event: str, detail: str
) -> dict[str, Any]:
    """The next entry's columns, tied to the one before."""
    values: dict[str, Any] = {
        "seq": last.seq + 1,
        "at": at,
        "service": service,
        "rollout_id": rollout_id,
        "actor": actor,
        "event": event,
        "detail": detail,
        "prev_hash": last.hash,
    }
    return values | {"hash": digest(values)}


def digest(values: dict[str, Any]) -> str:
    """SHA-256 over every column but the hash itself, in a fixed order."""
    names = ("seq", "at", "service", "rollout_id", "actor", "event", "detail", "prev_hash")
    return hashlib.sha256(json.dumps([values[name] for name in names]).encode()).hexdigest()


@dataclass(frozen=True)
class Head:
    """Number and hash of the last entry; 0 and GENESIS before the first."""

    seq: int
    hash: str


def verify(entries: Iterable[AuditEntry], head: Head) -> list[str]:
    """Everything that is wrong with the chain, a sentence each; empty when it is whole up to its head.

    entries: all of them, in the order of their numbers.
    """
    problems: list[str] = []
    last = Head(0, GENESIS)
    for found in entries:
        if found.seq != last.seq + 1:
            problems.append(f"entry {found.seq} follows entry {last.seq}: something is missing, added or moved.")
        if found.prev_hash != last.hash:
            problems.append(f"entry {found.seq} does not continue entry {last.seq}: one of them was changed.")
        if digest(_values(found)) != found.hash:
            problems.append(f"entry {found.seq} was changed after it was written.")
        last = Head(found.seq, found.hash)
    if last != head:
        problems.append(
            f"the chain ends at entry {last.seq}, but its head says {head.seq}: the end was cut off or changed."
        )
    return problems


def _values(found: AuditEntry) -> dict[str, Any]:
    return {
        "seq": found.seq,
        "at": found.at,
        "service": found.service,
        "rollout_id": found.rollout_id,
        "actor": found.actor,
        "event": found.event,
        "detail": found.detail_text,
        "prev_hash": found.prev_hash,
    }


def entry(row: sa.Row[Any]) -> AuditEntry:
    return AuditEntry(
        row.seq, row.at, row.service, row.rollout_id, row.actor, row.event, _read(row.detail), row.detail,
        row.prev_hash, row.hash,
    )  # fmt: skip


def _read(text: str) -> dict[str, Any]:
    """A detail that somebody made unreadable must not keep the chain from being looked at."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

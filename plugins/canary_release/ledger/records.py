"""What the ledger holds, as values: a rollout's record, an intent, a decision, an audit entry."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from canary_release.core.values import Cursor, Weights


class State(StrEnum):
    """Where a rollout is. The last three are final."""

    RUNNING = "running"
    PROMOTING = "promoting"  # the canary is the safe side now, not yet recorded as done
    ROLLING_BACK = "rolling_back"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    DRY_RUN = "dry_run"

    @property
    def words(self) -> str:
        """For people: ``rolled back``."""
        return self.replace("_", " ")

    @property
    def final(self) -> bool:
        return self in (State.PROMOTED, State.ROLLED_BACK, State.DRY_RUN)


@dataclass(frozen=True)
class Rollout:
    """One release of one version, as the ledger knows it."""

    id: str
    service: str
    generation: int
    fence: int
    dag_id: str
    run_id: str
    version: str
    old_version: str
    stable: str
    canary: str
    safe_side: str
    state: State
    outcome_reason: str
    profile: str
    dry_run: bool
    started_by: str
    reason: str
    release_text: str
    release_sha256: str
    release_name: str
    plan: Mapping[str, Any]
    step: int
    step_started_at: float | None
    lease_until: float | None
    deadline: float
    blind_since: float | None
    cursor: Cursor | None
    cursor_moves: int
    started_at: float
    ended_at: float | None
    noise: Mapping[str, Any] | None = None
    kept_until: float | None = None
    summary: Mapping[str, Any] | None = None

    @property
    def other_side(self) -> str:
        """The backend that gets nothing when the safe side gets everything."""
        return self.canary if self.safe_side == self.stable else self.stable


@dataclass(frozen=True)
class NewRollout:
    """What start knows of a rollout before the ledger gives it a generation and a fence."""

    service: str
    dag_id: str
    run_id: str
    version: str
    stable: str
    canary: str
    profile: str
    dry_run: bool
    started_by: str
    reason: str
    release_text: str
    release_sha256: str
    release_name: str
    plan: Mapping[str, Any]
    lease_until: float
    deadline: float
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Write:
    """An intent with what was read back after it, if anything was."""

    intent_id: int
    rollout_id: str | None
    service: str
    at: float
    actor: str
    raises: bool
    asked: Weights
    why: str
    read_back: Weights | None
    read_back_at: float | None
    seconds: float | None


@dataclass(frozen=True)
class DecisionRecord:
    step: int
    window: int
    at: float
    decision: str
    verdict: str
    reason: str
    judgement: Mapping[str, Any] | None


@dataclass(frozen=True)
class AuditEntry:
    seq: int
    at: float
    service: str
    rollout_id: str | None
    actor: str
    event: str
    detail: Mapping[str, Any]
    detail_text: str
    prev_hash: str
    hash: str

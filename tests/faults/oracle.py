"""What is true, whatever the ledger and the load balancer's API say: who was served by what, and the eight invariants.

I1 a weight never exceeds the step that the last pass permits   I2 weights add up to 100
I3 only the holder of the newest fence raises                   I4 an exposure that nobody may keep ends within a bound
I5 no promotion without requests really counted at every step  I6 every write has an intent before it, an entry after it
I7 every rollout ends                                           I8 everything else at the load balancer stays as it was
"""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from canary_release.core.ports import Clock
from canary_release.core.values import Weights
from faults.faults import BLUE, GREEN, STANDARD, Outages
from faults.simulator import Hub

FINAL = ("promoted", "rolled_back", "dry_run")
GUARDIAN_PERIOD = 60.0
# After the end of a lease, an abort or a fail, with a load balancer that answers: one tick of the guardian, the longest
# pause of a writer that was failing (30 s), its read-back (10 s), and the time the calls take.
BOUND = GUARDIAN_PERIOD + 30.0 + 10.0 + 10.0


@dataclass(frozen=True)
class Span:
    """An exposure of clients that the ledger did not permit."""

    start: float
    seconds: float
    why: str


@dataclass
class Oracle:
    """rate: requests a second of the whole service.  bad: the version is worse and must never be promoted.

    wrote: counts the writes to the ledger, between which it need not be looked at again.
    """

    hub: Hub
    clock: Clock
    outages: Outages
    database: Path
    bad: bool
    wrote: Callable[[], int]
    rate: float = 500.0
    exposures: list[tuple[float, Weights]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    guardian_back: float = 0.0
    stable_back: float = 0.0
    foreign: bool = False
    stale_raises: int = 0
    closed: bool = False
    promoted_at: float = 0.0
    _unsafe: tuple[float, str] | None = None
    _reported: bool = False
    _promoted: set[str] = field(default_factory=set)
    _version: int = -1
    _newest: dict[str, Any] | None = None
    _allowed: Decimal = Decimal(0)

    def __post_init__(self) -> None:
        self.exposures.append((self.hub.time, STANDARD))
        self._raw = sqlite3.connect(self.database)
        self._raw.row_factory = sqlite3.Row

    def close(self) -> None:
        self.closed = True
        self._raw.close()

    # -- what clients saw -------------------------------------------------------------------------------------------

    def served(self, start: float, end: float) -> dict[str, float]:
        """Requests by backend between two instants of true time."""
        total = {BLUE: 0.0, GREEN: 0.0}
        ends = [at for at, _ in self.exposures[1:]] + [float("inf")]
        for (begin, shares), stop in zip(self.exposures, ends, strict=True):
            seconds = min(end, stop) - max(start, begin)
            if seconds > 0:
                for backend in total:
                    total[backend] += self.rate * seconds * float(shares[backend]) / 100.0
        return total

    def served_at(self, backend: str, share: Decimal) -> float:
        """Requests of a backend while it had exactly this share."""
        ends = [at for at, _ in self.exposures[1:]] + [self.hub.time]
        pairs = zip(self.exposures, ends, strict=True)
        seconds = sum(stop - begin for (begin, shares), stop in pairs if shares[backend] == share)
        return self.rate * seconds * float(share) / 100.0

    # -- told by the load balancer ----------------------------------------------------------------------------------

    def asked(self, weights: Weights) -> None:
        """A write is about to leave a process of ours."""
        self._look()
        if weights == self.exposures[-1][1]:
            return
        if sum(weights.shares.values()) != 100 or set(weights.shares) != {BLUE, GREEN}:
            self._violated("I2", f"asked for {weights}")
        raises = weights[self.other_side] > 0
        process = self.hub.current
        intent = self._last_intent(weights)
        ledger_gone = any(str(type(one.kind).__name__) == "LedgerFault" for one in self.outages.all)
        if intent is None and (raises or not ledger_gone):
            self._violated("I6", f"{weights} was asked without an intent")
        if raises and weights[self.other_side] > self._allowed:
            self.stale_raises += 1
            if intent is not None and process is not None and process.rollout_id not in (None, intent["rollout_id"]):
                self._violated(
                    "I3", f"{process.name} raised for {process.rollout_id}, intent of {intent['rollout_id']}"
                )
            if intent is not None and not self._was_permitted(intent, weights):
                self._violated("I1", f"{weights} was asked and never permitted")

    def told(self, before: Weights, after: Weights) -> None:
        """What clients see changed."""
        process = self.hub.current
        who = process.name if process is not None else "test"
        if before != after:
            self.exposures.append((self.hub.time, after))
        if who != "balancer" and before != after:
            self.foreign = who.startswith("stranger")
        if sum(after.shares.values()) != 100:
            self._violated("I2", f"{after} by {who}")
        if set(after.shares) != {BLUE, GREEN}:
            self._violated("I8", f"{after} by {who}")

    # -- after every step -------------------------------------------------------------------------------------------

    def check(self) -> None:
        self._look()
        exposed = self.exposures[-1][1][self.other_side]
        why = self._why_unsafe(exposed)
        if why is None:
            self._now_safe()
            return
        if self._unsafe is None:
            self._unsafe = (self.hub.time, why)
            self._reported = False
        late = self.hub.time - self._reachable_since(self._unsafe[0])
        if late > BOUND and not self._reported:
            self._reported = True
            self._violated("I4", f"{exposed} % on {self.other_side} for {late:.0f} s: {self._unsafe[1]}")

    def finish(self) -> None:
        """The end of the story: everything has ended, and the chain of the ledger's audit holds."""
        self.check()
        self._now_safe()
        for row in self._rows("SELECT id, state, outcome_reason FROM rollouts"):
            if row["state"] not in FINAL:
                self._violated("I7", f"{row['id']} is {row['state']} ({row['outcome_reason']})")
        newest, shares = self._newest, self.exposures[-1][1]
        if newest is not None and not self.foreign and shares[self._owner(newest)] < 100:
            self._violated("I4", f"{newest['id']} is {newest['state']}, and it ends with {shares}")
        self._check_audit()

    # -- inside -----------------------------------------------------------------------------------------------------

    @property
    def safe_side(self) -> str:
        return str(self._newest["safe_side"]) if self._newest else BLUE

    @property
    def other_side(self) -> str:
        return GREEN if self.safe_side == BLUE else BLUE

    @property
    def newest(self) -> dict[str, Any] | None:
        """The service's newest rollout, as its row stands."""
        self._look()
        return self._newest

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        return self._raw.execute(query, values).fetchall()

    def _look(self) -> None:
        if self.closed:
            return
        version = self.wrote()
        if version == self._version:
            return
        self._version = version
        rows = self._rows("SELECT * FROM rollouts WHERE NOT dry_run ORDER BY generation DESC LIMIT 1")
        self._newest = dict(rows[0]) if rows else None
        self._allowed = self._permitted()
        if self._newest and self._newest["state"] in ("promoting", "promoted"):
            self._check_promotion(self._newest)

    def _permitted(self) -> Decimal:
        """The highest share of the canary that plan and decisions of the newest rollout permit."""
        row = self._newest
        if row is None or row["state"] != "running":
            return Decimal(0)
        return self._weight_after(row, self._decisions(row["id"]))

    def _decisions(self, rollout_id: str) -> dict[int, str]:
        rows = self._rows("SELECT step, decision FROM decisions WHERE rollout_id = ? ORDER BY id", rollout_id)
        return {row["step"]: row["decision"] for row in rows}

    @staticmethod
    def _weight_after(row: dict[str, Any], decisions: dict[int, str]) -> Decimal:
        weights = [Decimal(step["weight"]) for step in json.loads(row["plan"])["steps"]]
        reached = 0
        while reached < len(weights) - 1 and decisions.get(reached) == "advance":
            reached += 1
        return weights[reached]

    def _was_permitted(self, intent: sqlite3.Row, weights: Weights) -> bool:
        row = self._rows("SELECT * FROM rollouts WHERE id = ?", intent["rollout_id"])[0]
        return weights[row["canary"]] <= self._weight_after(dict(row), self._decisions(row["id"]))

    def _last_intent(self, weights: Weights) -> sqlite3.Row | None:
        rows = self._rows("SELECT * FROM intents ORDER BY id DESC LIMIT 20")
        return next((row for row in rows if Weights.from_json(json.loads(row["weights"])) == weights), None)

    def _why_unsafe(self, exposed: Decimal) -> str | None:
        if exposed == 0 or self.foreign:
            return None
        row = self._newest
        if row is None or row["state"] != "running":
            return f"the rollout is {row['state'] if row else 'not there'}"
        if row["lease_until"] is not None and self.clock.now() > row["lease_until"]:
            return "the lease ran out"
        return f"only {self._allowed} % is permitted" if exposed > self._allowed else None

    @staticmethod
    def _owner(row: dict[str, Any]) -> str:
        """Who must have everything in the end: by the state, not by the safe side that the ledger names."""
        return str(row["canary"] if row["state"] == "promoted" else row["stable"])

    def _reachable_since(self, since: float) -> float:
        ends = [min(one.end, self.hub.time) for one in self.outages.all if one.start <= self.hub.time]
        # While the stable side is dead nobody need go back to it.
        ends += [max(0.0, self.guardian_back), min(self.stable_back, self.hub.time)]
        return max([since, *ends])

    def _now_safe(self) -> None:
        if self._unsafe is not None:
            start, why = self._unsafe
            self.spans.append(Span(start, self.hub.time - start, why))
            self._unsafe = None

    def _check_promotion(self, row: dict[str, Any]) -> None:
        if row["id"] in self._promoted:
            return
        self._promoted.add(row["id"])
        self.promoted_at = self.hub.time
        if self.bad:
            self._violated("I5", f"WRONG PROMOTION of {row['version']}")
        for index, step in enumerate(json.loads(row["plan"])["steps"]):
            if self.served_at(row["canary"], Decimal(step["weight"])) < max(1, step["min_requests"]):
                self._violated("I5", f"promoted though step {index + 1} was hardly served")

    def _check_audit(self) -> None:
        previous = None
        for row in self._rows("SELECT * FROM audit ORDER BY seq"):
            if previous is not None and row["prev_hash"] != previous:
                self._violated("I6", f"the audit chain breaks at {row['seq']}")
            previous = row["hash"]
        asked = self._rows("SELECT count(*) AS n FROM intents")[0]["n"]
        told = self._rows("SELECT count(*) AS n FROM audit WHERE event LIKE 'intends%'")[0]["n"]
        if asked != told:
            self._violated("I6", f"{asked} intents and {told} audit entries of them")

    def _violated(self, name: str, what: str) -> None:
        after = self.hub.time - self.exposures[0][0]
        self.violations.append(f"{name} at +{after:.1f} s, seed {self.hub.seed}: {what}")

"""A ledger in every state that the pages show, for the tests of the pages and for looking at them.

Rollouts are written through the ledger's own doors, and judged by the real judge from simulated counts; only the many
past ones are put into the tables directly.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from canary_release.control.real_desk import read_frozen
from canary_release.core.judge import judge
from canary_release.core.plan import make_plan
from canary_release.core.values import FULL, Counts, Decision, Verdict, Weights, Window
from canary_release.ledger import tables
from canary_release.ledger.records import DecisionRecord, NewRollout, Rollout, State
from canary_release.ledger.store import Ledger

RELEASE = """\
service: {service}
load_balancer: {{type: memory, connection: pages_balancer, backends: [{service}-blue, {service}-green]}}
metrics: {{type: scrape, connection: pages_metrics, preset: traefik}}
owner: team-shop
requests_per_user: 25
lease: 10m
steps:
  - {{weight: 1%,   bake: 10m, min_requests: 500}}
  - {{weight: 5%,   bake: 10m}}
  - {{weight: 25%,  bake: 20m}}
  - {{weight: 100%, bake: 10m}}
checks:
  - {{metric: error_rate,     max_increase: 0.5pp}}
  - {{metric: page_load_time, quantile: 0.95, max_increase: 10%}}
"""
EDGES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.0)
POLL = 10.0
RATE = 90.0  # requests a second of both sides
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "]]></svg><svg onload=alert(3)>",
    "{{7*7}}${7*7}\u202e\u0007'--",
)


@dataclass(frozen=True)
class Traffic:
    """How the simulated canary behaves. error_rate: its share of failed requests; slower: of its pages, as a factor."""

    error_rate: float = 0.004
    slower: float = 1.0
    split: float = 1.0  # of the share that it should get


class PageStates:
    """Writes rollouts that look as if they had happened until now (seconds since the epoch)."""

    def __init__(self, ledger: Ledger, *, now: float | None = None, seed: int = 7) -> None:
        self.ledger = ledger
        self.now = now or time.time()
        self._random = np.random.default_rng(seed)

    def everything(self) -> None:
        """One service in each state, and some that only have a past."""
        for service in ("checkout", "search", "web", "pricing", "profile", "stock"):
            self.past(service, 11, bad_every=4)
        self.running("checkout", "v2.14.1")
        self.waiting("web", "v8.0.0")
        self.rolled_back("search", "v3.2.0")
        self.promoted("profile", "v1.9.3")
        self.orphan("pricing", "v5.5.0")
        self.frozen("billing", "v3.0.1")

    def running(self, service: str, version: str = "v2", *, dag_id: str | None = None, run_id: str = "") -> Rollout:
        """At 5 %, some minutes into its bake, with a healthy canary."""
        rollout = self._begin(service, version, self.now - 960, dag_id, run_id)
        self._step(rollout, 0, self.now - 940, 60, Traffic(), Decision.ADVANCE)
        self._step(rollout, 1, self.now - 330, 33, Traffic(error_rate=0.005), None)
        return self.ledger.rollout(rollout.id)

    def frozen(self, service: str, version: str = "v2") -> Rollout:
        """Past its 5 % when a freeze of a week began."""
        day = [time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime(self.now + at)) for at in (-600, 604_800)]
        freeze = f"freeze:\n  - {{from: {day[0]}, to: {day[1]}, why: the books are closed}}\n"
        rollout = self._begin(service, version, self.now - 2000, None, "", more=freeze)
        self._step(rollout, 0, self.now - 1980, 60, Traffic(), Decision.ADVANCE)
        self._step(rollout, 1, self.now - 1360, 60, Traffic(), Decision.ADVANCE)
        self._extend(rollout, self.now)
        return self.ledger.rollout(rollout.id)

    def waiting(self, service: str, version: str = "v2", *, dag_id: str | None = None, run_id: str = "") -> Rollout:
        """Past its 5 %, and a person must say yes to 25 %."""
        rollout = self._begin(service, version, self.now - 2000, dag_id, run_id)
        self._step(rollout, 0, self.now - 1980, 60, Traffic(), Decision.ADVANCE)
        self._step(rollout, 1, self.now - 1360, 60, Traffic(), Decision.ADVANCE)
        asked = {"asked_at": self.now - 740, "until": self.now + 13_660, "approvers": ["admin", "release-managers"]}
        with self.ledger._write() as connection:
            connection.execute(tables.approvals.insert().values(rollout_id=rollout.id, step=2, comment="", **asked))
            table = tables.rollouts
            connection.execute(table.update().where(table.c.id == rollout.id).values(lease_until=self.now + 14_000))
        return self.ledger.rollout(rollout.id)

    def rolled_back(self, service: str, version: str = "v3", *, dag_id: str | None = None, run_id: str = "") -> Rollout:
        """Taken off at 5 %, where its errors were certain."""
        rollout = self._begin(service, version, self.now - 4200, dag_id, run_id)
        self._step(rollout, 0, self.now - 4180, 60, Traffic(), Decision.ADVANCE)
        ended = self._step(rollout, 1, self.now - 3560, 60, Traffic(error_rate=0.06), Decision.ADVANCE)
        return self._end(rollout, State.ROLLED_BACK, ended)

    def slow(self, service: str, version: str = "v4") -> Rollout:
        """Taken off at 1 %, for pages that are two thirds slower."""
        rollout = self._begin(service, version, self.now - 4200, None, "")
        ended = self._step(rollout, 0, self.now - 4180, 60, Traffic(slower=1.65), Decision.ADVANCE)
        return self._end(rollout, State.ROLLED_BACK, ended)

    def promoted(self, service: str, version: str = "v2", *, keep: float = 86_400.0) -> Rollout:
        """Through all its steps; the old side is kept for ``keep`` more seconds."""
        start = self.now - 9000
        rollout = self._begin(service, version, start, None, "")
        for step, (at, windows) in enumerate([(20, 60), (640, 60), (1260, 120), (2480, 60)]):
            last = Decision.PROMOTE if step == 3 else Decision.ADVANCE
            ended = self._step(rollout, step, start + at, windows, Traffic(), last)
        ended_rollout = self._end(rollout, State.PROMOTED, ended)
        with self.ledger._write() as connection:
            table = tables.rollouts
            connection.execute(table.update().where(table.c.id == rollout.id).values(kept_until=self.now + keep))
        return self.ledger.rollout(ended_rollout.id)

    def orphan(self, service: str, version: str = "v2") -> Rollout:
        """Ended in the ledger, yet its canary was last seen with traffic: nobody answers for it."""
        rollout = self._begin(service, version, self.now - 7200, None, "")
        self._step(rollout, 0, self.now - 7180, 20, Traffic(), None)
        return self.ledger.end(
            rollout, State.ROLLED_BACK, reason="the run was deleted", actor="ada", at=self.now - 6000
        )

    def four_hours(self, service: str) -> Rollout:
        """As long as rollouts mostly are: four hours of windows at a poll of ten seconds, all at 1 %."""
        rollout = self._begin(service, "v2", self.now - 14_500, None, "")
        self._step(rollout, 0, self.now - 14_420, 1440, Traffic(), None)
        return self.ledger.rollout(rollout.id)

    def long_names(self) -> Rollout:
        """Names as long as they may be."""
        service = "the-service-with-the-longest-name-" + "x" * 80
        return self.running(service, "v2024.11.23-build.4711-" + "a" * 60, run_id="run-" + "r" * 200)

    def hostile(self) -> Rollout:
        """Words from outside that want to be more than words. They could not be typed into a release file, but stand in
        the ledger as an attacker with access to it would have written them.
        """
        rollout = self.rolled_back("hostile", "v6.6.6")
        bad = " ".join(HOSTILE)
        values = {"old_version": HOSTILE[0], "version": HOSTILE[1], "outcome_reason": bad, "started_by": HOSTILE[2]}
        values |= {"reason": bad, "release_name": HOSTILE[1], "stable": HOSTILE[0], "run_id": "run<b>x"}
        table, decisions, audit = tables.rollouts, tables.decisions, tables.audit
        with self.ledger._write() as connection:
            connection.execute(table.update().where(table.c.id == rollout.id).values(**values))
            connection.execute(decisions.update().where(decisions.c.rollout_id == rollout.id).values(reason=bad))
            connection.execute(
                tables.notices.insert().values(
                    channel=HOSTILE[0], key="k", service="hostile", rollout_id=rollout.id, event=HOSTILE[1], at=self.now
                )
            )
            connection.execute(audit.update().where(audit.c.rollout_id == rollout.id).values(actor=HOSTILE[2]))
        return self.ledger.rollout(rollout.id)

    def many(self, services: int, rollouts: int, *, evidence: int = 60) -> None:
        """So many services in flight, and so many past rollouts of all of them together; with ``evidence`` windows and
        decisions for each rollout in flight.
        """
        template = self.running("template", "v9")
        names = [f"service-{number:03d}" for number in range(services)]
        with self.ledger._write() as connection:
            row = dict(
                connection.execute(tables.rollouts.select().where(tables.rollouts.c.id == template.id)).mappings().one()
            )
            each = max(rollouts // max(services, 1), 1)
            past = [
                self._past_row(row, name, number, number % 7 == 3) for name in names for number in range(1, each + 1)
            ]
            current = [
                row | {"id": f"{name}-{each + 1}", "service": name, "generation": each + 1, "run_id": f"{name}-now"}
                for name in names
            ]
            _insert(connection, tables.rollouts, past + current)
            _insert(
                connection,
                tables.services,
                [
                    {
                        "service": name,
                        "generation": each + 1,
                        "fence": 1,
                        "holder": f"{name}-{each + 1}",
                        "settings": {},
                    }
                    for name in names
                ],
            )
            for table in (tables.windows, tables.decisions):
                query = table.select().where(table.c.rollout_id == template.id).limit(evidence)
                told = [dict(found) for found in connection.execute(query).mappings()]
                _insert(connection, table, [_for(one, f"{name}-{each + 1}") for name in names for one in told])
            weights = {"template-blue": "95", "template-green": "5"}
            told_by = {"at": self.now - 300, "actor": "task", "why": "step 2 of 4", "fence": 1, "raises": True}
            intents = [
                {"rollout_id": f"{name}-{each + 1}", "service": name, "weights": weights, **told_by} for name in names
            ]
            _insert(connection, tables.intents, intents)
            table = tables.intents
            asked = connection.scalars(sa.select(table.c.id).where(table.c.service.in_(names)))
            seen = [{"intent_id": id, "at": self.now - 300, "weights": weights, "seconds": 0.1} for id in asked]
            _insert(connection, tables.observations, seen)

    def past(self, service: str, count: int, *, bad_every: int = 4) -> None:
        """Rollouts of the last weeks with nothing but their outcome and summary."""
        first = self._begin(service, "v0", self.now - 86_400 * (count + 1), None, f"{service}-v0")
        self.ledger.end(first, State.PROMOTED, reason="promoted", actor="demo", at=self.now - 86_400 * (count + 1) + 60)
        with self.ledger._write() as connection:
            query = tables.rollouts.select().where(tables.rollouts.c.id == first.id)
            row = dict(connection.execute(query).mappings().one())
            rows = [
                self._past_row(row, service, number, number % bad_every == bad_every - 1, newest=count)
                for number in range(2, count + 1)
            ]
            _insert(connection, tables.rollouts, rows)
            services = tables.services
            connection.execute(services.update().where(services.c.service == service).values(generation=count))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _past_row(
        self, like: dict[str, Any], service: str, number: int, bad: bool, *, newest: int = 34
    ) -> dict[str, Any]:
        started = self.now - 86_400.0 * (newest + 1 - number)
        summary = {"seconds_to_full": None if bad else 3100.0 + 20 * number, "seconds_to_zero": 41.0 if bad else None}
        return like | {
            "id": f"{service}-{number}", "service": service, "generation": number, "run_id": f"{service}-v1.{number}",
            "version": f"v1.{number}", "old_version": f"v1.{number - 1}", "started_at": started,
            "ended_at": started + (900 if bad else 3200), "lease_until": None, "summary": summary,
            "state": str(State.ROLLED_BACK if bad else State.PROMOTED),
            "outcome_reason": "error_rate: canary 3.9 % vs stable 0.4 %" if bad else "every check passed",
        }  # fmt: skip

    def _begin(
        self, service: str, version: str, at: float, dag_id: str | None, run_id: str, *, more: str = ""
    ) -> Rollout:
        text = RELEASE.format(service=service) + more
        release = read_frozen(text, f"{service}.yaml")
        plan = make_plan(release)
        new = NewRollout(
            service=service,
            dag_id=dag_id or f"release_{service}",
            run_id=run_id or f"{service}-{version}",
            version=version,
            stable=f"{service}-blue",
            canary=f"{service}-green",
            profile="standard",
            dry_run=False,
            started_by="ada",
            reason="CHK-812: new tax rules",
            release_text=text,
            release_sha256=hashlib.sha256(text.encode()).hexdigest(),
            release_name=f"{service}.yaml",
            plan=plan.to_json(),
            lease_until=at + 600,
            deadline=at + 86_400,
            settings={"backends": [f"{service}-blue", f"{service}-green"]},
        )
        rollout = self.ledger.begin(new, at=at)
        sides = Weights({rollout.stable: FULL, rollout.canary: FULL - FULL})
        self._written(rollout, sides, at + 1, "the way back works", raises=False)
        return self._running_again(rollout)

    def _running_again(self, rollout: Rollout) -> Rollout:
        # The way back was tried, not taken.
        table = tables.rollouts
        with self.ledger._write() as connection:
            connection.execute(
                table.update().where(table.c.id == rollout.id).values(state="running", outcome_reason="")
            )
        return self.ledger.rollout(rollout.id)

    def _written(self, rollout: Rollout, weights: Weights, at: float, why: str, *, raises: bool, step: int = 0) -> None:
        actor = f"{rollout.dag_id}/weight.shift (try 1)"
        if raises:
            intent = self.ledger.intend_raise(
                rollout, step=step, weights=weights, why=why, actor=actor, at=at, lease_until=at + 600
            )
        else:
            intent = self.ledger.intend_lower(rollout.service, rollout, weights=weights, why=why, actor=actor, at=at)
        self.ledger.observe_weights(intent, weights=weights, at=at + 0.1, seconds=0.1, actor=actor)

    def _step(
        self, rollout: Rollout, step: int, at: float, count: int, traffic: Traffic, then: Decision | None
    ) -> float:
        """A step of ``count`` windows from ``at`` on; ends at once when the judge says fail. Returns when it ended."""
        release = read_frozen(rollout.release_text, rollout.release_name)
        steps = [float(one.weight) for one in make_plan(release).weight_steps]
        share = steps[step] / 100
        weights = Weights.split(
            stable=rollout.stable, canary=rollout.canary, canary_percent=Decimal(str(steps[step])).normalize()
        )
        self._extend(rollout, at)
        self._written(rollout, weights, at, f"step {step + 1} of {len(steps)}", raises=True, step=step)
        self.ledger.begin_step(rollout.id, at=at, cursor={"at": at}, lease_until=at + 600)
        known = self.ledger.windows(rollout.id)
        fresh = [
            self._window(at + POLL * number, share, traffic).placed(index=len(known) + number, step=step, weight=share)
            for number in range(count)
        ]
        judgements = judge(release, [*known, *fresh])[len(known) :]
        failed = next((place for place, one in enumerate(judgements) if one.verdict is Verdict.FAIL), None)
        kept = fresh if failed is None else fresh[: failed + 1]
        self._store(rollout, kept)
        last = Decision.ROLL_BACK if failed is not None else then or Decision.HOLD
        records = [
            DecisionRecord(
                step, window.index, window.end + 0.05, last if window is kept[-1] else Decision.HOLD, said.verdict,
                said.sentence, said.to_json(),
            )
            for window, said in zip(kept, judgements, strict=False)
        ]  # fmt: skip
        # Holds say nothing to the audit trail that matters here, and each would be a transaction.
        with self.ledger._write() as connection:
            _insert(connection, tables.decisions, [vars(one) | {"rollout_id": rollout.id} for one in records[:-1]])
        self.ledger.record_decision(rollout, records[-1], actor="trigger")
        return kept[-1].end

    def _extend(self, rollout: Rollout, at: float) -> None:
        table = tables.rollouts
        with self.ledger._write() as connection:
            connection.execute(table.update().where(table.c.id == rollout.id).values(lease_until=at + 3600))

    def _store(self, rollout: Rollout, windows: Sequence[Window]) -> None:
        now = self.ledger.rollout(rollout.id)
        self.ledger.store_windows(now, windows, cursor={"at": windows[-1].end}, lease_until=windows[-1].end + 600)

    def _end(self, rollout: Rollout, state: State, at: float) -> Rollout:
        record = self.ledger.decisions(rollout.id)[-1]
        now = self.ledger.rollout(rollout.id)
        if state is State.PROMOTED:
            now = self.ledger.commit_promotion(now, actor="task", at=at)
        weights = Weights({now.safe_side: FULL, now.other_side: FULL - FULL})
        self._written(now, weights, at + 0.3, record.reason, raises=False)
        return self.ledger.end(now, state, reason=record.reason, actor="task", at=at + 0.5)

    def _window(self, start: float, share: float, traffic: Traffic) -> Window:
        got = share * traffic.split
        stable = self._counts(RATE * POLL * (1 - got), Traffic())
        return Window(start, start + POLL, stable, self._counts(RATE * POLL * got, traffic), EDGES)

    def _counts(self, expected: float, traffic: Traffic) -> Counts:
        requests = int(self._random.poisson(expected))
        latencies = self._random.lognormal(np.log(0.12 * traffic.slower), 0.35, requests)
        buckets = np.histogram(latencies, bins=[0.0, *EDGES, np.inf])[0]
        errors = int(self._random.binomial(requests, traffic.error_rate))
        return Counts(requests, errors, tuple(int(count) for count in buckets), instances=4)


def _for(row: dict[str, Any], rollout_id: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "id"} | {"rollout_id": rollout_id}


def _insert(connection: Any, table: Any, rows: Sequence[dict[str, Any]]) -> None:
    for first in range(0, len(rows), 500):
        connection.execute(table.insert(), list(rows[first : first + 500]))


def balancer_connection(file: Path, service: str, canary_percent: int) -> dict[str, str]:
    """The Airflow connection of the release files above, with one service's weights in a file that processes share."""
    state = {"weights": {f"{service}-blue": str(100 - canary_percent), f"{service}-green": str(canary_percent)}}
    file.write_text(json.dumps(state))
    return {"AIRFLOW_CONN_PAGES_BALANCER": json.dumps({"conn_type": "generic", "extra": {"file": str(file)}})}

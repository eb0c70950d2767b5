"""What the ledger promises, on both databases: one rollout a service, who may raise, nothing lost, nothing forged."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from canary_release.core.plan import make_plan
from canary_release.core.problems import LedgerError, RefusedError
from canary_release.core.values import Counts, Weights, Window
from canary_release.ledger import schema_version, tables
from canary_release.ledger.records import DecisionRecord, NewRollout, Rollout, State
from canary_release.ledger.store import Ledger
from control.world import BLUE, GREEN, a_release
from faults.results_file import record_figure, record_own

NOW = 1_800_000_000.0


def a_rollout(run: str = "shop-v2", **changes: Any) -> NewRollout:
    new = NewRollout(
        service="shop", dag_id="release_shop", run_id=run, version="v2", stable=BLUE, canary=GREEN, profile="standard",
        dry_run=False, started_by="ada", reason="", release_text="service: shop", release_sha256="0" * 64,
        release_name="shop.yaml", plan=make_plan(a_release()).to_json(), lease_until=NOW + 60, deadline=NOW + 3600,
        settings={},
    )  # fmt: skip
    return replace(new, **changes)


def share(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def intend(ledger: Ledger, rollout: Rollout, step: int, percent: str, *, at: float = NOW) -> int:
    weights = share(percent)
    return ledger.intend_raise(rollout, step=step, weights=weights, why="", actor="t", at=at, lease_until=at + 60)


def decide(ledger: Ledger, rollout: Rollout, step: int, decision: str) -> None:
    record = DecisionRecord(step=step, window=0, at=NOW, decision=decision, verdict="pass", reason="", judgement=None)
    ledger.record_decision(rollout, record, actor="t")


def test_fifty_starts_at_once_have_one_winner_and_49_refusals_in_words(ledger_url: str) -> None:
    Ledger.open(ledger_url).close()

    def try_it(number: int) -> str:
        ledger = Ledger.open(ledger_url)
        try:
            return ledger.begin(a_rollout(f"run-{number}"), at=NOW).id
        except RefusedError as error:
            return str(error)
        finally:
            ledger.close()

    with ThreadPoolExecutor(25) as pool:
        said = list(pool.map(try_it, range(50)))
    assert said.count("shop-1") == 1
    assert sum("shop is busy: shop-1" in sentence for sentence in said) == 49


def test_ten_processes_may_open_a_new_ledger_in_the_same_second(ledger_url: str) -> None:
    with ThreadPoolExecutor(10) as pool:
        for opened in pool.map(lambda _: Ledger.open(ledger_url), range(10)):
            assert opened.services() == {}
            opened.close()


def test_first_step_may_be_raised_and_the_second_needs_a_decision(ledger: Ledger) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    intend(ledger, rollout, 0, "1")
    with pytest.raises(RefusedError, match="needs the decision to advance from step 1; the ledger says nothing"):
        intend(ledger, rollout, 1, "5")
    decide(ledger, rollout, 0, "advance")
    intend(ledger, rollout, 1, "5")


def test_a_later_hold_takes_an_advance_back(ledger: Ledger) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    intend(ledger, rollout, 0, "1")
    decide(ledger, rollout, 0, "advance")
    decide(ledger, rollout, 0, "hold")
    with pytest.raises(RefusedError, match="the ledger says hold"):
        intend(ledger, rollout, 1, "5")


@pytest.mark.parametrize(("step", "percent"), [(0, "5"), (0, "1.5"), (1, "5"), (2, "25"), (-1, "1"), (9, "1")])
def test_only_the_plans_weight_of_the_next_step_may_be_raised(ledger: Ledger, step: int, percent: str) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    with pytest.raises(RefusedError):
        intend(ledger, rollout, step, percent)
    assert ledger.writes(rollout.id) == []


def test_expired_lease_passed_deadline_and_dry_run_bar_every_raise(ledger: Ledger) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    with pytest.raises(RefusedError, match="ran out 40 s ago"):
        intend(ledger, rollout, 0, "1", at=NOW + 100)
    ledger.end(rollout, State.ROLLED_BACK, reason="", actor="t", at=NOW)
    late = ledger.begin(a_rollout("shop-v3", lease_until=NOW + 9999), at=NOW)
    with pytest.raises(RefusedError, match="past its deadline"):
        intend(ledger, late, 0, "1", at=NOW + 3700)
    dry = ledger.begin(a_rollout("dry", dry_run=True), at=NOW)
    with pytest.raises(RefusedError, match="dry run"):
        intend(ledger, dry, 0, "1")


def test_old_fence_is_worth_nothing(ledger: Ledger) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    with pytest.raises(RefusedError, match="a newer rollout or an abort took over"):
        intend(ledger, replace(rollout, fence=rollout.fence - 1), 0, "1")


def test_lowering_is_never_refused_and_bars_later_raises(ledger: Ledger) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    ledger.intend_lower("shop", rollout, weights=share("0"), why="worse", actor="t", at=NOW + 99_999)
    with pytest.raises(RefusedError, match=r"rolling_back \(worse\)"):
        intend(ledger, rollout, 0, "1")


def test_promotion_needs_the_last_steps_decision(ledger: Ledger) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    intend(ledger, rollout, 0, "1")
    decide(ledger, rollout, 0, "promote")
    with pytest.raises(RefusedError, match="it stands at step 1 of 4"):
        ledger.commit_promotion(rollout, actor="forged", at=NOW)


def test_final_state_never_changes_and_frees_the_service(ledger: Ledger) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    ledger.end(rollout, State.ROLLED_BACK, reason="worse", actor="t", at=NOW)
    assert ledger.end(rollout, State.PROMOTED, reason="forged", actor="t", at=NOW).state is State.ROLLED_BACK
    assert ledger.begin(a_rollout("shop-v3"), at=NOW).generation == 2


def test_ended_rollout_takes_no_more_windows_and_no_lease(ledger: Ledger) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    ended = ledger.end(rollout, State.ROLLED_BACK, reason="", actor="t", at=NOW)
    assert not ledger.store_windows(ended, [], cursor={}, lease_until=NOW + 60)
    assert ledger.rollout(rollout.id).lease_until is None


def test_windows_come_back_as_they_went_in(ledger: Ledger) -> None:
    rollout = ledger.begin(a_rollout(), at=NOW)
    counts = Counts(120, 3, (100, 20), 4, {"conversions": (3, 80)}, {"p99": 0.25})
    windows = [
        Window(NOW, NOW + 1.5, counts, None, (0.1,), None, 0, 0, 0.01),
        Window(NOW, NOW + 2, None, counts, (), "reset", 1, 0, 0.01),
    ]
    assert ledger.store_windows(rollout, windows, cursor={"at": 1}, lease_until=NOW + 60)
    assert ledger.windows(rollout.id) == windows


def test_unreachable_ledger_is_one_sentence_without_the_password() -> None:
    with pytest.raises(LedgerError) as caught:
        Ledger.open("postgresql+psycopg2://canary:s3cret-word@127.0.0.1:1/ledger")
    assert "s3cret-word" not in str(caught.value)
    assert "cannot be opened" in str(caught.value)


def test_schema_is_what_the_tables_say(ledger: Ledger) -> None:
    """The migrations and tables.py describe the same database."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with ledger._engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert [change for change in compare_metadata(context, tables.metadata) if "alembic" not in str(change)] == []
    assert schema_version.current(ledger._engine) == schema_version.HEAD


# --- the audit chain


@pytest.fixture
def audited(ledger: Ledger) -> Ledger:
    for number in range(12):
        rollout = ledger.begin(a_rollout(f"run-{number}"), at=NOW + number)
        intend(ledger, rollout, 0, "1", at=NOW + number)
        ledger.end(rollout, State.ROLLED_BACK, reason="worse", actor="t", at=NOW + number)
    assert ledger.verify_audit()[1] == []
    return ledger


def _edit(rows: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    row = chance.choice(rows)
    column = chance.choice(["at", "service", "rollout_id", "actor", "event", "detail", "prev_hash", "hash"])
    row[column] = row[column] + 1 if column == "at" else f"{row[column]}x"
    return rows


def _delete(rows: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    del rows[chance.randrange(len(rows))]
    return rows


def _swap(rows: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    first, second = chance.sample(range(len(rows)), 2)
    rows[first]["seq"], rows[second]["seq"] = rows[second]["seq"], rows[first]["seq"]
    return sorted(rows, key=lambda row: row["seq"])


def _cut_off(rows: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    return rows[: chance.randrange(len(rows))]


def _insert(rows: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    return [*rows, {**rows[-1], "seq": rows[-1]["seq"] + 1, "actor": "forged"}]


def test_row_27_a_thousand_of_a_thousand_forgeries_are_found(audited: Ledger) -> None:
    """In memory, on the rows as they were read; the next test does it in the database itself."""
    from types import SimpleNamespace

    from canary_release.ledger import audit_chain

    head, _ = audited.verify_audit()
    with audited._engine.connect() as connection:
        rows = [dict(row._mapping) for row in connection.execute(tables.audit.select().order_by(tables.audit.c.seq))]
    chance = random.Random(20_261_123)
    forgeries = [_edit, _delete, _swap, _cut_off, _insert]
    found = 0
    for number in range(1000):
        forged = forgeries[number % len(forgeries)]([dict(row) for row in rows], chance)
        entries = [audit_chain.entry(SimpleNamespace(**row)) for row in forged]  # type: ignore[arg-type]
        found += bool(audit_chain.verify(entries, head))
    record_figure("audit", f"{found:,} of 1,000", held=found == 1000)
    assert found == 1000
    record_own(27, f"{found:,} of 1,000 forged trails were found")


@pytest.mark.parametrize(
    "forgery",
    [
        "UPDATE audit SET actor = 'nobody' WHERE seq = 5",
        "DELETE FROM audit WHERE seq = 7",
        "DELETE FROM audit WHERE seq > 20",
        "UPDATE audit_head SET seq = 3",
        "DELETE FROM audit",
    ],
)
def test_forgery_in_the_database_is_found(audited: Ledger, forgery: str) -> None:
    with audited._engine.begin() as connection:
        connection.execute(sa.text(forgery))
    assert audited.verify_audit()[1]

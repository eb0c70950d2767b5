"""What people and calendars decide, in a real Airflow and through its REST API: approvals, a freeze, an asset, calls,
the way back after a promotion.
"""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from canary_release.ledger.approvals import Answer, question_of
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger
from demo.airflow_api import AirflowApi, Approval, Run, TaskInstance
from demo.stage import Stage
from end_to_end.rehearsed_releases import ASSET, Rehearsal
from end_to_end.terminal import canary, said

pytestmark = [pytest.mark.slow, pytest.mark.timeout(700)]
PATIENCE = 300.0  # seconds; on a quiet machine the whole module takes a third of it


@pytest.fixture(scope="module")
def ledger(stage: Stage) -> Iterator[Ledger]:
    opened = stage.ledger()
    yield opened
    opened.close()


def open_question(api: AirflowApi, rehearsal: Rehearsal) -> Approval:
    def waits(run: Run, tasks: Mapping[str, TaskInstance]) -> bool:
        assert not run.over, {name: task.state for name, task in tasks.items()}
        return tasks["approve_100"].state == "awaiting_input"

    api.wait_until(rehearsal.dag_id, rehearsal.run_id, waits, PATIENCE, "ask")
    # Whoever answers in the same moment is another story: Airflow may fail a task that resumes at once.
    time.sleep(8)
    (question,) = api.approvals(rehearsal.dag_id, rehearsal.run_id)
    return question


def answer_at_a_terminal(stage: Stage, folder: Path, word: str, question: Approval, comment: str) -> str:
    """``canary approve`` or ``canary reject``; gives what it said."""
    service = question.dag_id.removeprefix("release_")
    code, words = said(canary(stage, folder, word, service, "--weight", "100", "--comment", comment))
    assert code == 0, words
    return words


def rollout_of(ledger: Ledger, rehearsal: Rehearsal) -> Rollout:
    (rollout,) = ledger.history(rehearsal.name)
    return rollout


def answered(ledger: Ledger, rehearsal: Rehearsal, step: int = 1) -> tuple[Answer | None, str | None]:
    question = question_of(ledger, rollout_of(ledger, rehearsal).id, step)
    assert question is not None
    return question.answer, question.answered_by


def test_rejection_takes_the_canary_off_and_the_run_is_red_at_the_question(
    stage: Stage, ledger: Ledger, begun: dict[str, Rehearsal], tmp_path: Path
) -> None:
    api, rejected = stage.airflow.api, begun["rejected"]
    question = open_question(api, rejected)
    assert question.subject == "rejected v2: 10 % → 100 %?"
    assert "| error\\_rate |" in (question.body or "")
    assert rejected.canary_percent == 10
    words = answer_at_a_terminal(stage, tmp_path, "reject", question, "not on a Friday")
    assert words.strip() == "rejected v2: 10 % → 100 %?  rejected"
    assert api.wait_until_ended(rejected.dag_id, rejected.run_id, PATIENCE).state == "failed"
    assert (rollout_of(ledger, rejected).state, rejected.canary_percent) == (State.ROLLED_BACK, 0)
    assert answered(ledger, rejected) == (Answer.REJECT, "admin")
    states = {task: instance.state for task, instance in api.tasks(rejected.dag_id, rejected.run_id).items()}
    assert (states["approve_100"], states["weight_100.shift"], states["roll_back"]) == (
        "failed", "upstream_failed", "success",
    )  # fmt: skip
    assert "not on a Friday" in rollout_of(ledger, rejected).outcome_reason


def test_approval_raises_the_canary_and_a_return_takes_the_promotion_back(
    stage: Stage, ledger: Ledger, begun: dict[str, Rehearsal], tmp_path: Path
) -> None:
    api, approved = stage.airflow.api, begun["approved"]
    question = open_question(api, approved)
    assert question.subject == "approved v2: 0 % → 100 %?"
    assert api.run("canary_guardian", "approved-1-before-1").state == "success", "called before anybody is asked"
    assert approved.canary_percent == 0
    words = answer_at_a_terminal(stage, tmp_path, "approve", question, "looks fine")
    assert words.strip() == "approved v2: 0 % → 100 %?  approved"
    assert api.wait_until_ended(approved.dag_id, approved.run_id, PATIENCE).state == "success"
    assert (rollout_of(ledger, approved).state, approved.canary_percent) == (State.PROMOTED, 100)
    assert answered(ledger, approved, step=0) == (Answer.APPROVE, "admin")
    why = {"service": "approved", "reason": "customers call"}
    api.trigger("canary_return", "return-1", conf=why)
    assert api.wait_until_ended("canary_return", "return-1", PATIENCE).state == "success"
    ended = rollout_of(ledger, approved)
    assert (ended.state, approved.canary_percent) == (State.ROLLED_BACK, 0)
    assert "by admin: customers call" in ended.outcome_reason


def test_canary_that_turns_bad_is_taken_off_while_the_approval_still_waits(
    stage: Stage, ledger: Ledger, begun: dict[str, Rehearsal]
) -> None:
    api, bad = stage.airflow.api, begun["bad"]
    assert api.wait_until_ended(bad.dag_id, bad.run_id, PATIENCE).state == "failed"
    assert (rollout_of(ledger, bad).state, bad.canary_percent) == (State.ROLLED_BACK, 0)
    states = {task: instance.state for task, instance in api.tasks(bad.dag_id, bad.run_id).items()}
    assert (states["watch_100"], states["approve_100"]) == ("failed", "skipped")
    assert answered(ledger, bad) == (None, None), "the traffic did not wait for an answer"


def test_release_by_asset_event_waits_for_the_end_of_a_freeze_and_silence_ends_it(
    stage: Stage, ledger: Ledger, begun: dict[str, Rehearsal]
) -> None:
    api, late = stage.airflow.api, begun["late"]
    (run,) = api.runs(late.dag_id)
    assert api.wait_until_ended(late.dag_id, run.run_id, PATIENCE).state == "failed"
    log = api.log(late.dag_id, run.run_id, "start")
    assert "WAITS" in log
    assert "stocktaking" in log
    rollout = rollout_of(ledger, late)
    assert (rollout.version, rollout.started_by, rollout.state) == ("v2", f"asset {ASSET}", State.ROLLED_BACK)
    assert answered(ledger, late) == (Answer.TIMEOUT, None)
    assert late.canary_percent == 0

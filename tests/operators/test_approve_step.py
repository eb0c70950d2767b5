"""The approval task without an Airflow around it: what it asks, and what it makes of every kind of answer."""

from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput

from canary_release.ledger.approvals import Answer, question_of
from canary_release.operators import approve_step
from canary_release.operators.approve_step import ApproveStepOperator
from control.test_approving import a_world, at_the_question
from control.world import World
from security.hostile import a_context

GROUPS = {"grace": ["7", "grace"]}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return a_world(tmp_path, not_by_starter=True)


@pytest.fixture
def asked(world: World, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was written for people to see, instead of Airflow's own table."""
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "airflow.providers.standard.operators.hitl.upsert_hitl_detail", lambda **detail: written.append(detail)
    )
    monkeypatch.setattr(approve_step, "known_groups", lambda: GROUPS)
    return written


@pytest.fixture
def task(world: World, monkeypatch: pytest.MonkeyPatch) -> ApproveStepOperator:
    made = ApproveStepOperator(task_id="approve_100", weight="100")
    monkeypatch.setattr(ApproveStepOperator, "open_desk", lambda self: world.desk)
    at_the_question(world)
    return made


def context(**values: Any) -> Any:
    made = a_context({"version": "v2"}, run_id="shop-v2")
    made["ti"].id = made["ti"].task_id
    return made | {"task_instance": made["ti"]} | values


def an_answer(option: str, user: str | None = "grace", comment: str | None = None, **event: Any) -> dict[str, Any]:
    by = None if user is None else {"id": user, "name": user}
    return {"chosen_options": [option], "params_input": {"comment": comment}, "responded_by_user": by} | event


def answer_of(world: World) -> Answer | None:
    question = question_of(world.ledger, "shop-1", 1)
    assert question is not None
    return question.answer


def ask(task: ApproveStepOperator) -> None:
    with pytest.raises(TaskAwaitingInput) as waits:
        task.execute(context())
    assert waits.value.timeout is not None
    assert waits.value.timeout.total_seconds() == 600


def test_question_goes_to_the_people_behind_the_groups_and_silence_rejects(
    task: ApproveStepOperator, asked: list[dict[str, Any]]
) -> None:
    ask(task)
    (detail,) = asked
    assert detail["subject"] == "shop v2: 5 % → 100 %?"
    assert [user["id"] for user in detail["assigned_users"]] == ["7", "grace", "ada"]
    assert (detail["options"], detail["defaults"]) == (["Approve", "Reject"], ["Reject"])
    assert detail["params"]["comment"]["schema"]["type"] == ["null", "string"]


def test_approval_is_recorded_with_its_comment(
    world: World, task: ApproveStepOperator, asked: list[dict[str, Any]]
) -> None:
    ask(task)
    assert task.execute_complete(context(), an_answer("Approve", comment="fine"))["by"] == "grace"
    assert answer_of(world) is Answer.APPROVE


def test_secret_in_a_comment_is_left_out(world: World, task: ApproveStepOperator, asked: list[dict[str, Any]]) -> None:
    ask(task)
    task.execute_complete(context(), an_answer("Approve", comment="password=hunter2"))
    question = question_of(world.ledger, "shop-1", 1)
    assert question is not None
    assert "hunter2" not in question.comment


def test_rejection_is_red_here_and_the_canary_is_off_before_that(
    world: World, task: ApproveStepOperator, asked: list[dict[str, Any]]
) -> None:
    ask(task)
    with pytest.raises(AirflowFailException, match="100 %: rejected by grace: no"):
        task.execute_complete(context(), an_answer("Reject", comment="no"))
    assert world.canary_percent == 0


@pytest.mark.parametrize(
    "event",
    [
        an_answer("Reject", user=None, timedout=True),
        an_answer("Approve", user=None),  # written around Airflow's own page, so by nobody
        {"error": "The response timeout has passed", "error_type": "timeout"},
    ],
    ids=["timed out", "approved by nobody", "no default"],
)
def test_answer_by_nobody_is_silence(
    world: World, task: ApproveStepOperator, asked: list[dict[str, Any]], event: dict[str, Any]
) -> None:
    ask(task)
    with pytest.raises(AirflowFailException, match="not answered in time"):
        task.execute_complete(context(), event)
    assert world.canary_percent == 0


@pytest.mark.parametrize("user", ["eve", "ada"], ids=["not asked", "started it"])
def test_approval_by_somebody_who_may_not_puts_the_question_again(
    world: World, task: ApproveStepOperator, asked: list[dict[str, Any]], user: str
) -> None:
    ask(task)
    with pytest.raises(TaskAwaitingInput):
        task.execute_complete(context(), an_answer("Approve", user=user))
    assert (len(asked), answer_of(world), world.canary_percent) == (2, None, 5)


def test_cleared_task_finds_the_answer_and_asks_nobody(
    world: World, task: ApproveStepOperator, asked: list[dict[str, Any]]
) -> None:
    ask(task)
    task.execute_complete(context(), an_answer("Approve"))
    assert task.execute(context())["answer"] == "approve"
    assert len(asked) == 1


def test_plan_without_this_approval_asks_nobody(
    world: World, asked: list[dict[str, Any]], task: ApproveStepOperator
) -> None:
    other = ApproveStepOperator(task_id="approve_5", weight="5")
    assert other.execute(context()) == {"answer": "not needed"}
    assert asked == []


def test_question_is_no_template(task: ApproveStepOperator) -> None:
    assert tuple(task.template_fields) == ()

"""The log of a task: a page for people, and one line a fact for programs."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from structlog.testing import capture_logs

from canary_release.control.ending import roll_back
from canary_release.control.stepping import observe, shift
from canary_release.core.values import Decision
from canary_release.operators.compare_metrics import CompareMetricsOperator
from canary_release.operators.decide_branch import DecideOperator
from control.world import World, a_release


class Instance:
    """As much of a task instance as the operator uses."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, *, key: str, value: object) -> None:
        self.pushed[key] = value


class Run:
    dag_id = "release_shop"
    run_id = "shop-v2"


def logged(task: Any, world: World, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a task writes, whether it ends well or not."""
    monkeypatch.setattr(task, "open_desk", lambda: world.desk)
    with capture_logs() as written:
        # A logger that was used before has kept its processors.
        task._log = structlog.get_logger()
        with suppress(AirflowFailException, AirflowSkipException):
            task.execute({"ti": Instance(), "dag_run": Run()})
    return [dict(line) for line in written]


def baked(tmp_path: Path) -> tuple[World, str]:
    """A rollout whose first step has passed, and its id."""
    world = World(tmp_path, a_release(5, 100, bake=15.0))
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    for _ in range(60):
        world.clock.sleep(1)
        if observe(world.desk, rollout.id, 0, actor="watcher").decision is not Decision.HOLD:
            break
    return world, rollout.id


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the compare task of a step that passed writes."""
    world, _ = baked(tmp_path)
    return logged(CompareMetricsOperator(task_id="compare", weight="5"), world, monkeypatch)


def test_facts_of_a_task_are_fields_and_not_text(lines: list[dict[str, Any]]) -> None:
    (compared,) = [line for line in lines if line["event"] == "canary.compare"]
    assert (compared["rollout"], compared["weight"], compared["decision"]) == ("shop-1", "5", "advance")
    (check,) = [line for line in lines if line["event"] == "canary.check"]
    assert (check["check"], check["verdict"]) == ("error_rate", "undecided")
    assert check["canary_of"] > 0


def test_log_and_ledger_say_what_was_learned_of_stable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, rollout_id = baked(tmp_path)
    lines = logged(CompareMetricsOperator(task_id="compare", weight="5"), world, monkeypatch)
    (check,) = [line for line in lines if line["event"] == "canary.check"]
    assert check["learned"].startswith(("Errors", "How errors"))
    assert any(check["learned"] in " ".join(line["event"].split()) for line in lines)
    last = world.desk.ledger.decisions(rollout_id)[-1].judgement
    assert last is not None
    assert last["checks"][0]["learned"] == check["learned"]


def test_long_parts_are_folded_and_tables_aligned(lines: list[dict[str, Any]]) -> None:
    events = [line["event"] for line in lines]
    begins = next(at for at, event in enumerate(events) if event.startswith("::group::"))
    assert events[begins + 2] == "::endgroup::"
    rows = events[begins + 1].splitlines()
    assert len(rows) > 10
    assert len({row.index("│") for row in rows}) == 1


def test_task_that_is_skipped_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, a_release(5, 100, bake=15.0))
    world.start()
    task = DecideOperator(task_id="decide", weight="100", next_tasks=["promote"], roll_back_task="roll_back")
    written = logged(task, world, monkeypatch)
    assert "skipped  the step 100 % was never begun" in [line["event"] for line in written]
    (fact,) = [line for line in written if line["event"] == "canary.skipped"]
    assert fact["why"] == "the step 100 % was never begun"


def test_comparison_of_an_aborted_step_is_red_for_the_abort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, a_release(5, 100, bake=15.0))
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    world.clock.sleep(3)
    observe(world.desk, rollout.id, 0, actor="watcher")
    roll_back(world.desk, rollout, "aborted by ada: customers call", actor="ada")
    written = logged(CompareMetricsOperator(task_id="compare", weight="5"), world, monkeypatch)
    said = next(line["event"] for line in written if line["event"].startswith("compare"))
    assert "ended before its bake: aborted by ada: customers call" in said

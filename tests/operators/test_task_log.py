"""The log of a task: a page for people, and one line a fact for programs."""

from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from canary_release.control.stepping import observe, shift
from canary_release.core.values import Decision
from canary_release.operators.compare_metrics import CompareMetricsOperator
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


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the compare task of a step that passed writes."""
    world = World(tmp_path, a_release(5, 100, bake=15.0))
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    for _ in range(60):
        world.clock.sleep(1)
        if observe(world.desk, rollout.id, 0, actor="watcher").decision is not Decision.HOLD:
            break
    task = CompareMetricsOperator(task_id="compare", weight="5")
    monkeypatch.setattr(task, "open_desk", lambda: world.desk)
    with capture_logs() as logged:
        # A logger that was used before has kept its processors.
        task._log = structlog.get_logger()
        task.execute({"ti": Instance(), "dag_run": Run()})  # type: ignore[typeddict-item]
    return [dict(line) for line in logged]


def test_facts_of_a_task_are_fields_and_not_text(lines: list[dict[str, Any]]) -> None:
    (compared,) = [line for line in lines if line["event"] == "canary.compare"]
    assert (compared["rollout"], compared["weight"], compared["decision"]) == ("shop-1", "5", "advance")
    (check,) = [line for line in lines if line["event"] == "canary.check"]
    assert (check["check"], check["verdict"]) == ("error_rate", "undecided")
    assert check["canary_of"] > 0


def test_long_parts_are_folded_and_tables_aligned(lines: list[dict[str, Any]]) -> None:
    events = [line["event"] for line in lines]
    begins = next(at for at, event in enumerate(events) if event.startswith("::group::"))
    assert events[begins + 2] == "::endgroup::"
    rows = events[begins + 1].splitlines()
    assert len(rows) > 10
    assert len({row.index("│") for row in rows}) == 1

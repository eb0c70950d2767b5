"""Status, history, abort and report from the ledger, as a person at a terminal and a CI job see them."""

import json
import threading
from pathlib import Path

import pytest

from canary_release.cli import main
from canary_release.cli_rollouts import watch
from canary_release.cli_tree import clean
from canary_release.control.ending import promote, roll_back
from canary_release.control.real_desk import open_ledger
from canary_release.control.stepping import observe, shift
from canary_release.core.values import Decision
from canary_release.ledger.records import Rollout
from control.world import GREEN, World, a_release

HOSTILE = "\x1b[2J\x07[red]boo\u202e"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose ledger is the one that the command line finds."""
    extra = {"sqlalchemy_url": f"sqlite:///{tmp_path / 'ledger.db'}"}
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_LEDGER", json.dumps({"conn_type": "generic", "extra": extra}))
    monkeypatch.delenv("CANARY_AIRFLOW_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    open_ledger.cache_clear()
    return World(tmp_path, a_release(5, 100, bake=15.0))


def baked(world: World, rollout: Rollout, index: int) -> Decision:
    shift(world.desk, rollout, index, actor="task")
    for _ in range(120):
        world.clock.sleep(1)
        seen = observe(world.desk, rollout.id, index, actor="watcher")
        if seen.decision is not Decision.HOLD:
            return seen.decision
    raise AssertionError("it was never decided")


def promoted(world: World) -> Rollout:
    rollout = world.start().rollout
    assert [baked(world, rollout, index) for index in range(2)] == [Decision.ADVANCE, Decision.PROMOTE]
    return promote(world.desk, world.ledger.rollout(rollout.id), actor="task").rollout


def rolled_back(world: World) -> Rollout:
    rollout = world.start(version="v3").rollout
    world.metrics.error_rate[GREEN] = 0.3
    assert baked(world, rollout, 0) is Decision.ROLL_BACK
    return roll_back(world.desk, rollout, "a task failed", actor="task").rollout


def test_status_of_a_service_is_a_tree_of_its_steps(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    rolled_back(world)
    assert main(["status", "shop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["Service:", "shop", "unknown", "->", "v3", "rollout", "shop-1", "asked", "by", "ada"]
    (failed,) = [line for line in lines if "✖ 5 %" in line]
    assert "fail: error_rate 30.0 % vs" in failed
    assert [line for line in lines if "• 100 %" in line]
    assert [line for line in lines if "asked 0 %, read back 0 %" in line]


@pytest.mark.parametrize(("make", "code"), [(promoted, 0), (rolled_back, 1)])
def test_watch_of_a_finished_rollout_ends_at_once_with_the_code_for_ci(
    world: World, capsys: pytest.CaptureFixture[str], make: object, code: int
) -> None:
    rollout: Rollout = make(world)  # type: ignore[operator]
    assert main(["status", "shop", "--watch"]) == code
    (line,) = capsys.readouterr().out.splitlines()
    assert str(rollout.state).replace("_", " ") in line


def test_watch_without_a_terminal_prints_a_line_for_each_change(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    from canary_release.cli_rollouts import _page

    rollout = world.start(version="v3").rollout
    world.metrics.error_rate[GREEN] = 0.3
    acts = iter(
        [
            lambda: None,
            lambda: None,
            lambda: baked(world, rollout, 0),
            lambda: roll_back(world.desk, rollout, "", actor="task"),
        ]
    )

    def look() -> dict[str, object]:
        next(acts)()
        return _page(None, rollout.id)

    assert watch(look, poll=0.0) == 1
    lines = capsys.readouterr().out.splitlines()
    assert ["starting" in lines[0], "rolling back" in lines[1], "rolled back" in lines[2]] == [True] * 3
    assert len(lines) == 3


def test_watch_without_a_service_is_a_wrong_call(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--watch"]) == 2
    assert "--watch needs a SERVICE" in capsys.readouterr().err


def test_json_of_status_and_history_is_for_programs(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    promoted(world)
    rows = []
    for command in (["status", "shop", "--json"], ["history", "shop", "--json"], ["status", "--json"]):
        assert main(command) == 0
        rows += json.loads(capsys.readouterr().out)
    assert [(row["rollout"], row["state"]) for row in rows] == [("shop-1", "promoted")] * 3


def test_names_and_reasons_move_no_cursor(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.start(by=HOSTILE, reason=HOSTILE)
    for command in (["status", "shop"], ["status"], ["history", "shop"]):
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert "\x1b" not in printed
        assert "\x07" not in printed
        assert "\u202e" not in printed
    assert clean("[red]") == "[red]"


def test_report_is_written_to_a_file_that_needs_nothing_else(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rolled_back(world)
    assert main(["report", "shop-1"]) == 0
    text = (tmp_path / "shop-1.html").read_text()
    assert "v3" in text
    assert "<script" not in text
    assert "src=" not in text
    assert main(["report", "shop-1", "-o", "-"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].strip() == "</html>"


def test_report_of_an_unknown_rollout_or_into_no_folder_is_a_sentence(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rolled_back(world)
    assert main(["report", "shop-77"]) == 1
    assert main(["report", "shop-1", "-o", str(tmp_path / "nowhere" / "x.html")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert "knows no rollout 'shop-77'" in errors[0]
    assert "cannot be written" in errors[1]


def test_abort_while_somebody_watches_ends_the_watch_with_1(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    from canary_release.cli_rollouts import _page

    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    codes: list[int] = []
    seen = threading.Event()

    def look() -> dict[str, object]:
        page = _page(None, rollout.id)
        seen.set()
        return page

    watcher = threading.Thread(target=lambda: codes.append(watch(look, poll=0.05)))
    watcher.start()
    assert seen.wait(10)
    roll_back(world.desk, rollout, "aborted by ada", actor="ada")
    watcher.join(10)
    assert codes == [1]
    assert "aborted by ada" in capsys.readouterr().out.splitlines()[-1]

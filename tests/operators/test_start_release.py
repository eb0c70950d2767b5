"""The first task of a run: asset events, overrides, waiting for the calendar, and what a dry run prints."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from canary_release.control.ending import roll_back
from canary_release.control.stepping import shift
from canary_release.core.release import Approval, Calendar, Freeze, Hook, Moment
from canary_release.ledger.records import State
from canary_release.operators import start_release
from canary_release.operators.start_release import StartReleaseOperator
from control.world import World, a_release
from security.hostile import a_context

NOW = 1_800_000_000.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, a_release(5, 100, bake=8.0))


@pytest.fixture
def start(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StartReleaseOperator:
    monkeypatch.setattr(StartReleaseOperator, "open_desk", lambda self: world.desk)
    monkeypatch.setattr(start_release, "read_release_file", lambda path: world.release)
    return StartReleaseOperator(task_id="start", release_file=str(tmp_path / "shop.yaml"))


def by_event(*extras: Any) -> Any:
    """The context of a run that an asset's events started, the last extra the newest."""
    events = [
        SimpleNamespace(extra=extra, timestamp=datetime.fromtimestamp(number, UTC))
        for number, extra in enumerate(extras)
    ]
    return a_context({}, user="") | {"triggering_asset_events": {Asset("shop-image"): events}}


def test_version_comes_from_the_newest_event_and_the_asset_is_who_started_it(
    world: World, start: StartReleaseOperator
) -> None:
    start.execute(by_event({"version": "v1"}, {"version": "v2"}))
    rollout = world.ledger.active("shop")
    assert rollout is not None
    assert (rollout.version, rollout.started_by) == ("v2", "asset shop-image")


@pytest.mark.parametrize(
    "extra",
    [{}, None, {"tag": "v2"}, {"version": None}, {"version": ["v2"]}, {"version": 2}, {"version": "v2; rm -rf /"}],
    ids=str,
)
def test_event_without_a_sound_version_starts_nothing(world: World, start: StartReleaseOperator, extra: Any) -> None:
    with pytest.raises(AirflowFailException, match="version"):
        start.execute(by_event({"version": "v1"}, extra))
    assert world.ledger.active("shop") is None


def test_conf_wins_over_an_event(world: World, start: StartReleaseOperator) -> None:
    context = by_event({"version": "v1"})
    start.execute({**context, **a_context({"version": "v3"})})
    rollout = world.ledger.active("shop")
    assert rollout is not None
    assert (rollout.version, rollout.started_by) == ("v3", "ada")


def frozen(world: World, when_closed: str) -> None:
    calendar = Calendar(freezes=(Freeze(NOW - 10, NOW + 600, "sale"),), when_closed=when_closed)
    world.release = replace(world.release, calendar=calendar)


def test_closed_start_is_red_with_until_when_where_the_file_refuses(world: World, start: StartReleaseOperator) -> None:
    frozen(world, "refuse")
    with pytest.raises(AirflowFailException, match=r"releases are frozen until .* \(sale\)"):
        start.execute(a_context({"version": "v2"}))


def test_closed_start_waits_for_the_instant_and_holds_nothing_meanwhile(
    world: World, start: StartReleaseOperator
) -> None:
    frozen(world, "wait")
    with pytest.raises(TaskDeferred) as waits:
        start.execute(a_context({"version": "v2"}))
    assert waits.value.trigger.serialize()[1]["moment"].timestamp() == NOW + 600
    assert world.ledger.active("shop") is None
    world.clock.sleep(601)
    start.opened(a_context({"version": "v2"}), {})
    assert world.ledger.active("shop") is not None


def test_start_that_is_still_closed_waits_again(world: World, start: StartReleaseOperator) -> None:
    frozen(world, "wait")
    with pytest.raises(TaskDeferred):
        start.opened(a_context({"version": "v2"}), {})


def test_override_is_told_in_the_log(
    world: World, start: StartReleaseOperator, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen(world, "refuse")
    start.execute(a_context({"version": "v2", "override": "the shop is down"}))
    said = capsys.readouterr().out
    assert "OVERRIDES" in said
    assert "Because: the shop is down" in " ".join(said.split())


def test_blank_override_overrides_nothing(world: World, start: StartReleaseOperator) -> None:
    frozen(world, "refuse")
    with pytest.raises(AirflowFailException, match="frozen"):
        start.execute(a_context({"version": "v2", "override": "   "}))


def test_dry_run_prints_everything_that_would_be_asked_of_the_outside_and_leaves_the_service_free(
    world: World, start: StartReleaseOperator, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen(world, "refuse")
    five, full = world.release.steps
    hooks = {Moment.BEFORE: (Hook(dag="deploy_shop"),), Moment.ON_ROLLBACK: (Hook(dag="tell"),)}
    steps = (five, Approval(("ops",), 60.0), full)
    world.release = replace(world.release, steps=steps, hooks=hooks)
    start.execute(a_context({"version": "v2", "dry_run": True}))
    said = capsys.readouterr().out
    wanted = [
        "nothing is written to the load balancer", "would be refused      releases are frozen",
        "would write as it is  shop-blue 100 %", "would call            DAG deploy_shop",
        "would ask for         shop-blue 95 %, shop-green 5 %",
        "would ask             ops, for 1m at most", "would ask for         shop-blue 0 %, shop-green 100 %",
        "after a fail          shop-blue 100 %, shop-green 0 %", "would call            DAG tell",
        "check                 error_rate: +0.5 pp; rolls back",
    ]  # fmt: skip
    places = [said.find(words) for words in wanted]
    assert -1 not in places, wanted[places.index(-1)]
    assert places == sorted(places)
    assert (world.balancer.writes, world.ledger.active("shop")) == ([], None)


def test_cooldown_is_told_to_who_starts_too_soon(world: World, start: StartReleaseOperator) -> None:
    world.release = replace(world.release, calendar=Calendar(cooldown=600.0))
    world.desk = world.new_desk()
    rollout = world.start("v1").rollout
    shift(world.desk, rollout, 0, actor="task")
    assert roll_back(world.desk, rollout, "smells", actor="ada").rollout.state is State.ROLLED_BACK
    with pytest.raises(AirflowFailException, match="shop-1 was rolled back, and the cooldown is 10m"):
        start.execute(a_context({"version": "v2"}))

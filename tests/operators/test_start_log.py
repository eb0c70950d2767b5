"""What the log of a rollout's first task says about what the plan can detect."""

from dataclasses import replace
from pathlib import Path

import pytest

from canary_release.control.starting import StartRequest
from canary_release.operators.start_report import plan_lines as lines_of
from control.test_rollout import release
from control.world import World, a_release


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, a_release(5, 100, bake=8.0))


def plan_lines(world: World, version: str) -> str:
    request = StartRequest(world.release, "shop.yaml", version, "release_shop", f"shop-{version}", "ada")
    started = world.start(version)
    return "\n".join(lines_of(request, started))


def test_start_of_an_unknown_service_says_that_detection_is_unknown_and_why(world: World) -> None:
    said = plan_lines(world, "v2")
    assert "5/100 %" in said
    assert "detects               unknown: nothing is known of the service's own traffic" in said


def test_start_of_a_known_service_shows_what_each_step_detects(world: World) -> None:
    release(world)
    said = plan_lines(world, "v3")
    assert "learned               from 8 s of stable's traffic in past rollouts" in said
    assert "error_rate +" in said
    assert "detects: for 1,000 requests/s with 0.2" in said


def test_start_that_is_run_again_shows_the_plan_alone(world: World) -> None:
    plan_lines(world, "v2")
    assert "detects" not in plan_lines(world, "v2")


def test_unknown_checks_are_named_in_the_log(world: World) -> None:
    release(world)
    world.release = replace(world.release, checks=(replace(world.release.checks[0], metric="conversions"),))
    assert "conversions: unknown, no history of conversions" in plan_lines(world, "v3")

"""What the doctor says of a ledger, a service, a clock, an Airflow: each fault has its line and its cure."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from canary_release.control.airflow_checks import check_dags, check_settings
from canary_release.control.doctor import examine_desk
from canary_release.control.doctor_checks import FRESH_SECONDS, Checked, Level, check_ledger
from canary_release.control.guardian import Guardian
from canary_release.control.stepping import shift
from canary_release.core.problems import CanaryError, LoadBalancerError
from canary_release.core.values import Weights
from canary_release.ledger.store import Ledger
from control.world import BLUE, GREEN, World, a_release


def no_clock(connection_id: str) -> float | None:
    return None


def examined(
    world: World, *, write: bool = False, http_time: Callable[[str], float | None] = no_clock
) -> dict[str, Checked]:
    """The doctor's results by check, after a guardian has looked."""
    Guardian(world.new_desk, name="test").tick()
    return looked(world, write=write, http_time=http_time)


def looked(
    world: World, *, write: bool = False, http_time: Callable[[str], float | None] = no_clock
) -> dict[str, Checked]:
    found = list(examine_desk(world.new_desk(), [world.release], write=write, http_time=http_time))
    assert all(result.cure for result in found if result.level is not Level.OK)
    return {result.check: result for result in found}


def levels(results: Mapping[str, Checked]) -> set[Level]:
    return {result.level for result in results.values()}


def split(percent: int) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


# -- a service ------------------------------------------------------------------------------------------------------


def test_all_is_well_before_the_first_rollout(world: World) -> None:
    results = examined(world, write=True)
    assert levels(results) == {Level.OK}
    assert {"shop: load balancer", "shop: way back", "shop: metrics", "guardian", "leases"} <= set(results)
    assert world.balancer.writes == [split(0)]


def test_nothing_is_written_unless_asked_for(world: World) -> None:
    examined(world)
    assert world.balancer.writes == []


def test_rollout_in_progress_is_not_written_over(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    writes = list(world.balancer.writes)
    results = examined(world, write=True)
    assert levels(results) == {Level.OK}
    assert "rollout is in progress" in results["shop: way back"].says
    assert world.balancer.writes == writes


def test_balancer_that_cannot_be_read_fails_with_its_own_words(world: World) -> None:
    def down() -> Weights:
        raise LoadBalancerError("http://lb:8080 cannot be reached")

    world.balancer.get_weights = down  # type: ignore[method-assign]
    result = examined(world)["shop: load balancer"]
    assert (result.level, result.says) == (Level.FAIL, "http://lb:8080 cannot be reached")
    assert "connection none" in result.cure


def test_balancer_that_can_be_read_and_not_written_fails_the_way_back(world: World) -> None:
    def refuse(weights: Weights) -> bool:
        raise LoadBalancerError("403")

    world.balancer.fault = refuse
    results = examined(world, write=True)
    assert (results["shop: load balancer"].level, results["shop: way back"].level) == (Level.OK, Level.FAIL)


def test_metrics_that_cannot_be_read_fail(world: World) -> None:
    world.metrics.down = True
    assert examined(world)["shop: metrics"].level is Level.FAIL


def test_split_traffic_without_a_rollout_fails_and_the_cure_is_abort(world: World) -> None:
    world.balancer.weights = split(30)
    result = examined(world)["shop: load balancer"]
    assert (result.level, result.cure) == (Level.FAIL, "canary abort shop")


def test_everything_on_the_other_side_is_a_warning(world: World) -> None:
    rollout = world.start().rollout
    world.clock.sleep(rollout.deadline - world.clock.now() + 1)
    Guardian(world.new_desk, name="test").tick()
    world.balancer.weights = split(100)
    result = examined(world)["shop: load balancer"]
    assert result.level is Level.WARN
    assert f"{rollout.id} left everything on {BLUE}" in result.says


def test_fault_of_a_hook_is_a_line_and_not_the_end(world: World) -> None:
    def broken() -> Weights:
        raise RuntimeError("a hook's own fault")

    world.balancer.get_weights = broken  # type: ignore[method-assign]
    results = looked(world)
    assert "RuntimeError: a hook's own fault" in results["shop"].says
    assert "leases" in results


# -- clocks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "level"), [(0.0, Level.OK), (-1.5, Level.OK), (4.0, Level.WARN), (-4.0, Level.WARN), (60.0, Level.FAIL)]
)
def test_clock_of_the_load_balancer_is_compared(world: World, ahead: float, level: Level) -> None:
    result = examined(world, http_time=lambda _: world.clock.now() + ahead)["shop: clock of the load balancer"]
    assert result.level is level


def test_balancer_without_a_clock_has_no_line(world: World) -> None:
    assert not [check for check in examined(world) if "clock" in check]


# -- guardian, leases, audit ----------------------------------------------------------------------------------------


def test_guardian_that_never_looked_and_one_that_stopped_fail(world: World) -> None:
    assert "never" not in looked(world)["guardian"].cure
    assert looked(world)["guardian"].level is Level.FAIL
    assert examined(world)["guardian"].level is Level.OK
    world.clock.sleep(FRESH_SECONDS + 1)
    result = looked(world)["guardian"]
    assert result.level is Level.FAIL
    assert f"test {FRESH_SECONDS + 1:.0f} s ago" in result.says
    assert "canary guard" in result.cure


def test_one_guardian_of_two_is_enough(world: World) -> None:
    Guardian(world.new_desk, name="DAG").tick()
    world.clock.sleep(FRESH_SECONDS + 1)
    Guardian(world.new_desk, name="program").tick()
    assert looked(world)["guardian"].level is Level.OK


def test_expired_lease_fails_with_the_rollouts_name(world: World) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    assert looked(world)["leases"].level is Level.OK
    world.clock.sleep(21)
    result = looked(world)[f"lease of {rollout.id}"]
    assert (result.level, result.cure) == (Level.FAIL, "canary guard --once")


def test_edited_audit_trail_fails(world: World) -> None:
    world.start()
    assert looked(world)["audit chain"].level is Level.OK
    with world.ledger._engine.begin() as connection:
        connection.execute(sa.text("UPDATE audit SET actor = 'nobody' WHERE seq = 1"))
    result = looked(world)["audit chain"]
    assert result.level is Level.FAIL
    assert "entry 1" in result.says


# -- the ledger -----------------------------------------------------------------------------------------------------


def test_ledger_that_cannot_be_reached_fails_without_its_password() -> None:
    result = check_ledger("postgresql+psycopg2://canary:secret@127.0.0.1:1/ledger")
    assert result.level is Level.FAIL
    assert "secret" not in result.says
    assert "127.0.0.1:1/ledger" in result.says


def test_ledger_is_looked_at_before_it_is_changed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    assert check_ledger(url).level is Level.WARN
    Ledger.open(url).close()
    assert check_ledger(url).level is Level.OK


def test_ledger_of_a_newer_program_fails(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    Ledger.open(url).close()
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    result = check_ledger(url)
    assert result.level is Level.FAIL
    assert "9999" in result.says


# -- Airflow --------------------------------------------------------------------------------------------------------


class Settings(dict[tuple[str, str], str]):
    def get(self, section: str, key: str, *, fallback: str) -> str:  # type: ignore[override]
        return super().get((section, key), fallback)


SOUND = Settings(
    {
        ("workers", "min_heartbeat_interval"): "1",
        ("scheduler", "task_instance_heartbeat_timeout"): "60",
        ("scheduler", "orphaned_tasks_check_interval"): "60.0",
        ("database", "sql_alchemy_conn"): "postgresql+psycopg2://airflow@postgres/airflow",
    }
)


def test_sound_settings_of_airflow_are_ok() -> None:
    assert {result.level for result in check_settings(SOUND)} == {Level.OK}


@pytest.mark.parametrize(
    ("section", "option", "value", "cure"),
    [
        ("workers", "min_heartbeat_interval", "5", "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL=1"),
        ("scheduler", "task_instance_heartbeat_timeout", "300", "TASK_INSTANCE_HEARTBEAT_TIMEOUT=60"),
        ("scheduler", "orphaned_tasks_check_interval", "300.0", "ORPHANED_TASKS_CHECK_INTERVAL=60"),
        ("scheduler", "orphaned_tasks_check_interval", "often", "ORPHANED_TASKS_CHECK_INTERVAL=60"),
        ("database", "sql_alchemy_conn", "sqlite:////root/airflow.db", "PostgreSQL"),
    ],
)
def test_setting_that_endangers_a_rollout_is_a_warning(section: str, option: str, value: str, cure: str) -> None:
    (result,) = [one for one in check_settings(Settings(SOUND | {(section, option): value})) if one.level != Level.OK]
    assert result.level is Level.WARN
    assert cure in result.cure


def test_no_airflow_is_a_warning_and_no_failure() -> None:
    assert [result.level for result in check_settings(None) + check_dags(None)] == [Level.WARN, Level.WARN]


class Api:
    def __init__(self, dags: Mapping[str, bool], timeouts: Mapping[str, str] | None = None) -> None:
        self._dags, self._timeouts = dags, timeouts or {}

    def dags(self, tag: str) -> list[dict[str, object]]:
        assert tag == "canary-release"
        return [{"dag_id": dag_id, "is_paused": paused} for dag_id, paused in self._dags.items()]

    def run_timeout(self, dag_id: str) -> str | None:
        return self._timeouts.get(dag_id)


class ApiAway(Api):
    def dags(self, tag: str) -> list[dict[str, object]]:
        raise CanaryError("http://airflow:8080 cannot be reached")


def test_dags_that_run_are_ok() -> None:
    results = check_dags(Api({"canary_guardian": False, "release_shop": True}))
    assert [result.level for result in results] == [Level.OK, Level.OK]


@pytest.mark.parametrize(
    ("api", "says"),
    [
        (Api({"canary_guardian": True}), "canary_guardian is paused"),
        (Api({"release_shop": False}), "no DAG canary_guardian"),
        (Api({"canary_guardian": False, "release_shop": False}, {"release_shop": "PT1H"}), "set on release_shop"),
        (ApiAway({}), "cannot be reached"),
    ],
)
def test_dag_that_endangers_a_rollout_fails(api: Api, says: str) -> None:
    (result,) = [one for one in check_dags(api) if one.level is Level.FAIL]
    assert says in result.says
    assert result.cure


def test_service_of_the_ledger_is_looked_at_with_its_frozen_file_unless_another_is_given(world: World) -> None:
    world.start()
    other = replace(a_release(), service="cart", sha256="c" * 64)
    results = {result.check for result in examine_desk(world.new_desk(), [other], write=False, http_time=no_clock)}
    assert {"shop: load balancer", "cart: load balancer"} <= results

"""The faults that the memory balancer can be told to have, and the state that several processes share."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from canary_release.core.problems import LoadBalancerError
from canary_release.core.values import Weights
from canary_release.hooks.memory_balancer import MemoryBalancer


def split(percent: int) -> Weights:
    return Weights.split(stable="old", canary="new", canary_percent=Decimal(percent))


def make(connection: str = "memory_test", *backends: str) -> MemoryBalancer:
    first, second = backends or ("old", "new")
    return MemoryBalancer(connection, (first, second), MemoryBalancer.Options())


@pytest.fixture
def balancer() -> Iterator[MemoryBalancer]:
    yield make()
    MemoryBalancer.forget_all()


def test_a_new_state_has_all_the_traffic_on_the_first_backend(balancer: MemoryBalancer) -> None:
    assert balancer.get_weights() == split(0)


def test_hooks_of_one_connection_share_a_state_and_others_do_not(balancer: MemoryBalancer) -> None:
    balancer.set_weights(split(5))
    assert make().get_weights() == split(5)
    assert make("another").get_weights() == split(0)


def test_a_write_that_fails_before_it_is_applied_changes_nothing(balancer: MemoryBalancer) -> None:
    balancer.inject(fail_before=1)
    with pytest.raises(LoadBalancerError, match="fail_before"):
        balancer.set_weights(split(5))
    assert balancer.get_weights() == split(0)
    balancer.set_weights(split(5))
    assert balancer.get_weights() == split(5)


def test_a_write_that_fails_after_it_was_applied_has_changed_the_weights(balancer: MemoryBalancer) -> None:
    balancer.inject(fail_after=1)
    with pytest.raises(LoadBalancerError, match="fail_after"):
        balancer.set_weights(split(5))
    assert balancer.get_weights() == split(5)


def test_an_ignored_write_is_accepted_and_changes_nothing(balancer: MemoryBalancer) -> None:
    balancer.inject(ignore=1)
    balancer.set_weights(split(5))
    assert balancer.get_weights() == split(0)
    assert balancer.writes() == [split(5)]


def test_a_late_write_is_in_force_after_some_reads(balancer: MemoryBalancer) -> None:
    balancer.inject(late=1, late_reads=2)
    balancer.set_weights(split(5))
    assert [balancer.get_weights() for _ in range(4)] == [split(0), split(0), split(5), split(5)]


def test_a_later_write_replaces_a_late_one(balancer: MemoryBalancer) -> None:
    balancer.inject(late=1)
    balancer.set_weights(split(50))
    balancer.set_weights(split(0))
    assert [balancer.get_weights() for _ in range(3)] == [split(0)] * 3


def test_reads_can_be_told_to_fail(balancer: MemoryBalancer) -> None:
    balancer.inject(fail_reads=1)
    with pytest.raises(LoadBalancerError, match="read"):
        balancer.get_weights()
    assert balancer.get_weights() == split(0)


def test_faults_and_weights_in_a_file_are_shared_and_outlive_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "state.json"
    monkeypatch.setenv("AIRFLOW_CONN_MEMORY_FILE", json.dumps({"conn_type": "generic", "extra": {"file": str(file)}}))
    balancer = make("memory_file")
    balancer.set_weights(split(5))
    balancer.inject(fail_before=1)
    MemoryBalancer.forget_all()
    with pytest.raises(LoadBalancerError):
        make("memory_file").set_weights(split(6))
    assert make("memory_file").get_weights() == split(5)
    assert make("memory_file").writes() == [split(5), split(6)]


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"weights": {"old": 100}}', '{"weights": {"old": "many", "new": "5"}}']
)
def test_a_file_that_holds_no_state_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    file = tmp_path / "state.json"
    file.write_text(text)
    monkeypatch.setenv("AIRFLOW_CONN_MEMORY_FILE", json.dumps({"conn_type": "generic", "extra": {"file": str(file)}}))
    with pytest.raises(LoadBalancerError, match=r"state\.json"):
        make("memory_file").get_weights()

"""What every load balancer hook must do, run against every one of them. A new hook adds itself to ``CASES``."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from canary_release.core.ports import LoadBalancer
from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.haproxy import HaproxyHook
from canary_release.hooks.memory_balancer import MemoryBalancer
from canary_release.hooks.traefik import TraefikHook
from contracts.conftest import BACKENDS, Shop
from contracts.little_servers import Answer, little_server
from contracts.load_client import ask_many, under_load
from contracts.shift_figures import measured, real
from contracts.waiting import wait_until
from demo.haproxy_server import HaproxyServer, haproxy_binary
from demo.traefik_server import traefik_binary

STABLE, CANARY = BACKENDS


@dataclass
class Case:
    """One load balancer under test. configuration: all it holds apart from the two weights, to be compared.

    stranger: a hook that names a backend it does not have.  other_actor: a second, independent hook.
    leased: weights stand only as long as a lease does, and a restart ends it.
    tested_against: the real program with its version, or whose fake it is, for the table in the README.
    """

    balancer: LoadBalancer
    other_actor: LoadBalancer
    stranger: LoadBalancer
    configuration: Callable[[], Any]
    restart: Callable[[], None]
    url: str = ""
    leased: bool = False
    tested_against: str = "itself"


def memory_case(request: pytest.FixtureRequest) -> Case:
    file: Path = request.getfixturevalue("tmp_path") / "balancer.json"
    connection = json.dumps({"conn_type": "generic", "extra": {"file": str(file)}})
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_MEMORY_CONTRACT", connection)

    def make(*backends: str) -> MemoryBalancer:
        return MemoryBalancer("memory_contract", (backends[0], backends[1]), MemoryBalancer.Options())

    make(*BACKENDS).reset()

    def configuration() -> Any:
        state = json.loads(file.read_text())
        return {key: state[key] for key in state.keys() - {"weights", "writes"}}

    # A restart leaves the file and nothing of the process.
    restart = MemoryBalancer.forget_all
    return Case(make(*BACKENDS), make(*BACKENDS), make(STABLE, "nobody"), configuration, restart)


def traefik_case(request: pytest.FixtureRequest) -> Case:
    traefik = request.getfixturevalue("shop").traefik

    def make(*backends: str) -> TraefikHook:
        return TraefikHook("traefik_contract", (backends[0], backends[1]), TraefikHook.Options(route="shop"))

    def configuration() -> Any:
        whole = json.loads(traefik.dynamic_file.read_text())
        for entry in whole["http"]["services"]["shop"]["weighted"]["services"]:
            del entry["weight"]
        return whole

    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        traefik.restart,
        url=traefik.url,
        tested_against=real("Traefik", [traefik_binary(), "version"]),
    )


@pytest.fixture(scope="session")
def running_haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HaproxyServer]:
    folder = tmp_path_factory.mktemp("haproxy")
    with ExitStack() as started:
        urls = {name: started.enter_context(little_server(Answer(name.encode()))).url for name in BACKENDS}
        yield started.enter_context(HaproxyServer(folder, urls))


def haproxy_case(request: pytest.FixtureRequest) -> Case:
    haproxy: HaproxyServer = request.getfixturevalue("running_haproxy")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_HAPROXY_CONTRACT", json.dumps(haproxy.connection()))
    haproxy.process.stop()
    haproxy.reset_file()
    with haproxy.map_file.open("a") as file:
        file.write("another-service.share 700\n")
    haproxy.restart()

    def make(*backends: str) -> HaproxyHook:
        return HaproxyHook("haproxy_contract", (backends[0], backends[1]), HaproxyHook.Options())

    def configuration() -> Any:
        entries = [line.split()[1:] for line in haproxy.command(f"show map {haproxy.map_file}").splitlines() if line]
        return haproxy.map_file.read_text(), [entry for entry in entries if not entry[0].startswith(CANARY)]

    make(*BACKENDS).renew_lease(time.time() + 600, STABLE)
    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        haproxy.restart,
        url=haproxy.url,
        leased=True,
        tested_against=real("HAProxy", [haproxy_binary()[0], "-v"], haproxy_binary()[1]),
    )


CASES = {"memory": memory_case, "traefik": traefik_case, "haproxy": haproxy_case}
SERVERS = ("traefik", "haproxy")


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param](request)


def split(canary_percent: str) -> Weights:
    return Weights.split(stable=STABLE, canary=CANARY, canary_percent=Decimal(canary_percent))


def shift(balancer: LoadBalancer, weights: Weights) -> None:
    """Set and wait for the read-back, as the control part does."""
    balancer.set_weights(weights)
    wait_until(lambda: balancer.get_weights() == weights, f"{weights} read back")


def test_every_share_set_is_read_back_exactly(case: Case) -> None:
    for percent in ("0", "0.1", "1", "5", "25", "50", "99", "100", "0"):
        shift(case.balancer, split(percent))
        assert case.balancer.get_weights()[CANARY] == Decimal(percent)


def test_the_finest_step_itself_is_set_exactly(case: Case) -> None:
    shift(case.balancer, split(str(case.balancer.finest_step)))


@pytest.mark.parametrize("fraction", ["0.5", "1.5", "0.0001"])
def test_a_share_between_two_steps_is_refused_and_not_rounded(case: Case, fraction: str) -> None:
    shift(case.balancer, split("5"))
    with pytest.raises(LoadBalancerError, match="multiples of"):
        case.balancer.set_weights(split(str(case.balancer.finest_step * Decimal(fraction))))
    assert case.other_actor.get_weights() == split("5")


@pytest.mark.parametrize(
    "shares",
    [
        {STABLE: "50", CANARY: "49"},
        {STABLE: "101", CANARY: "-1"},
        {STABLE: "NaN", CANARY: "5"},
        {STABLE: "1E+60", CANARY: "0"},
    ],
)
def test_shares_that_are_no_split_of_100_are_refused(case: Case, shares: dict[str, str]) -> None:
    with pytest.raises(LoadBalancerError):
        case.balancer.set_weights(Weights.from_json(shares))
    assert case.balancer.get_weights() == split("0")


@pytest.mark.parametrize("shares", [{STABLE: "100"}, {STABLE: "95", "nobody": "5"}, {}])
def test_weights_for_other_backends_are_refused(case: Case, shares: dict[str, str]) -> None:
    with pytest.raises(UnknownTargetError):
        case.balancer.set_weights(Weights.from_json(shares))
    assert case.balancer.get_weights() == split("0")


def test_a_backend_that_the_balancer_does_not_have_is_refused_before_anything_is_written(case: Case) -> None:
    before = case.configuration()
    with pytest.raises(LoadBalancerError, match="nobody"):
        case.stranger.set_weights(Weights.split(stable=STABLE, canary="nobody", canary_percent=Decimal(5)))
    with pytest.raises(LoadBalancerError, match="nobody"):
        case.stranger.get_weights()
    assert case.configuration() == before
    assert case.balancer.get_weights() == split("0")


def test_everything_but_the_weights_stays_as_it_was(case: Case) -> None:
    before = case.configuration()
    for percent in ("10", "100", "0"):
        shift(case.balancer, split(percent))
    assert case.configuration() == before


def test_the_same_weights_again_change_nothing(case: Case) -> None:
    for _ in range(3):
        shift(case.balancer, split("5"))
    assert case.other_actor.get_weights() == split("5")


def test_a_change_by_somebody_else_is_seen(case: Case) -> None:
    shift(case.balancer, split("5"))
    case.other_actor.set_weights(split("33.3"))
    wait_until(lambda: case.balancer.get_weights() == split("33.3"), "the other actor's weights")


def test_after_a_restart_of_the_server_weights_stand_unless_a_lease_held_them(case: Case) -> None:
    shift(case.balancer, split("12.5"))
    case.restart()
    expected = split("0" if case.leased else "12.5")
    wait_until(lambda: case.balancer.get_weights() == expected, "the weights after the restart")


def test_writers_at_the_same_time_leave_the_weights_of_one_of_them(case: Case) -> None:
    asked = [split(str(percent)) for percent in range(1, 9)]
    writers = [threading.Thread(target=case.balancer.set_weights, args=[weights]) for weights in asked]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    wait_until(lambda: case.balancer.get_weights() in asked, "the weights of one writer")
    shift(case.balancer, split("0"))


@pytest.mark.slow
@pytest.mark.parametrize("name", SERVERS)
def test_no_request_fails_over_40_flips_under_load(name: str, request: pytest.FixtureRequest) -> None:
    case = CASES[name](request)
    with under_load(case.url) as load:
        load.wait_for_more(50)
        for flip in range(40):
            shift(case.balancer, split("0" if flip % 2 else "100"))
            load.wait_for_more(10)
    assert load.failures == []
    assert {status for _, status in load.answers} == {200}
    # Both sides had their turn, or the flips did not reach the traffic.
    assert {body for body, _ in load.answers} == set(BACKENDS)
    assert min(load.answers.values()) > 100


def test_the_share_set_is_the_share_that_clients_get(shop: Shop, request: pytest.FixtureRequest) -> None:
    shift(traefik_case(request).balancer, split("1"))
    answers = ask_many(shop.traefik.url, 1000)
    assert answers == {(STABLE, 200): 990, (CANARY, 200): 10}


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, Any]]:
    """Kept in the file that CANARY_SHIFT_FIGURES names, when it names one."""
    rows: dict[str, Any] = {}
    yield rows
    if place := os.environ.get("CANARY_SHIFT_FIGURES"):
        Path(place).write_text(json.dumps(rows, indent=2) + "\n")


@pytest.mark.figures
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", list(CASES))
def test_200_shifts_are_read_back_in_time_and_lose_no_request(
    name: str, request: pytest.FixtureRequest, figures: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    figures[name] = row = measured(CASES[name](request))
    with capsys.disabled():
        print(f"\n{name:<16} {json.dumps(row)}")
    assert row["p95"] < 10
    assert row.get("lost", 0) == 0

"""What every load balancer hook must do, run against every one of them. A new hook adds itself to ``CASES``."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
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
from contracts.aws_cases import (  # noqa: F401  fixtures of the cases
    AWS_CASES,
    aws,
    hosted_zone,
    running_alb,
    running_moto,
    strict_lambda,
)
from contracts.case import Case
from contracts.conftest import BACKENDS, Shop
from contracts.declared_cases import DECLARED_CASES, data_plane, kept_fakes  # noqa: F401  fixtures of the cases
from contracts.little_servers import Answer, little_server
from contracts.load_client import ask_many, under_load
from contracts.proxy_cases import (  # noqa: F401  fixtures of the cases
    PROXY_CASES,
    PROXY_SERVERS,
    backend_urls,
    kept_plus,
    running_caddy,
    running_envoy,
    running_haproxy_weights,
    running_nginx,
)
from contracts.shift_figures import measured, real
from contracts.waiting import wait_until
from demo.haproxy_server import HaproxyServer, haproxy_binary
from demo.traefik_server import traefik_binary

STABLE, CANARY = BACKENDS


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


CASES = {
    "memory": memory_case,
    "traefik": traefik_case,
    "haproxy": haproxy_case,
    **PROXY_CASES,
    **AWS_CASES,
    **DECLARED_CASES,
}
SERVERS = ("traefik", "haproxy", *PROXY_SERVERS, "aws_alb")


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
        if Decimal(percent) % case.balancer.finest_step:
            with pytest.raises(LoadBalancerError, match="multiples of"):
                case.balancer.set_weights(split(percent))
            continue
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
    theirs = split("33.3" if case.balancer.finest_step <= Decimal("0.1") else "33")
    case.other_actor.set_weights(theirs)
    wait_until(lambda: case.balancer.get_weights() == theirs, "the other actor's weights")


def test_after_a_restart_weights_stand_unless_a_lease_or_only_the_memory_held_them(case: Case) -> None:
    share = "12" if Decimal("12.5") % case.balancer.finest_step else "12.5"
    shift(case.balancer, split(share))
    case.restart()
    expected = split("0" if case.leased or case.forgets else share)
    wait_until(lambda: case.balancer.get_weights() == expected, "the weights after the restart")


def write_or_be_refused(balancer: LoadBalancer, weights: Weights) -> None:
    """A load balancer that notices that somebody was faster may say so."""
    with suppress(LoadBalancerError):
        balancer.set_weights(weights)


def test_writers_at_the_same_time_leave_the_weights_of_one_of_them(case: Case) -> None:
    asked = [split(str(percent)) for percent in range(1, 9)]
    writers = [threading.Thread(target=write_or_be_refused, args=[case.balancer, weights]) for weights in asked]
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
    flips = 40
    with under_load(case.url, ask_again=case.closes_idle) as load:
        load.wait_for_more(50)
        for flip in range(flips):
            shift(case.balancer, split("0" if flip % 2 else "100"))
            load.wait_for_more(10)
    if case.resets:
        assert len(load.failures) == load.unanswered <= flips, load.failures
    else:
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
    case = CASES[name](request)
    figures[name] = row = measured(case)
    with capsys.disabled():
        print(f"\n{name:<16} {json.dumps(row)}")
    assert row["p95"] < 10
    assert row.get("lost", 0) <= (row["shifts"] if case.resets else 0)

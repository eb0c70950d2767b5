"""What every load balancer hook must do, run against every one of them: ``every_case.py`` says where they come from."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from canary_release.core.ports import LoadBalancer
from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from contracts.case import Case
from contracts.every_case import CASES, IN_TRAFFIC
from contracts.load_client import ask_many, under_load
from contracts.shift_figures import in_words, measured
from contracts.shop import BACKENDS, Shop
from contracts.waiting import wait_until

STABLE, CANARY = BACKENDS


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
@pytest.mark.parametrize("name", IN_TRAFFIC)
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
    shift(CASES["traefik"](request).balancer, split("1"))
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
# The memory balancer is for trying things out: it moves no traffic, and nothing of it is a figure.
@pytest.mark.parametrize("name", [name for name in CASES if name != "memory"])
def test_200_shifts_are_read_back_in_time_and_lose_no_request(
    name: str, request: pytest.FixtureRequest, figures: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name](request)
    figures[name] = row = measured(name, case)
    with capsys.disabled():
        print(f"\n{in_words(row)}", end=" ")
    assert row["shifts"] == 200
    assert row["p95"] < 10
    assert row.get("lost", 0) <= (row["shifts"] if case.resets else 0)

"""What is Caddy's own: entity tags, weights that stay small, and handlers that are no weighted proxy."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from typing import Any
from urllib.request import Request, urlopen

import pytest

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import connections
from canary_release.hooks.caddy import CaddyHook
from contracts.little_servers import Answer, LittleServer, little_server
from contracts.load_client import ask_many
from demo.caddy_server import CaddyServer

BLUE, GREEN = "shop-blue", "shop-green"
DIALS = {BLUE: "127.0.0.1:1", GREEN: "127.0.0.1:2"}


def split(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def hook_of(upstreams: dict[str, str]) -> CaddyHook:
    return CaddyHook("caddy", (BLUE, GREEN), CaddyHook.Options(route="shop", upstreams=upstreams))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaddyServer]:
    with ExitStack() as started:
        urls = {name: started.enter_context(little_server(Answer(name.encode()))).url for name in DIALS}
        yield started.enter_context(CaddyServer(tmp_path_factory.mktemp("caddy"), urls))


@pytest.fixture
def caddy(server: CaddyServer, monkeypatch: pytest.MonkeyPatch) -> CaddyServer:
    """A real Caddy with everything on blue, and the connection ``caddy``."""
    monkeypatch.setenv("AIRFLOW_CONN_CADDY", json.dumps(server.connection()))
    hook_of(server.upstreams).set_weights(split("0"))
    return server


def patch(caddy: CaddyServer, path: str, value: object) -> None:
    headers = {"Content-Type": "application/json"}
    request = Request(f"{caddy.admin_url}{path}", json.dumps(value).encode(), headers, method="PATCH")
    with urlopen(request, timeout=5) as answer:
        answer.read()


def test_a_canary_of_one_percent_has_its_turn_within_a_hundred_requests(caddy: CaddyServer) -> None:
    hook_of(caddy.upstreams).set_weights(split("1"))
    assert ask_many(caddy.url, 300) == {(BLUE, 200): 297, (GREEN, 200): 3}


def test_a_change_by_somebody_else_in_the_middle_is_seen_and_the_write_tried_again(
    caddy: CaddyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = hook_of(caddy.upstreams)
    policy = "/id/shop/load_balancing/selection_policy"
    theirs = iter([[3, 1], [7, 1]])
    read = CaddyHook._split

    def read_and_be_overtaken(self: CaddyHook) -> Any:
        found = read(self)
        if weights := next(theirs, None):
            patch(caddy, policy, {"policy": "weighted_round_robin", "weights": weights})
        return found

    monkeypatch.setattr(CaddyHook, "_split", read_and_be_overtaken)
    hook.set_weights(split("5"))
    monkeypatch.undo()
    monkeypatch.setenv("AIRFLOW_CONN_CADDY", json.dumps(caddy.connection()))
    assert hook.get_weights() == split("5")


def test_somebody_who_never_stops_changing_it_is_an_error(caddy: CaddyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CaddyHook, "_exchanged", lambda *_: False)
    with pytest.raises(LoadBalancerError, match="Somebody else changed Caddy's handler shop 5 times"):
        hook_of(caddy.upstreams).set_weights(split("5"))


def test_an_id_that_caddy_does_not_have_is_an_unknown_target(caddy: CaddyServer) -> None:
    hook = CaddyHook("caddy", (BLUE, GREEN), CaddyHook.Options(route="shoe", upstreams=caddy.upstreams))
    with pytest.raises(UnknownTargetError, match="unknown object ID 'shoe'"):
        hook.set_weights(split("5"))


def handler(tag: str = '"/config/x 1"', **changes: object) -> Answer:
    policy = {"policy": "weighted_round_robin", "weights": [1, 0]}
    body = {
        "handler": "reverse_proxy",
        "upstreams": [{"dial": dial} for dial in DIALS.values()],
        "load_balancing": {"selection_policy": policy},
        **changes,
    }
    return Answer(json.dumps(body).encode(), headers={"Etag": tag} if tag else {})


def by(policy: str, *weights: int) -> dict[str, object]:
    return {"selection_policy": {"policy": policy, "weights": list(weights)}}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[LittleServer]:
    with little_server(Answer(b"nothing", status=404), {"/id/shop": handler()}) as server:
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": server.port}
        monkeypatch.setenv("AIRFLOW_CONN_CADDY", json.dumps(connection))
        yield server


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (handler(load_balancing=by("round_robin")), LoadBalancerError, "must split by weighted_round_robin"),
        (handler(load_balancing={}), LoadBalancerError, "must split by weighted_round_robin"),
        (handler(load_balancing=by("weighted_round_robin", 5)), LoadBalancerError, "a weight for each upstream"),
        (handler(load_balancing=by("weighted_round_robin", 5, -1)), LoadBalancerError, "a weight for each upstream"),
        (handler(load_balancing=by("weighted_round_robin", 0, 0)), LoadBalancerError, "share out nothing"),
        (handler(upstreams=[{"dial": DIALS[BLUE]}]), UnknownTargetError, "no upstream for shop-green; it dials"),
        (handler(upstreams=[{"dial": one} for one in (*DIALS.values(), "c:3")]), LoadBalancerError, "nobody else"),
        (handler(upstreams=[{"dial": one} for one in (*DIALS.values(), DIALS[BLUE])]), LoadBalancerError, "once"),
        (handler(upstreams=[7]), LoadBalancerError, "no reverse_proxy handler"),
        (handler(tag=""), LoadBalancerError, "no reverse_proxy handler"),
        (Answer(b'{"handler": "file_server"}'), LoadBalancerError, "no reverse_proxy handler"),
        (Answer(b"[]"), LoadBalancerError, "no reverse_proxy handler"),
        (Answer(b"<html>"), LoadBalancerError, "no reverse_proxy handler"),
        (Answer(b"boom", status=500), LoadBalancerError, "answered 500: boom"),
    ],
)
def test_a_handler_that_is_no_weighted_proxy_of_the_two_sides_is_an_error(
    api: LittleServer, answer: Answer, error: type[Exception], words: str
) -> None:
    assert hook_of(DIALS).get_weights() == split("0")
    api.answers["/id/shop"] = answer
    with pytest.raises(LoadBalancerError, match=words) as failed:
        hook_of(DIALS).get_weights()
    assert type(failed.value) is error


def test_a_side_without_an_upstream_in_the_release_file_is_an_error_that_says_where_to_look(api: LittleServer) -> None:
    with pytest.raises(UnknownTargetError, match=r"no upstream for shop-green.*`upstreams` in the release file"):
        hook_of({BLUE: DIALS[BLUE]}).get_weights()


def test_an_api_that_hangs_is_an_error(api: LittleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.1)
    api.answers["/id/shop"] = Answer(hold=30)
    with pytest.raises(LoadBalancerError, match="in time"):
        hook_of(DIALS).get_weights()

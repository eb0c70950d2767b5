"""Apache's balancer manager as it tells its state, from a little server: what a hook must not take for a split."""

import json
from collections.abc import Iterator
from decimal import Decimal

import pytest

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.access_log import AccessLogSource
from canary_release.hooks.apache import ApacheHook
from contracts.apache_cases import ApacheServer, running_apache  # noqa: F401  the second is a fixture
from contracts.little_servers import Answer, LittleServer, little_server
from contracts.load_client import ask_many
from contracts.proxy_cases import backend_urls  # noqa: F401  a fixture
from contracts.shop import BACKENDS as SHOP
from contracts.waiting import wait_until

BACKENDS = ("blue", "green")


def manager(*workers: tuple[str, str, str], sticky: str = "", balancer: str = "shop") -> bytes:
    """What Apache 2.4.68 answers to ?xml=1, without what the hook does not read. workers: route, factor, status."""
    told = "".join(
        f"<httpd:worker><httpd:name>http://10.0.0.{place}:80</httpd:name><httpd:loadfactor>{factor}</httpd:loadfactor>"
        f"<httpd:status>{status}</httpd:status><httpd:route>{route}</httpd:route></httpd:worker>"
        for place, (route, factor, status) in enumerate(workers)
    )
    kept = f"<httpd:stickysession>{sticky}</httpd:stickysession>" if sticky else ""
    return (
        "<?xml version='1.0' encoding='UTF-8' ?><httpd:manager xmlns:httpd='http://httpd.apache.org'><httpd:balancers>"
        f"<httpd:balancer><httpd:name>balancer://{balancer}</httpd:name><httpd:nonce>84618770</httpd:nonce>{kept}"
        f"<httpd:workers>{told}</httpd:workers></httpd:balancer></httpd:balancers></httpd:manager>"
    ).encode()


@pytest.fixture
def apache(monkeypatch: pytest.MonkeyPatch) -> Iterator[LittleServer]:
    with little_server(Answer(manager(("blue", "95.00", "Init Ok "), ("green", "5.00", "Init Ok ")))) as server:
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": server.port}
        monkeypatch.setenv("AIRFLOW_CONN_APACHE", json.dumps(connection))
        yield server


def hook() -> ApacheHook:
    return ApacheHook("apache", BACKENDS, ApacheHook.Options(balancer="shop"))


@pytest.mark.parametrize(
    ("blue", "green", "share"),
    [
        (("95.00", "Init Ok "), ("5.00", "Init Ok "), "5"),
        (("100.00", "Init Ok "), ("1.00", "Init Drn Ok "), "0"),
        (("100.00", "Init Ok "), ("40.00", "Init Dis "), "0"),
        (("1.00", "Init Drn "), ("7.00", "Init Ok "), "100"),
        (("50.00", "Init Ok "), ("50.00", "Init Err "), "50"),  # its share still is its share, and will be again
    ],
)
def test_factors_and_states_are_shares(
    apache: LittleServer, blue: tuple[str, str], green: tuple[str, str], share: str
) -> None:
    apache.default = Answer(manager(("blue", *blue), ("green", *green)))
    assert hook().get_weights()["green"] == Decimal(share)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (manager(("blue", "95.00", "Ok"), ("green", "5.00", "Ok"), sticky="JSESSIONID"), "sticky sessions"),
        (manager(("blue", "95.00", "Ok"), ("green", "5.00", "Stop ")), "has green as Stop"),
        (manager(("blue", "95.00", "Ok"), ("green", "5.00", "Stby ")), "has green as Stby"),
        (manager(("blue", "95.00", "Ok"), ("green", "5.00", "Ok"), ("red", "1.00", "Ok")), "with others, too"),
        (manager(("blue", "95.00", "Ok"), ("green", "5.00", "Ok"), ("green", "1.00", "Ok")), "with others, too"),
        (manager(("blue", "95.00", "Ok"), ("green", "many", "Ok")), "no number"),
        (b"<html><body>Load Balancer Manager</body></html>", "does not exist"),
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>", "does not answer as a balancer manager"),
    ],
)
def test_what_is_no_split_of_two_is_an_error_in_words(apache: LittleServer, told: bytes, words: str) -> None:
    apache.default = Answer(told)
    for act in (hook().get_weights, lambda: hook().set_weights(Weights.from_json({"blue": "90", "green": "10"}))):
        with pytest.raises(LoadBalancerError, match=words):
            act()


def test_two_sides_that_get_nothing_are_no_shares(apache: LittleServer) -> None:
    apache.default = Answer(manager(("blue", "1.00", "Drn"), ("green", "1.00", "Drn")))
    with pytest.raises(LoadBalancerError, match="share out nothing"):
        hook().get_weights()


def test_a_member_without_its_route_is_an_unknown_target_that_lists_the_known(apache: LittleServer) -> None:
    apache.default = Answer(manager(("blue", "95.00", "Ok"), ("", "5.00", "Ok")))
    with pytest.raises(UnknownTargetError, match="route=green; it has , blue"):
        hook().get_weights()


def test_apaches_own_log_says_what_the_clients_saw(
    running_apache: ApacheServer,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_APACHE", json.dumps(running_apache.connection))
    log = {"conn_type": "generic", "extra": {"file": str(running_apache.access_log)}}
    monkeypatch.setenv("AIRFLOW_CONN_APACHE_LOG", json.dumps(log))
    balancer = ApacheHook("apache", SHOP, ApacheHook.Options(balancer="shop"))
    balancer.set_weights(Weights.split(stable=SHOP[0], canary=SHOP[1], canary_percent=Decimal(25)))
    source = AccessLogSource("apache_log", *SHOP, AccessLogSource.Options(time_unit="milliseconds"))
    _, cursor = source.read(None)

    def forwarded() -> int:
        """Lines of requests that reached a backend; those to the manager come in the same log, and a little late."""
        lines = running_apache.access_log.read_text().splitlines()
        return sum(any(f'"backend": "{name}"' in line for name in SHOP) for line in lines)

    before = forwarded()
    answers = ask_many(running_apache.url, 100)
    assert answers == {(SHOP[0], 200): 75, (SHOP[1], 200): 25}
    wait_until(lambda: forwarded() >= before + 100, "100 lines in the log")
    (window,), _ = source.read(cursor)
    assert window.broken is None
    assert window.stable is not None
    assert window.canary is not None
    assert (window.stable.requests, window.canary.requests) == (75, 25)
    assert sum(window.stable.buckets) == 75

"""What is Envoy's own: files it refuses, versions, its runtime, and answers that are none of an Envoy."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import connections
from canary_release.hooks.envoy import EnvoyHook
from contracts.little_servers import Answer, LittleServer, little_server
from contracts.load_client import ask_many
from contracts.waiting import wait_until
from demo.envoy_server import PREFIX, EnvoyServer, route_configuration
from demo.free_ports import free_port

BLUE, GREEN = "shop-blue", "shop-green"
URLS = {BLUE: "http://127.0.0.1:1", GREEN: "http://127.0.0.1:2"}
DUMPS = ("/config_dump?resource=dynamic_route_configs", "/config_dump?resource=static_route_configs")
BY_HAND = """# kept by the search team
version_info: "v7"
resources:
  - "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration
    name: routes
    virtual_hosts:
      - name: all
        domains: ["*"]
        routes:
          - {name: other, match: {prefix: /o}, route: {cluster: shop-blue}}
          - name: shop     # the canary's
            match: {prefix: /}
            route:
              weighted_clusters:
                clusters:
                  - {name: shop-blue, weight: 10000}   # the old one
                  - name: shop-green
                    weight: 0
"""


def split(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def hook_of(mode: str = "file", route: str = "shop") -> EnvoyHook:
    return EnvoyHook("envoy", (BLUE, GREEN), EnvoyHook.Options.model_validate({"route": route, "mode": mode}))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyServer]:
    with ExitStack() as started:
        urls = {name: started.enter_context(little_server(Answer(name.encode()))).url for name in URLS}
        yield started.enter_context(EnvoyServer(tmp_path_factory.mktemp("envoy"), urls, runtime=True))


@pytest.fixture
def envoy(server: EnvoyServer, monkeypatch: pytest.MonkeyPatch) -> EnvoyServer:
    """A real Envoy with everything on blue, no keys in its runtime, and the connection ``envoy``."""
    monkeypatch.setenv("AIRFLOW_CONN_ENVOY", json.dumps(server.connection()))
    server.reset_file()
    server.reset_runtime()
    wait_until(lambda: hook_of().get_weights() == split("0"), "the first routes")
    return server


def runtime_modify(envoy: EnvoyServer, query: str) -> None:
    with urlopen(Request(f"{envoy.admin_url}/runtime_modify?{query}", method="POST"), timeout=5) as answer:
        answer.read()


def test_a_file_that_envoy_refuses_is_an_error_at_once_and_put_back(envoy: EnvoyServer) -> None:
    whole = json.loads(envoy.first_routes)
    refused = {"name": "gone", "match": {"prefix": "/gone"}, "route": {"cluster": "no-such-cluster"}}
    whole["resources"][0]["virtual_hosts"][0]["routes"].insert(0, refused)
    text = json.dumps(whole)
    envoy.route_file.write_text(text)
    with pytest.raises(LoadBalancerError, match=r"refused .*routes\.json"):
        hook_of().set_weights(split("5"))
    assert envoy.route_file.read_text() == text
    assert hook_of().get_weights() == split("0")


def test_a_cluster_that_does_not_exist_is_an_error_even_where_envoy_takes_it(envoy: EnvoyServer) -> None:
    whole = json.loads(envoy.first_routes.replace(GREEN, "shop-red"))
    whole["resources"][0]["validate_clusters"] = False
    envoy.first_routes, before = json.dumps(whole), envoy.first_routes
    try:
        envoy.reset_file()
    finally:
        envoy.first_routes = before
    hook = EnvoyHook("envoy", (BLUE, "shop-red"), EnvoyHook.Options(route="shop"))

    def said() -> str:
        with pytest.raises(UnknownTargetError) as failed:
            hook.get_weights()
        return str(failed.value)

    wait_until(lambda: "no such cluster" in said(), "Envoy takes the file")


def test_keys_of_the_runtime_are_read_before_the_routes_own_weights(envoy: EnvoyServer) -> None:
    runtime_modify(envoy, f"{PREFIX}.{BLUE}=3&{PREFIX}.{GREEN}=1")
    assert hook_of().get_weights() == split("25")
    # One key alone changes the sum: 10,000 from the route's own weights and 1 from the runtime.
    runtime_modify(envoy, f"{PREFIX}.{BLUE}=")
    assert hook_of().get_weights()[GREEN] == Decimal(100) - hook_of().get_weights()[BLUE] < Decimal("0.01")


@pytest.mark.parametrize(("value", "words"), [("0", "share out nothing"), ("abc", "no whole number")])
def test_a_runtime_that_is_no_split_is_an_error(envoy: EnvoyServer, value: str, words: str) -> None:
    runtime_modify(envoy, f"{PREFIX}.{BLUE}={value}&{PREFIX}.{GREEN}=0")
    with pytest.raises(LoadBalancerError, match=words):
        hook_of("runtime").get_weights()


def test_clients_get_a_tenth_of_a_percent_and_not_ten_percent(envoy: EnvoyServer) -> None:
    hook_of("runtime").set_weights(split("0.1"))
    answers = ask_many(envoy.url, 1500)
    # 1.5 are expected, and 150 if Envoy took the number for a percentage.
    assert answers[(GREEN, 200)] < 15


def test_a_file_kept_by_hand_differs_in_weights_and_version_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(BY_HAND)
    nobody = {"conn_type": "http", "host": "127.0.0.1", "port": free_port(), "extra": {"file": str(file)}}
    monkeypatch.setenv("AIRFLOW_CONN_ENVOY", json.dumps(nobody))
    # An admin interface that cannot be reached does not stop a way back.
    hook_of().set_weights(split("2.5"))
    expected = BY_HAND.replace("weight: 10000", "weight: 9750").replace("weight: 0", "weight: 250")
    assert file.read_text() == expected.replace('"v7"', '"v7+canary.1"')
    hook_of().set_weights(split("0"))
    assert file.read_text() == BY_HAND.replace('"v7"', '"v7+canary.2"')


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda text: text.replace("name: shop ", "name: shoe "), UnknownTargetError, "no route named shop"),
        (lambda text: text.replace("name: other", "name: shop"), UnknownTargetError, "several routes named shop"),
        (lambda text: text.replace("name: shop-green", "name: shop-red"), UnknownTargetError, "no cluster shop-green"),
        (lambda text: text.replace('version_info: "v7"', ""), LoadBalancerError, "no version_info"),
        (lambda text: text.replace(", weight: 10000", ""), LoadBalancerError, "its own name and weight"),
        (lambda text: text + "                  - {name: shop-red, weight: 1}\n", LoadBalancerError, "others, too"),
        (lambda text: text.replace("10000", "&w 10000").replace("weight: 0", "weight: *w"), LoadBalancerError, "alone"),
        (lambda text: "[" + text, LoadBalancerError, "neither YAML nor JSON"),
        (lambda text: "", LoadBalancerError, "no version_info"),
    ],
)
def test_a_file_in_which_the_two_weights_cannot_be_changed_alone_is_left_as_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[str], str],
    error: type[Exception],
    words: str,
) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(change(BY_HAND))
    connection = {"conn_type": "http", "host": "127.0.0.1", "port": free_port(), "extra": {"file": str(file)}}
    monkeypatch.setenv("AIRFLOW_CONN_ENVOY", json.dumps(connection))
    with pytest.raises(error, match=words):
        hook_of().set_weights(split("5"))
    assert file.read_text() == change(BY_HAND)


def test_numbered_versions_count_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(BY_HAND.replace('"v7"', "41"))
    connection = {"conn_type": "http", "host": "127.0.0.1", "port": free_port(), "extra": {"file": str(file)}}
    monkeypatch.setenv("AIRFLOW_CONN_ENVOY", json.dumps(connection))
    hook_of().set_weights(split("5"))
    assert 'version_info: "42"' in file.read_text()


@pytest.mark.parametrize("extra", [{}, {"file": "relative.yaml"}, {"file": 3}, {"fiel": "/x.yaml"}])
def test_a_connection_without_a_usable_file_is_refused(extra: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_ENVOY", json.dumps({"conn_type": "http", "host": "lb", "extra": extra}))
    with pytest.raises(ConnectionSettingsError, match="file"):
        hook_of().set_weights(split("5"))


def dump(change: Callable[[dict[str, Any]], object] = lambda _: None) -> Answer:
    """A dump of the routes, after ``change`` to the one weighted cluster block."""
    whole = route_configuration("shop", URLS)["resources"][0]
    change(whole["virtual_hosts"][0]["routes"][0]["route"]["weighted_clusters"])
    return Answer(json.dumps({"configs": [{"version_info": "1", "route_config": whole}]}).encode())


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[LittleServer]:
    answers = {DUMPS[0]: dump(), DUMPS[1]: Answer(b"{}")}
    stats = {"stats": [{"name": f"cluster.{name}.membership_total", "value": 1} for name in (BLUE, GREEN)]}
    with little_server(Answer(json.dumps(stats).encode()), answers) as server:
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": server.port}
        monkeypatch.setenv("AIRFLOW_CONN_ENVOY", json.dumps(connection))
        yield server


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b'{"configs": []}'), "no route named shop"),
        (dump(lambda split: split["clusters"].pop()), "no cluster shop-green"),
        (dump(lambda split: split["clusters"].append({"name": "shop-red"})), "others, too"),
        (dump(lambda split: split["clusters"][0].update(weight=0)), "share out nothing"),
        (Answer(b'{"configs": [1]}'), "as Envoy does"),
        (Answer(b"[]"), "as Envoy does"),
        (Answer(b"<html>"), "not JSON"),
        (Answer(b"boom", status=500), "answered 500: boom"),
    ],
)
def test_a_dump_that_says_anything_else_is_an_error(api: LittleServer, answer: Answer, words: str) -> None:
    assert hook_of().get_weights() == split("0")
    api.answers[DUMPS[0]] = answer
    with pytest.raises(LoadBalancerError, match=words):
        hook_of().get_weights()


def test_two_routes_of_one_name_with_different_weights_are_an_error(api: LittleServer) -> None:
    api.answers[DUMPS[1]] = dump(lambda split: split["clusters"][1].update(weight=5))
    with pytest.raises(LoadBalancerError, match="different weights"):
        hook_of().get_weights()


def test_a_route_that_does_not_follow_the_runtime_is_refused(api: LittleServer) -> None:
    with pytest.raises(LoadBalancerError, match="no runtime_key_prefix"):
        hook_of("runtime").set_weights(split("5"))


def test_an_admin_interface_that_hangs_is_an_error(api: LittleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.1)
    api.answers[DUMPS[0]] = Answer(hold=30)
    with pytest.raises(LoadBalancerError, match="in time"):
        hook_of().get_weights()

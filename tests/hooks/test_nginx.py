"""What is nginx's own: njs and its file, reloads and what they refuse, and endpoints that tell no shares."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from decimal import Decimal
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import connections
from canary_release.hooks.nginx import NginxHook
from contracts.little_servers import Answer, LittleServer, little_server
from contracts.load_client import ask_many
from contracts.waiting import wait_until
from demo.free_ports import free_port
from demo.nginx_server import NginxServer

BLUE, GREEN = "shop-blue", "shop-green"


def split(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def hook_of(mode: str = "njs", backends: tuple[str, str] = (BLUE, GREEN)) -> NginxHook:
    return NginxHook("nginx", backends, NginxHook.Options.model_validate({"route": "shop", "mode": mode}))


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str]]:
    with ExitStack() as started:
        yield {name: started.enter_context(little_server(Answer(name.encode()))).url for name in (BLUE, GREEN)}


@pytest.fixture
def njs(tmp_path: Path, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[NginxServer]:
    with NginxServer(tmp_path, urls) as server:
        monkeypatch.setenv("AIRFLOW_CONN_NGINX", json.dumps(server.connection()))
        yield server


@pytest.fixture
def reload(tmp_path: Path, urls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[NginxServer]:
    with NginxServer(tmp_path, urls, "reload") as server:
        monkeypatch.setenv("AIRFLOW_CONN_NGINX", json.dumps(server.connection()))
        yield server


def put(server: NginxServer, body: str, method: str = "PUT") -> tuple[int, str]:
    parts = urlsplit(server.shares_url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    connection.request(method, parts.path, body)
    answer = connection.getresponse()
    said = answer.status, answer.read().decode()
    connection.close()
    return said


def test_njs_takes_nothing_but_a_split_between_its_two_sides(njs: NginxServer) -> None:
    hook_of().set_weights(split("5"))
    for body in (
        "",
        "[]",
        "null",
        "{",
        f'{{"{BLUE}": 10000}}',
        f'{{"{BLUE}": 9000, "{GREEN}": 999}}',
        f'{{"{BLUE}": 10001, "{GREEN}": -1}}',
        f'{{"{BLUE}": 0.5, "{GREEN}": 9999.5}}',
        f'{{"{BLUE}": "9000", "{GREEN}": 1000}}',
        f'{{"{BLUE}": 9000, "{GREEN}": 500, "shop-red": 500}}',
        f'{{"{BLUE}": 9000, "shop-red": 1000}}',
    ):
        status, said = put(njs, body)
        assert status == 400, body
        assert "add up to 10000" in said
    assert put(njs, "{}", "POST")[0] == 405
    assert hook_of().get_weights() == split("5")


def test_njs_keeps_the_shares_of_the_very_last_moment_through_a_crash(njs: NginxServer) -> None:
    hook_of().set_weights(split("5"))
    hook_of().set_weights(split("0.3"))
    njs.process.kill_session()
    njs.process.stop()
    njs.restart()
    assert hook_of().get_weights() == split("0.3")


def test_njs_with_a_file_that_is_none_of_its_own_begins_with_everything_on_the_first_side(njs: NginxServer) -> None:
    for text in ("", "{", '{"red": 5}', f'{{"{BLUE}": 1, "{GREEN}": 1}}'):
        njs.process.stop()
        (njs.kept / "shop.json").write_text(text)
        njs.restart()
        assert hook_of().get_weights() == split("0")


def test_njs_that_cannot_keep_the_shares_says_so_and_that_they_are_in_force(njs: NginxServer) -> None:
    njs.kept.rename(njs.kept.with_name("elsewhere"))
    with pytest.raises(LoadBalancerError, match="answered 500: the shares are in force, but will not stand"):
        hook_of().set_weights(split("5"))
    assert hook_of().get_weights() == split("5")


def test_clients_get_the_share_that_was_set(njs: NginxServer) -> None:
    hook_of().set_weights(split("20"))
    canary = ask_many(njs.url, 1000)[(GREEN, 200)]
    # Six standard deviations of a binomial draw.
    assert canary == pytest.approx(200, abs=76)


def test_after_a_reload_every_new_connection_follows_the_new_shares(reload: NginxServer) -> None:
    for percent, expected in (("100", GREEN), ("0", BLUE)) * 3:
        hook_of("reload").set_weights(split(percent))
        assert set(ask_many(reload.url, 20)) == {(expected, 200)}


def test_the_same_shares_again_cost_no_reload(reload: NginxServer) -> None:
    hook_of("reload").set_weights(split("5"))
    wait_until(lambda: len(reload.process.session_members()) == 3, "only the master and its two new workers")
    before = reload.process.session_members()
    hook_of("reload").set_weights(split("5"))
    assert reload.process.session_members() == before


def test_a_key_of_ones_own_stays(reload: NginxServer) -> None:
    text = reload.split_file.read_text()
    reload.split_file.write_text(text.replace("split_clients $request_id", 'split_clients "$cookie_user$remote_addr"'))
    hook_of("reload").set_weights(split("5"))
    assert (
        'split_clients "$cookie_user$remote_addr" $canary_shop {\n    5.00% shop-green;'
        in reload.split_file.read_text()
    )


def test_a_configuration_that_nginx_does_not_accept_is_not_loaded_and_the_file_put_back(reload: NginxServer) -> None:
    before = reload.split_file.read_text()
    reload.config.write_text(reload.config.read_text() + "\nnonsense;\n")
    with pytest.raises(LoadBalancerError, match=r'does not accept .*unknown directive "nonsense"'):
        hook_of("reload").set_weights(split("5"))
    assert reload.split_file.read_text() == before
    assert hook_of("reload").get_weights() == split("0")


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("* shop-blue;", "5% shop-green;\n    * shop-blue;", LoadBalancerError, "edited beyond its key"),
        ("# Written", "# Kept", LoadBalancerError, "edited beyond its key"),
        ("split_clients", "split", LoadBalancerError, "edited beyond its key"),
        ("shop-green", "shop-red", UnknownTargetError, "no share for shop-green; it has shop-blue, shop-red"),
    ],
)
def test_a_file_that_was_edited_is_left_as_it_is(
    reload: NginxServer, old: str, new: str, error: type[Exception], words: str
) -> None:
    text = reload.split_file.read_text().replace(old, new)
    reload.split_file.write_text(text)
    with pytest.raises(error, match=words):
        hook_of("reload").set_weights(split("5"))
    assert reload.split_file.read_text() == text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"binary": "/nowhere/nginx"}, "cannot be run"),
        ({"pid_file": "/nowhere/nginx.pid"}, "names no running process"),
    ],
)
def test_an_nginx_that_cannot_be_reloaded_keeps_its_shares_and_its_file(
    reload: NginxServer, changes: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = reload.connection()
    connection["extra"] |= changes
    monkeypatch.setenv("AIRFLOW_CONN_NGINX", json.dumps(connection))
    before = reload.split_file.read_text()
    with pytest.raises(LoadBalancerError, match=words):
        hook_of("reload").set_weights(split("5"))
    assert reload.split_file.read_text() == before
    assert hook_of("reload").get_weights() == split("0")


def test_a_process_that_only_got_nginxs_number_is_never_signalled(
    reload: NginxServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pid_file = tmp_path / "another.pid"
    pid_file.write_text(str(os.getpid()))
    connection = reload.connection()
    connection["extra"]["pid_file"] = str(pid_file)
    monkeypatch.setenv("AIRFLOW_CONN_NGINX", json.dumps(connection))
    with pytest.raises(LoadBalancerError, match="is no nginx"):
        hook_of("reload").set_weights(split("5"))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[LittleServer]:
    with little_server(Answer(b"nothing here", status=404)) as server:
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": server.port}
        monkeypatch.setenv("AIRFLOW_CONN_NGINX", json.dumps(connection))
        yield server


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (Answer(b"{}"), UnknownTargetError, "no share for shop-blue and shop-green; it has none"),
        (Answer(b'{"shop-blue": 1}'), UnknownTargetError, "no share for shop-green"),
        (Answer(b'{"shop-blue": 1, "shop-green": 1, "shop-red": 1}'), LoadBalancerError, "others, too"),
        (Answer(b'{"shop-blue": 0, "shop-green": 0}'), LoadBalancerError, "share out nothing"),
        (Answer(b'{"shop-blue": true, "shop-green": 0}'), LoadBalancerError, "shares by backend"),
        (Answer(b'{"shop-blue": -1, "shop-green": 1}'), LoadBalancerError, "shares by backend"),
        (Answer(b"[]"), LoadBalancerError, "shares by backend"),
        (Answer(b"<html>"), LoadBalancerError, "not JSON"),
        (Answer(b"boom", status=502), LoadBalancerError, "answered 502: boom"),
        (Answer(b"nothing here", status=404), UnknownTargetError, "answered 404"),
    ],
)
def test_an_endpoint_that_tells_no_shares_is_an_error(
    api: LittleServer, answer: Answer, error: type[Exception], words: str
) -> None:
    api.answers["/canary/shop"] = answer
    with pytest.raises(LoadBalancerError, match=words) as failed:
        hook_of().get_weights()
    assert type(failed.value) is error


def test_an_nginx_that_hangs_or_is_gone_is_an_error(api: LittleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.1)
    api.answers["/canary/shop"] = Answer(hold=30)
    with pytest.raises(LoadBalancerError, match="in time"):
        hook_of().get_weights()
    gone = {"conn_type": "http", "host": "127.0.0.1", "port": free_port()}
    monkeypatch.setenv("AIRFLOW_CONN_NGINX", json.dumps(gone))
    with pytest.raises(LoadBalancerError, match="cannot be reached"):
        hook_of().get_weights()


def test_a_reload_without_a_file_in_the_connection_is_refused(api: LittleServer) -> None:
    with pytest.raises(ConnectionSettingsError, match="needs `file`"):
        hook_of("reload").set_weights(split("5"))

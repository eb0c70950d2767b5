"""Connections as checked settings, and servers that misbehave: every failure is one sentence without a secret."""

import json
from collections.abc import Callable

import pytest

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.hooks import connections
from canary_release.hooks.connections import HttpServer, find_connection, http_server
from contracts.little_servers import Answer, little_server
from demo.free_ports import free_port

Connect = Callable[[object], HttpServer]
SECRET = "correct-horse-battery"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    def to(connection: object) -> HttpServer:
        text = connection if isinstance(connection, str) else json.dumps(connection)
        monkeypatch.setenv("AIRFLOW_CONN_LB", text)
        return http_server(find_connection("lb"), LoadBalancerError, missing=UnknownTargetError)

    return to


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        ("http://lb:8080", "http://lb:8080"),
        ("http://lb:8080/https", "https://lb:8080"),
        ("https://lb", "https://lb"),
        ({"conn_type": "http", "host": "https://lb/base/", "port": 9}, "https://lb:9/base"),
        ({"conn_type": "http", "host": "http://[::1]:81"}, "http://[::1]:81"),
    ],
)
def test_a_connection_names_a_server(connect: Connect, connection: object, url: str) -> None:
    assert connect(connection).base_url == url


@pytest.mark.parametrize(
    "connection",
    [
        {"conn_type": "aws", "host": "lb", "password": SECRET},
        {"conn_type": "http", "password": SECRET},
        {"conn_type": "http", "host": "ftp://lb", "password": SECRET},
        {"conn_type": "http", "host": "lb", "schema": "file", "password": SECRET},
        {"conn_type": "http", "host": f"http://me:{SECRET}@lb"},
        {"conn_type": "http", "host": f"http://lb?token={SECRET}"},
        {"conn_type": "http", "host": "http://lb:port", "password": SECRET},
        {"conn_type": "http", "host": "l b", "password": SECRET},
        {"conn_type": "http", "host": "lb", "extra": {"header": {"key": SECRET}}},
        {"conn_type": "http", "host": "lb", "extra": {"headers": {"key": {"deep": SECRET}}}},
        {"conn_type": "http", "host": "lb", "extra": [SECRET]},
        '{"conn_type": "http", "password": "' + SECRET,
    ],
)
def test_a_connection_that_cannot_be_used_is_named_without_its_secrets(connect: Connect, connection: object) -> None:
    with pytest.raises(ConnectionSettingsError, match="lb") as refused:
        connect(connection)
    assert SECRET not in str(refused.value)


def test_a_connection_that_nobody_made_says_how_to_make_it() -> None:
    with pytest.raises(ConnectionSettingsError, match="AIRFLOW_CONN_NOWHERE"):
        find_connection("nowhere")


def test_login_password_and_headers_reach_the_server_and_the_extra_does_not(connect: Connect) -> None:
    with little_server(Answer(b'{"a": 1}')) as server:
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": server.port, "login": "me", "password": SECRET}
        assert connect({**connection, "extra": {"headers": {"X-Api-Key": "k"}}}).get_json("/x") == {"a": 1}
        assert server.headers["Authorization"].startswith("Basic ")
        assert server.headers["X-Api-Key"] == "k"
        assert "headers" not in {name.lower() for name in server.headers}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b"oops: " + SECRET.encode(), status=500), "answered 500: oops: \\*\\*\\*"),
        (Answer(b"", status=302, headers={"Location": "http://127.0.0.1:1/"}), "answered 302"),
        (Answer(b"{not json"), "not JSON"),
        (Answer(b"[" * 100_000), "not JSON"),
        (Answer(b"\xff\xfe"), "not text in UTF-8"),
        (Answer(b"x" * (5 * 2**20 + 1)), "more than 5 MiB"),
        (Answer(b"short", headers={"Content-Length": "50", "Connection": "close"}), "cannot be"),
    ],
)
def test_a_server_that_misbehaves_gives_one_sentence(connect: Connect, answer: Answer, words: str) -> None:
    with little_server(answer) as server:
        port = server.port
        server_named = connect(
            {"conn_type": "http", "host": "127.0.0.1", "port": port, "login": "m", "password": SECRET}
        )
        with pytest.raises(LoadBalancerError, match=words) as failed:
            server_named.get_json("/x")
        assert SECRET not in str(failed.value)
        assert "\n" not in str(failed.value)


def test_a_path_that_the_server_does_not_have_is_an_unknown_target(connect: Connect) -> None:
    with little_server(Answer(b"", status=404)) as server, pytest.raises(UnknownTargetError, match="answered 404"):
        connect(server.url).get_text("/x")


def test_a_redirect_is_not_followed(connect: Connect) -> None:
    with little_server(Answer(b"{}")) as other, little_server(Answer(b"", 307, {"Location": other.url})) as server:
        with pytest.raises(LoadBalancerError):
            connect(server.url).get_json("/x")
        assert not other.seen


def test_a_server_that_does_not_answer_is_left_after_the_time_limit(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.1)
    with little_server(Answer(hold=30)) as server, pytest.raises(LoadBalancerError, match="in time"):
        connect(server.url).get_json("/x")


def test_nobody_at_the_address_says_so(connect: Connect) -> None:
    with pytest.raises(LoadBalancerError, match="cannot be reached"):
        connect(f"http://127.0.0.1:{free_port()}").get_json("/x")

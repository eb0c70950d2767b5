"""Where requests may go: only where a connection says, never further, never for long, never to a metadata service."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.hooks import connections
from canary_release.hooks.connections import HttpExtra, HttpServer, find_connection, http_server
from canary_release.hooks.server_clock import http_time
from canary_release.hooks.traefik import TraefikExtra
from contracts.little_servers import Answer, little_server
from demo.free_ports import LOOPBACK
from security.certificates import tls_server, write_certificate

Connect = Callable[..., HttpServer]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    def to(url: str, **fields: Any) -> HttpServer:
        monkeypatch.setenv("AIRFLOW_CONN_LB", json.dumps({"conn_type": "http", "host": url, **fields}))
        return http_server(find_connection("lb"), LoadBalancerError, missing=UnknownTargetError)

    return to


@contextmanager
def raw_server(
    serve: Callable[[socket.socket, threading.Event], None], heard: list[bytes] | None = None
) -> Iterator[int]:
    """Hands its first connection to ``serve``, in a thread that ends with the block; ``heard`` gets what it sent."""
    stop = threading.Event()
    with socket.create_server((LOOPBACK, 0)) as listening:

        def run() -> None:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(4096)
                if heard is not None:
                    heard.append(request)
                try:
                    serve(connection, stop)
                except OSError:
                    return

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            stop.set()
            listening.close()
            thread.join(5)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_to_another_port_is_not_followed_and_gets_no_password(connect: Connect, status: int) -> None:
    with little_server(Answer()) as other, little_server(Answer(b"", status, {"Location": f"{other.url}/x"})) as server:
        with pytest.raises(LoadBalancerError, match=f"answered {status}"):
            connect(server.url, login="ann", password="hunter2-hunter2").get_json("/x")
        assert server.seen == {"/x": 1}
        assert not other.seen


def test_answer_without_an_end_is_cut_after_five_mib(connect: Connect) -> None:
    sent: list[int] = []

    def pour(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        while not stop.is_set():
            sent.append(connection.send(b"x" * 65536))

    with raw_server(pour) as port, pytest.raises(LoadBalancerError, match="more than 5 MiB"):
        connect(f"http://{LOOPBACK}:{port}").get_text("/x")
    # What the kernel buffers on both sides comes on top.
    assert sum(sent) < 20 * 2**20


def test_answer_of_ten_mib_is_cut(connect: Connect) -> None:
    with little_server(Answer(b"x" * 10 * 2**20)) as server, pytest.raises(LoadBalancerError, match="more than 5 MiB"):
        connect(server.url).get_text("/x")


def drip(*first: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def serve(connection: socket.socket, stop: threading.Event) -> None:
        for piece in first:
            connection.sendall(piece)
        while not stop.wait(0.02):
            connection.sendall(b"x")

    return serve


@pytest.mark.parametrize(
    "first",
    [
        [],
        [b"HTTP/1.1 200 OK\r\nX-Slow: "],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n"],
    ],
    ids=["status", "headers", "length", "to_the_end", "chunked"],
)
def test_server_that_drips_is_cut_in_every_part_of_its_answer(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, first: list[bytes]
) -> None:
    monkeypatch.setattr(connections, "WHOLE_SECONDS", 0.4)
    began = time.monotonic()
    with raw_server(drip(*first)) as port, pytest.raises(LoadBalancerError, match=r"still sending after 0\.4 s"):
        connect(f"http://{LOOPBACK}:{port}").get_text("/x")
    assert time.monotonic() - began < 4


LINK_LOCAL = [
    "http://169.254.169.254",
    "http://169.254.170.2:80/v2",
    "https://169.254.0.1",
    "http://[fe80::1]",
    "http://[fe80::1%25eth0]",
    "http://[::ffff:169.254.169.254]",
    "http://[64:ff9b::a9fe:a9fe]",
    "http://[fd00:ec2::254]",
    "http://2852039166",
    "http://0xa9fea9fe",
    "http://0251.0376.0251.0376",
    "http://metadata.google.internal",
    "http://METADATA.google.internal.",
    "http://metadata",
    "http://100.100.100.200",
]


@pytest.mark.parametrize("url", LINK_LOCAL)
def test_link_local_address_is_refused_unless_the_connection_allows_it(connect: Connect, url: str) -> None:
    with pytest.raises(ConnectionSettingsError, match="allow_link_local"):
        connect(url)
    assert connect(url, extra={"allow_link_local": True}).base_url.startswith("http")


def test_name_that_leads_to_a_link_local_address_is_cut_before_anything_is_sent(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    with little_server(Answer(b"{}")) as server:
        there = connect(f"http://localhost:{server.port}", login="ann", password="hunter2-hunter2")
        # The nearest to a link-local address that every machine has.
        monkeypatch.setattr(connections, "is_link_local", lambda host: host == LOOPBACK)
        with pytest.raises(LoadBalancerError, match="allow_link_local"):
            there.get_json("/x")
        assert not server.seen
        allowed = connect(f"http://localhost:{server.port}", extra={"allow_link_local": True})
        assert allowed.get_json("/x") == {}


def test_clock_of_a_server_is_asked_without_credentials_and_never_of_a_link_local_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def serve(connection: socket.socket, stop: threading.Event) -> None:
        connection.sendall(b"HTTP/1.1 401 No\r\nDate: Mon, 01 Jan 2035 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n")

    heard: list[bytes] = []
    with raw_server(serve, heard) as port:
        fields = {"conn_type": "http", "host": LOOPBACK, "port": port, "login": "ann", "password": "hunter2"}
        monkeypatch.setenv("AIRFLOW_CONN_LB", json.dumps({**fields, "extra": {"headers": {"X-Key": "hunter3"}}}))
        assert http_time("lb") == 2_051_222_400.0
        (request,) = heard
        assert request.startswith(b"HEAD / ")
        assert b"hunter" not in request
        assert b"authorization" not in request.lower()
        # Should the address lead to a metadata service, the checked session cuts before it sends.
        monkeypatch.setattr(connections, "is_link_local", lambda host: host == LOOPBACK)
        assert http_time("lb") is None


@pytest.mark.parametrize("scheme", ["ftp", "file", "gopher", "unix", "ldap", "javascript", "data"])
def test_nothing_but_http_is_spoken(connect: Connect, scheme: str) -> None:
    with pytest.raises(ConnectionSettingsError):
        connect(f"{scheme}://{LOOPBACK}/etc/passwd")
    with pytest.raises(ConnectionSettingsError):
        connect(LOOPBACK, schema=scheme)


@pytest.mark.parametrize("key", ["verify", "verify_ssl", "check_response", "proxies", "allow_redirects", "cert"])
def test_connection_has_no_switch_for_certificates_proxies_or_redirects(connect: Connect, key: str) -> None:
    assert key not in HttpExtra.model_fields
    assert key not in TraefikExtra.model_fields
    with pytest.raises(ConnectionSettingsError, match=key):
        connect("https://lb", extra={key: False})


def test_certificate_of_nobody_is_not_trusted_until_the_connection_names_it(connect: Connect, tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path, "localhost")
    with tls_server(certificate) as port:
        url = f"https://localhost:{port}"
        with pytest.raises(LoadBalancerError, match="not trusted"):
            connect(url).get_json("/x")
        assert connect(url, extra={"ca_file": str(certificate)}).get_json("/x") == {"tls": True}


def test_certificate_for_another_name_is_not_trusted(connect: Connect, tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path, "lb.internal")
    with tls_server(certificate) as port, pytest.raises(LoadBalancerError, match="not trusted"):
        connect(f"https://localhost:{port}", extra={"ca_file": str(certificate)}).get_json("/x")


def test_environment_turns_neither_proxies_on_nor_certificates_off(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CURL_CA_BUNDLE", "")
    (tmp_path / ".netrc").write_text(f"machine {LOOPBACK} login eve password stolen-stolen")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with little_server(Answer()) as proxy, little_server(Answer()) as server:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        connect(server.url).get_json("/x")
        assert "Authorization" not in server.headers
        assert not proxy.seen


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": {"headers": {"X-Key": "hunter2-€uro"}}},
        {"extra": {"headers": {"X-Key": "hunter2\r\nX-Forged: 1"}}},
        {"extra": {"headers": {"X Key\n": "hunter2"}}},
        {"extra": {"ca_file": "/nowhere/hunter2.pem"}, "schema": "https"},
    ],
    ids=["not_latin", "crlf", "name", "ca_file"],
)
def test_setting_that_cannot_be_sent_is_one_sentence_without_it(connect: Connect, fields: dict[str, Any]) -> None:
    with little_server(Answer()) as server, pytest.raises(LoadBalancerError, match="lb") as failed:
        connect(f"{LOOPBACK}:{server.port}", **fields).get_json("/x")
    assert "hunter2" not in str(failed.value)
    assert "\n" not in str(failed.value)


def test_password_in_another_alphabet_arrives(connect: Connect) -> None:
    with little_server(Answer()) as server:
        assert connect(server.url, login="änn", password="pässwörd-€").get_json("/x") == {}
        assert server.headers["Authorization"].startswith("Basic ")

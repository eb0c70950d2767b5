"""Airflow connections as checked settings, and one careful way to read an HTTP server.

Works inside Airflow and without it: a connection comes from ``AIRFLOW_CONN_<ID>`` or whatever else Airflow is told to
ask.  Airflow's HttpHook is not used for the requests, since it sends every key of a connection's extra as a header.
"""

import base64
import ipaddress
import json
import re
import socket
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from canary_release.core.problems import CanaryError, ConnectionSettingsError

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from requests import Response, Session
    from requests.adapters import HTTPAdapter

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
WHOLE_SECONDS = 20.0  # a server that drips bytes never runs into the read timeout
LARGEST_RESPONSE = 5 * 1024 * 1024  # bytes
CHUNK = 64 * 1024
WORDS = 200  # characters of a server's answer that an error quotes
_SHORTEST_SECRET = 8  # characters; a shorter login or piece of a header may be an ordinary word of an answer

# Where clouds hand out credentials to whoever asks. What is not link-local has to be named.
_METADATA_NAMES = {
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "instance-data",
    "instance-data.ec2.internal",
}
_METADATA_ADDRESSES = {"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

SettingsT = TypeVar("SettingsT", bound=BaseModel)


class Strict(BaseModel):
    """Base of everything a person writes for a hook: unknown keys and bent types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class HttpExtra(Strict):
    """What the extra of an ``http`` connection may hold."""

    ca_file: str | None = Field(None, description="File with the certificates that the server's own must go back to.")
    headers: dict[str, str] = Field(default_factory=dict, description="Headers sent with every request.")
    allow_link_local: bool = Field(
        False, description="Whether the server may have a link-local address, or be a cloud's metadata service."
    )


@dataclass(frozen=True)
class Reply:
    """What a server answered. headers: names in any case."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True)
class HttpServer:
    """A server to be asked. ``raises`` is the error for whatever goes wrong, ``missing`` the one for the status 404."""

    connection_id: str
    base_url: str
    raises: type[CanaryError]
    missing: type[CanaryError]
    login: str | None = None
    password: str | None = None
    extra: HttpExtra = field(default_factory=HttpExtra)

    def get_json(self, path: str) -> Any:
        """The JSON value at ``path``."""
        text = self.get_text(path, accept="application/json")
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise self.raises(f"{self.base_url}{path} answered something that is not JSON.") from None

    def get_text(self, path: str, accept: str = "text/plain") -> str:
        """The body at ``path`` as UTF-8. Follows no redirect, reads at most 5 MiB and 20 s, anything but 200 raises."""
        return self.send("GET", path, headers={"Accept": accept}).text

    def send(
        self,
        method: str,
        path: str,
        *,
        body: str | None = None,
        headers: Mapping[str, str] | None = None,
        good: Collection[int] = (200,),
    ) -> Reply:
        """The answer to one request, with the limits of ``get_text``; a status that is not ``good`` raises."""
        import requests

        url = self.base_url + path
        data = body.encode() if body is not None else None
        with self.session() as (session, line):
            session.headers.update({"Accept-Encoding": "identity", **(headers or {})})
            limits = (CONNECT_SECONDS, READ_SECONDS)
            try:
                with session.request(
                    method, url, data=data, timeout=limits, allow_redirects=False, stream=True
                ) as response:
                    answer = self._body(response, url)
            except (requests.RequestException, OSError, ValueError) as error:
                raise self.raises(line.said or self._failure(url, error)) from None
            if line.said:
                raise self.raises(line.said)
        if response.status_code not in good:
            kind = self.missing if response.status_code == 404 else self.raises
            raise kind(f"{url} answered {response.status_code}{self._words(answer)}")
        try:
            return Reply(response.status_code, response.headers, answer.decode())
        except UnicodeDecodeError:
            raise self.raises(f"{url} answered something that is not text in UTF-8.") from None

    @contextmanager
    def session(self) -> Iterator[tuple["Session", "Line"]]:
        """A session with this connection's credentials; its line is cut after 20 s, and when it leads astray.

        Send requests with timeouts and without redirects. Whatever fails, ``Line.said`` knows if the line was cut.
        """
        import requests
        from requests.auth import HTTPBasicAuth

        with requests.Session() as session, Line(self.base_url, self.extra.allow_link_local) as line:
            # Neither proxies nor a .netrc: credentials go where the connection says and nowhere else.
            session.trust_env = False
            session.verify = self.extra.ca_file or True
            if self.login:
                session.auth = HTTPBasicAuth(self.login.encode(), (self.password or "").encode())
            session.headers.update(self.extra.headers)
            for scheme in ("http://", "https://"):
                session.mount(scheme, _adapter(line))
            yield session, line

    def _body(self, response: "Response", url: str) -> bytes:
        from urllib3.exceptions import HTTPError

        # An answer that ended within its head is one without a body, to urllib3.
        head = getattr(getattr(response.raw, "_original_response", None), "msg", None)
        if getattr(head, "defects", None):
            raise self.raises(f"{url} broke off in the middle of its answer.")
        body = bytearray()
        try:
            while chunk := response.raw.read1(CHUNK):
                body += chunk
                if len(body) > LARGEST_RESPONSE:
                    raise self.raises(f"{url} answered more than {LARGEST_RESPONSE // 2**20} MiB; narrow the path.")
        except HTTPError as error:
            raise OSError(error) from error
        return bytes(body)

    def _failure(self, url: str, error: Exception) -> str:
        import requests
        from urllib3.exceptions import TimeoutError as ReadTimeoutError

        if isinstance(error, requests.exceptions.SSLError):
            return f"{url} has a TLS certificate that is not trusted; set ca_file in {self.connection_id}'s extra."
        cause = error.__cause__
        if isinstance(error, requests.Timeout | TimeoutError) or isinstance(cause, ReadTimeoutError):
            return f"{url} did not answer in time ({CONNECT_SECONDS:g} s to connect, {READ_SECONDS:g} s to read)."
        if isinstance(error, requests.ConnectionError):
            return f"{url} cannot be reached; check that it runs and what connection {self.connection_id} says."
        return f"{url} cannot be read ({type(error).__name__}); check what connection {self.connection_id} says."

    def _words(self, body: bytes) -> str:
        text = " ".join(body[:CHUNK].decode(errors="replace").split())
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, "***")
        shown = "".join(character for character in text[:WORDS] if character.isprintable())
        return f": {shown}" if shown else " without a word."

    def _secrets(self) -> Iterator[str]:
        """What a server may repeat in its answer and an error must not."""
        password = " ".join((self.password or "").split())
        if password:
            yield password
        login = self.login or ""
        if len(login) >= _SHORTEST_SECRET:
            yield login
        if login:
            yield base64.b64encode(f"{login}:{self.password or ''}".encode()).decode()
        for value in filter(None, self.extra.headers.values()):
            yield " ".join(value.split())
            yield from (word for word in value.split() if len(word) >= _SHORTEST_SECRET)


class Line:
    """One line to a server: cut after 20 s in all, whatever drips on it, and when it leads to a link-local address.

    ``said``: the sentence that tells why it was cut, empty as long as it was not.
    """

    def __init__(self, base_url: str, allow_link_local: bool) -> None:
        self.said = ""
        self._base_url = base_url
        self._allow_link_local = allow_link_local
        self._socket: socket.socket | None = None
        # A read timeout counts from one byte to the next; only this one ends a server that drips its headers.
        self._timer = threading.Timer(WHOLE_SECONDS, self._too_late)
        self._timer.daemon = True

    def __enter__(self) -> "Line":
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def opened(self, connection: socket.socket) -> None:
        """Called with the connected socket before anything is sent. Raises OSError when it leads astray."""
        self._socket = connection
        peer = str(connection.getpeername()[0])
        # A name says nothing: only now is known where it leads.
        if not self._allow_link_local and is_link_local(peer):
            self.said = _link_local_sentence(self._base_url, peer)
            raise OSError(self.said)
        if self.said:
            raise TimeoutError(self.said)

    def _too_late(self) -> None:
        self.said = f"{self._base_url} was still sending after {WHOLE_SECONDS:g} s."
        if self._socket is not None:
            # Not its own shutdown(): TLS would wait for the other side.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _adapter(line: Line) -> "HTTPAdapter":
    """requests' transport that shows ``line`` each connection it opens."""
    from requests.adapters import HTTPAdapter
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            line.opened(self.sock)

    class Tls(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            line.opened(self.sock)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = Tls

    adapter = HTTPAdapter()
    adapter.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}
    return adapter


def is_link_local(host: str) -> bool:
    """Whether a host name or address is link-local, or that of a cloud's metadata service."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        # 2852039166, 0xa9fea9fe and 0251.0376.0251.0376 are the same address to the machine's resolver.
        if not re.fullmatch(r"[0-9a-fx.]+", name):
            return name in _METADATA_NAMES
        try:
            address = ipaddress.IPv4Address(socket.inet_aton(name))
        except OSError:
            return False
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.is_link_local or str(address) in _METADATA_ADDRESSES


def _link_local_sentence(where: str, host: str) -> str:
    return (
        f"{where} leads to {host}, a link-local address or a cloud's metadata service; correct the host, or set "
        f"allow_link_local in the connection's extra."
    )


def find_connection(connection_id: str) -> "Connection":
    """The Airflow connection; ConnectionSettingsError when there is none. Never called from a constructor."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowException

    try:
        return BaseHook.get_connection(connection_id)
    except (AirflowException, RuntimeError, OSError, ValueError) as error:
        # The text of the error may hold the connection itself.
        raise ConnectionSettingsError(
            f"Connection {connection_id} cannot be had from Airflow ({type(error).__name__}); create it, or set "
            f"AIRFLOW_CONN_{connection_id.upper()} to valid JSON or a URI."
        ) from None


def read_extra(connection: "Connection", model: type[SettingsT]) -> SettingsT:
    """The connection's extra as ``model``; ConnectionSettingsError names the key and what is allowed, not the value."""
    try:
        extra = json.loads(connection.extra or "{}")
        return model.model_validate(extra)
    except ValidationError as error:
        problems = "; ".join(_problems(error))
        known = ", ".join(model.model_fields)
        raise ConnectionSettingsError(
            f"The extra of connection {connection.conn_id} is wrong: {problems}. Known keys: {known}."
        ) from None
    except ValueError:
        raise ConnectionSettingsError(f"The extra of connection {connection.conn_id} is not JSON.") from None


def http_server(
    connection: "Connection",
    raises: type[CanaryError],
    *,
    missing: type[CanaryError] | None = None,
    extra: HttpExtra | None = None,
) -> HttpServer:
    """The server that an ``http`` connection names: host and port, ``https`` in schema or before the host."""
    name = connection.conn_id
    if connection.conn_type not in ("http", "https"):
        raise ConnectionSettingsError(f"Connection {name} has type {connection.conn_type}; it must be http.")
    checked = extra if extra is not None else read_extra(connection, HttpExtra)
    base_url = _base_url(connection)
    host = urlsplit(base_url).hostname or ""
    if is_link_local(host) and not checked.allow_link_local:
        raise ConnectionSettingsError(_link_local_sentence(f"Connection {name}", host))
    return HttpServer(
        connection_id=name,
        base_url=base_url,
        raises=raises,
        missing=missing or raises,
        login=connection.login or None,
        password=connection.password or None,
        extra=checked,
    )


def _base_url(connection: "Connection") -> str:
    name = connection.conn_id
    host = (connection.host or "").strip()
    scheme = connection.schema or ("https" if connection.conn_type == "https" else "http")
    url = (host if "://" in host else f"{scheme}://{host}").rstrip("/")
    try:
        parts = urlsplit(url)
        port = parts.port or connection.port
    except ValueError:
        raise ConnectionSettingsError(f"Connection {name} has a host or port that is none; correct it.") from None
    if parts.scheme not in ("http", "https"):
        raise ConnectionSettingsError(f"Connection {name} must use http or https; correct its schema.")
    if parts.username is not None or parts.password is not None:
        raise ConnectionSettingsError(
            f"Connection {name} has credentials in its host; put them into its fields login and password."
        )
    if not parts.hostname or parts.query or parts.fragment or any(c.isspace() or not c.isprintable() for c in url):
        raise ConnectionSettingsError(f"Connection {name} needs a host such as traefik.internal, without a query.")
    address = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{address}{f':{port}' if port else ''}{parts.path}"


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        place = ".".join(str(part) for part in problem["loc"])
        yield f"{place}: {problem['msg'].lower()}" if place else problem["msg"].lower()

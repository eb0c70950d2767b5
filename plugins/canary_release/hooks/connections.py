"""Airflow connections as checked settings, and one careful way to read an HTTP server.

Works inside Airflow and without it: a connection comes from ``AIRFLOW_CONN_<ID>`` or whatever else Airflow is told to
ask.  Airflow's HttpHook is not used for the requests, since it sends every key of a connection's extra as a header.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from canary_release.core.problems import CanaryError, ConnectionSettingsError

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from requests import Response

CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
WHOLE_SECONDS = 20.0  # a server that drips bytes never runs into the read timeout
LARGEST_RESPONSE = 5 * 1024 * 1024  # bytes
CHUNK = 64 * 1024
WORDS = 200  # characters of a server's answer that an error quotes

SettingsT = TypeVar("SettingsT", bound=BaseModel)


class Strict(BaseModel):
    """Base of everything a person writes for a hook: unknown keys and bent types are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class HttpExtra(Strict):
    """What the extra of an ``http`` connection may hold."""

    ca_file: str | None = Field(None, description="File with the certificates that the server's own must go back to.")
    headers: dict[str, str] = Field(default_factory=dict, description="Headers sent with every request.")


@dataclass(frozen=True)
class HttpServer:
    """A server to be read. ``raises`` is the error for whatever goes wrong, ``missing`` the one for the status 404."""

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
        import requests

        url = self.base_url + path
        with requests.Session() as session:
            # Neither proxies nor a .netrc: credentials go where the connection says and nowhere else.
            session.trust_env = False
            session.auth = (self.login, self.password or "") if self.login else None
            session.headers.update({"Accept": accept, "Accept-Encoding": "identity", **self.extra.headers})
            try:
                with session.get(
                    url,
                    timeout=(CONNECT_SECONDS, READ_SECONDS),
                    allow_redirects=False,
                    verify=self.extra.ca_file or True,
                    stream=True,
                ) as response:
                    body = self._body(response, url)
            except (requests.RequestException, OSError) as error:
                raise self.raises(self._failure(url, error)) from None
        if response.status_code != 200:
            kind = self.missing if response.status_code == 404 else self.raises
            raise kind(f"{url} answered {response.status_code}{self._words(body)}")
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise self.raises(f"{url} answered something that is not text in UTF-8.") from None

    def _body(self, response: "Response", url: str) -> bytes:
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + WHOLE_SECONDS
        body = bytearray()
        try:
            while chunk := response.raw.read1(CHUNK):
                body += chunk
                if len(body) > LARGEST_RESPONSE:
                    raise self.raises(f"{url} answered more than {LARGEST_RESPONSE // 2**20} MiB; narrow the path.")
                if time.monotonic() > deadline:
                    raise self.raises(f"{url} was still sending after {WHOLE_SECONDS:g} s.")
        except (HTTPError, OSError) as error:
            raise self.raises(self._failure(url, error)) from None
        return bytes(body)

    def _failure(self, url: str, error: Exception) -> str:
        import requests
        from urllib3.exceptions import TimeoutError as ReadTimeoutError

        if isinstance(error, requests.exceptions.SSLError):
            return f"{url} has a TLS certificate that is not trusted; set ca_file in {self.connection_id}'s extra."
        if isinstance(error, requests.Timeout | ReadTimeoutError | TimeoutError):
            return f"{url} did not answer in time ({CONNECT_SECONDS:g} s to connect, {READ_SECONDS:g} s to read)."
        if isinstance(error, requests.ConnectionError):
            return f"{url} cannot be reached; check that it runs and what connection {self.connection_id} says."
        return f"{url} cannot be read ({type(error).__name__}); check what connection {self.connection_id} says."

    def _words(self, body: bytes) -> str:
        text = " ".join(body[:CHUNK].decode(errors="replace").split())
        for secret in (self.password, *self.extra.headers.values()):
            text = text.replace(secret, "***") if secret else text
        shown = "".join(character for character in text[:WORDS] if character.isprintable())
        return f": {shown}" if shown else " without a word."


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
    return HttpServer(
        connection_id=name,
        base_url=_base_url(connection),
        raises=raises,
        missing=missing or raises,
        login=connection.login or None,
        password=connection.password or None,
        extra=extra if extra is not None else read_extra(connection, HttpExtra),
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

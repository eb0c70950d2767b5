"""Puts a proxy that breaks what passes between a hook and its server, and names the ways in which a server can fail."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from canary_release.hooks import aws_client, connections, datadog, haproxy, haproxy_socket
from demo.fault_proxy import Fault, FaultProxy, Kind

SHORT = 0.4  # seconds that a hook waits in these tests
LONG = 5.0  # seconds for which a fault would hold a call
# Each with whether the server may have done what it was asked for.
REFUSED = {
    "500": Fault(Kind.STATUS, status=500),
    "429": Fault(Kind.STATUS, status=429),
    "garbage": Fault(Kind.GARBAGE),
    "too much": Fault(Kind.HUGE),
    "no answer": Fault(Kind.HANG, seconds=LONG),
    "dripping": Fault(Kind.SLOW_BODY, seconds=1.0),
    "reset": Fault(Kind.DROP_BEFORE),
}
DONE = {"reset after it was done": Fault(Kind.DROP_AFTER), "half an answer": Fault(Kind.TRUNCATED)}


@contextmanager
def wire(connection_id: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the server that an Airflow connection names, and the connection led through it.

    Hooks read their connection with their first call, so this has to come before it.
    """
    variable = f"AIRFLOW_CONN_{connection_id.upper()}"
    settings = json.loads(os.environ[variable])
    url = urlsplit(settings.get("extra", {}).get("endpoint_url") or _address(settings))
    with FaultProxy(url.hostname or "", url.port or 80, lines=settings["conn_type"] == "generic") as proxy:
        if settings["conn_type"] == "aws":
            settings["extra"]["endpoint_url"] = proxy.url
        else:
            settings |= {"host": "127.0.0.1", "port": proxy.port}
        if settings["conn_type"] == "http":
            # Caddy answers nobody who calls it by another name.
            extra = settings.get("extra") or {}
            settings["extra"] = extra | {"headers": {"Host": url.netloc, **extra.get("headers", {})}}
        monkeypatch.setenv(variable, json.dumps(settings))
        yield proxy


@contextmanager
def broken(proxy: FaultProxy, fault: Fault, *, only: bytes = b"") -> Iterator[None]:
    """Every call with ``only`` in it fails as ``fault`` says, and nobody waits for long, until the block ends."""
    with pytest.MonkeyPatch.context() as patience:
        for module in (connections, haproxy, haproxy_socket, aws_client):
            for name in ("READ_SECONDS", "WHOLE_SECONDS"):
                if hasattr(module, name):
                    patience.setattr(module, name, SHORT)
        aws_client._kept.clear()  # a client keeps the patience that it was made with
        proxy.play(fault, only=only)
        try:
            yield
        finally:
            proxy.heal()
            aws_client._kept.clear()
            datadog._quiet_until.clear()  # what a rate limit asked for


def _address(settings: dict[str, object]) -> str:
    host = str(settings["host"])
    return host if "://" in host else f"http://{host}:{settings['port']}"


def is_one_clear_sentence(text: str) -> bool:
    """What an operator can read: one line that is not a page, with no Python in it."""
    return 20 < len(text) < 500 and "\n" not in text and "Traceback" not in text and "object at 0x" not in text

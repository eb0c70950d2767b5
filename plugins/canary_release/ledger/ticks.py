"""When each guardian last looked, so that the doctor can say whether anybody is guarding; and the database's clock."""

import sqlalchemy as sa

from canary_release.ledger import tables
from canary_release.ledger.engine import insert_if_absent
from canary_release.ledger.store import Ledger

ticks = sa.Table(
    "ticks",
    tables.metadata,
    sa.Column("name", sa.String(250), primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
)


def tick(ledger: Ledger, name: str, at: float) -> None:
    """Note that ``name`` was here at ``at`` (seconds since the epoch). Raises LedgerError."""
    with ledger._write() as connection:
        connection.execute(insert_if_absent(connection.engine, ticks).values(name=name, at=at))
        connection.execute(ticks.update().where(ticks.c.name == name).values(at=at))


def last_tick(ledger: Ledger, name: str) -> float | None:
    """When ``name`` was last here, None when it never was. Raises LedgerError."""
    with ledger._read() as connection:
        return connection.execute(sa.select(ticks.c.at).where(ticks.c.name == name)).scalar()


def last_ticks(ledger: Ledger, prefix: str) -> dict[str, float]:
    """Every name that begins with ``prefix``, with the instant it was last here. Raises LedgerError."""
    with ledger._read() as connection:
        rows = connection.execute(ticks.select().where(ticks.c.name.startswith(prefix, autoescape=True)))
        return {row.name: row.at for row in rows}


def server_time(ledger: Ledger) -> float | None:
    """The database server's clock in seconds since the epoch, None where the database is a file. Raises LedgerError."""
    with ledger._read() as connection:
        if connection.dialect.name != "postgresql":
            return None
        return float(connection.execute(sa.text("SELECT EXTRACT(EPOCH FROM clock_timestamp())")).scalar_one())

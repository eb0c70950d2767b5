"""Where the ledger lives: the Airflow connection ``canary_ledger``, else a SQLite file in AIRFLOW_HOME."""

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from canary_release.core.problems import LedgerError

CONNECTION_ID = "canary_ledger"
_DRIVERS = {"postgres": "postgresql+psycopg2", "postgresql": "postgresql+psycopg2", "mysql": "mysql+mysqldb"}


def ledger_url() -> str:
    """A SQLAlchemy URL. A connection's extra ``sqlalchemy_url`` wins over its parts; a sqlite connection's host or
    schema is the file's path.
    """
    connection = _connection()
    if connection is None:
        home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
        home.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{home / 'canary_ledger.db'}"
    extra = connection.extra_dejson
    given = extra.get("sqlalchemy_url") if isinstance(extra, dict) else None
    if given:
        return str(given)
    if connection.conn_type == "sqlite":
        return f"sqlite:///{connection.host or connection.schema}"
    url = sa.URL.create(
        _DRIVERS.get(connection.conn_type, connection.conn_type),
        username=connection.login,
        password=connection.password,
        host=connection.host,
        port=connection.port,
        database=connection.schema,
    )
    return url.render_as_string(hide_password=False)


def _connection() -> Any:  # Airflow's Connection class is not the same in a task and outside of one
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(CONNECTION_ID)
    except AirflowNotFoundException:
        # Airflow says the same of a connection that it cannot parse. Two ledgers would mean two rollouts at once.
        if f"AIRFLOW_CONN_{CONNECTION_ID.upper()}" in os.environ:
            raise LedgerError(
                f"the connection {CONNECTION_ID} of the environment cannot be read by Airflow; mend its JSON or URI."
            ) from None
        return None

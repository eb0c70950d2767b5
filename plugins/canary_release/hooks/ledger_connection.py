"""Where the ledger lives: the Airflow connection ``canary_ledger``, else a SQLite file in AIRFLOW_HOME."""

import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa

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
    given = connection.extra_dejson.get("sqlalchemy_url")
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
        return None

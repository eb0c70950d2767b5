"""What Airflow says of a run and its DAG, asked from outside of Airflow through its REST API."""

import json
import time
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import quote

from canary_release.core.problems import CanaryError
from canary_release.hooks.connections import (
    CONNECT_SECONDS,
    READ_SECONDS,
    HttpServer,
    find_connection,
    http_server,
)

CONNECTION_ID = "canary_airflow"
LONGEST_NOTE = 1000  # Airflow's
_TOKEN_SECONDS = 1800.0  # Airflow's own tokens live for a day unless it is told otherwise


class AirflowUnreadableError(CanaryError):
    """Airflow did not say what it was asked."""


class UnknownRunError(AirflowUnreadableError):
    """Airflow has no such DAG or run."""


class AirflowRuns:
    """Connection type ``http``: the API server, with login and password, or an ``Authorization`` among its headers.

    A user that may read DAGs and their runs is enough. Every method raises AirflowUnreadableError, and
    ConnectionSettingsError when the connection cannot be used.
    """

    def __init__(self, connection_id: str = CONNECTION_ID) -> None:
        self._connection_id = connection_id
        self._token = ""
        self._token_at = -_TOKEN_SECONDS

    def run_state(self, dag_id: str, run_id: str) -> str | None:
        """queued, running, success or failed; ``paused`` for a run that goes on in a paused DAG; None: no such run."""
        try:
            state = str(self._get(f"{_dag(dag_id)}/dagRuns/{quote(run_id, safe='')}")["state"])
            if state in ("success", "failed"):
                return state
            return "paused" if self._get(_dag(dag_id))["is_paused"] else state
        except UnknownRunError:
            return None

    def dags(self, tag: str) -> list[dict[str, Any]]:
        """The DAGs with this tag as the API describes them, among it ``dag_id`` and ``is_paused``; at most 100."""
        return list(self._get(f"/api/v2/dags?limit=100&tags={quote(tag)}")["dags"])

    def run_timeout(self, dag_id: str) -> str | None:
        """The DAG's ``dagrun_timeout`` as an ISO 8601 duration, None when it has none."""
        found = self._get(f"{_dag(dag_id)}/details")["dag_run_timeout"]
        return None if found is None else str(found)

    def set_note(self, dag_id: str, run_id: str, note: str) -> None:
        """Write the run's note; needs a user that may edit runs."""
        path = f"{_dag(dag_id)}/dagRuns/{quote(run_id, safe='')}?update_mask=note"
        body = json.dumps({"note": note[:LONGEST_NOTE]})
        self._logged_in().send("PATCH", path, body=body, headers={"Content-Type": "application/json"})

    @cached_property
    def _server(self) -> HttpServer:
        connection = find_connection(self._connection_id)
        return http_server(connection, AirflowUnreadableError, missing=UnknownRunError)

    def _get(self, path: str) -> dict[str, Any]:
        answer = self._logged_in().get_json(path)
        if not isinstance(answer, dict):
            raise AirflowUnreadableError(f"{self._server.base_url}{path} does not answer as Airflow does.")
        return _Answer(answer, f"{self._server.base_url}{path}")

    def _logged_in(self) -> HttpServer:
        server = self._server
        if server.login is None:
            return server
        if time.monotonic() - self._token_at >= _TOKEN_SECONDS:
            self._token, self._token_at = _new_token(server), time.monotonic()
        headers = {**server.extra.headers, "Authorization": f"Bearer {self._token}"}
        extra = server.extra.model_copy(update={"headers": headers})
        return replace(server, login=None, password=None, extra=extra)


class _Answer(dict[str, Any]):
    """A JSON object whose missing keys are said in a sentence."""

    def __init__(self, values: dict[str, Any], url: str) -> None:
        super().__init__(values)
        self._url = url

    def __missing__(self, key: str) -> Any:
        raise AirflowUnreadableError(f"{self._url} does not answer as Airflow does: there is no {key}.")


def is_configured(connection_id: str = CONNECTION_ID) -> bool:
    """Whether there is such a connection at all."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowException

    try:
        BaseHook.get_connection(connection_id)
    except (AirflowException, RuntimeError, OSError, ValueError):
        return False
    return True


def _new_token(server: HttpServer) -> str:
    import requests

    url = f"{server.base_url}/auth/token"
    with server.session() as (session, _):
        try:
            answer = session.post(
                url,
                json={"username": server.login, "password": server.password or ""},
                timeout=(CONNECT_SECONDS, READ_SECONDS),
                allow_redirects=False,
            )
            return str(answer.json()["access_token"])
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            # The answer to a failed login may repeat what was sent.
            raise AirflowUnreadableError(
                f"{url} gave no token ({type(error).__name__}); check what connection {server.connection_id} says."
            ) from None


def _dag(dag_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}"

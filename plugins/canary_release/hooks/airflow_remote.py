"""A running Airflow as a terminal or a CI job uses it: its REST API, and ours beside it, with a token.

Where it is and who asks stands in the environment, never in arguments, which every user of a machine can see:

    CANARY_AIRFLOW_URL             https://airflow.example.com
    CANARY_AIRFLOW_TOKEN           a token of Airflow's API
    CANARY_AIRFLOW_TOKEN_FILE      or a file with it
    CANARY_AIRFLOW_USER            or a user, with
    CANARY_AIRFLOW_PASSWORD_FILE   a file with the password
    CANARY_AIRFLOW_CA_FILE         certificates that the server's own must go back to, where the system's do not do
"""

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from canary_release.core.problems import CanaryError, ConnectionSettingsError
from canary_release.hooks.connections import HttpExtra, HttpServer

URL = "CANARY_AIRFLOW_URL"
_LARGEST_SECRET = 16_384


class AirflowRefusedError(CanaryError):
    """Airflow could not be asked, or did not do what it was asked."""


class NotInAirflowError(AirflowRefusedError):
    """Airflow has nothing of that name, or nothing that this user may see."""


class AlreadyThereError(AirflowRefusedError):
    """A run of that id exists, or a question was answered before."""


@dataclass(frozen=True)
class OpenQuestion:
    """An approval that waits: where, and what is asked."""

    dag_id: str
    run_id: str
    task_id: str
    subject: str


class RemoteAirflow:
    """Every method raises AirflowRefusedError with what the server said, its secrets taken out."""

    def __init__(self, server: HttpServer, *, user: str = "", password: str = "") -> None:
        """server: with the token among its headers, or without where user and password get one."""
        self._server = server
        self._user = user
        self._password = password

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "RemoteAirflow":
        """ConnectionSettingsError names the variable that is missing or wrong, never its value."""
        url = _checked_url(environment.get(URL, ""))
        token = environment.get("CANARY_AIRFLOW_TOKEN", "").strip() or _from_file(
            environment, "CANARY_AIRFLOW_TOKEN_FILE"
        )
        user = environment.get("CANARY_AIRFLOW_USER", "")
        password = _from_file(environment, "CANARY_AIRFLOW_PASSWORD_FILE") if user and not token else ""
        if not token and not password:
            raise ConnectionSettingsError(
                f"{URL} is set, but no login: set CANARY_AIRFLOW_TOKEN (or CANARY_AIRFLOW_TOKEN_FILE), or "
                "CANARY_AIRFLOW_USER and CANARY_AIRFLOW_PASSWORD_FILE."
            )
        if not token.isprintable() or " " in token:
            raise ConnectionSettingsError("CANARY_AIRFLOW_TOKEN is no token: it holds spaces or control characters.")
        extra = HttpExtra(ca_file=environment.get("CANARY_AIRFLOW_CA_FILE") or None)
        server = HttpServer("CANARY_AIRFLOW_…", url, AirflowRefusedError, NotInAirflowError, extra=extra)
        return cls(_with_token(server, token) if token else server, user=user, password=password)

    # -- releases ---------------------------------------------------------------------------------------------------

    def dag_of(self, service: str) -> str:
        """The DAG that releases a service: the one with its tag, or with its name."""
        found = self._get("/api/v2/dags", tags=f"service:{service}", tags_match_mode="all", limit="100")["dags"]
        ids = sorted(entry["dag_id"] for entry in found)
        if len(ids) == 1:
            return str(ids[0])
        if ids:
            raise AirflowRefusedError(
                f"{service} is released by several DAGs: {', '.join(ids)}. Choose one with --dag."
            )
        raise NotInAirflowError(f"Airflow has no DAG that releases {service!r}; is its release file deployed?")

    def release(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> None:
        """Trigger a run. AlreadyThereError when there is one of this id: then nothing is started a second time."""
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf)}
        status, _ = self._send("POST", f"{_dag(dag_id)}/dagRuns", body, good=(200, 201, 409))
        if status == 409:
            raise AlreadyThereError(
                f"the run {run_id} of {dag_id} exists already, so nothing was started; to release that version once "
                f"more, give another --run-id."
            )

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """The run as Airflow's API has it, among it ``state``."""
        return self._get(f"{_dag(dag_id)}/dagRuns/{quote(run_id, safe='')}")

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        path = f"{_dag(dag_id)}/dagRuns/{quote(run_id, safe='')}/taskInstances"
        return list(self._get(path, limit="100")["task_instances"])

    # -- approvals --------------------------------------------------------------------------------------------------

    def questions(self, dag_id: str) -> list[OpenQuestion]:
        """What waits for an answer in a DAG's runs."""
        found = self._get(f"{_dag(dag_id)}/dagRuns/~/hitlDetails", response_received="false", state="awaiting_input")
        return [
            OpenQuestion(task["dag_id"], task["dag_run_id"], task["task_id"], str(entry["subject"]))
            for entry in found["hitl_details"]
            for task in [entry["task_instance"]]
        ]

    def answer(self, question: OpenQuestion, option: str, comment: str) -> None:
        """option: Approve or Reject. AlreadyThereError when somebody was faster."""
        path = f"{_dag(question.dag_id)}/dagRuns/{quote(question.run_id, safe='')}/taskInstances/"
        path += f"{quote(question.task_id, safe='')}/-1/hitlDetails"
        body = {"chosen_options": [option], "params_input": {"comment": comment or None}}
        status, _ = self._send("PATCH", path, body, good=(200, 409))
        if status == 409:
            raise AlreadyThereError(f"{question.subject} was answered by somebody else already.")

    # -- our own pages ----------------------------------------------------------------------------------------------

    def services(self) -> list[dict[str, Any]]:
        return list(self._get("/canary/api/services")["services"])

    def history(self, service: str, limit: int) -> list[dict[str, Any]]:
        """Its rollouts, newest first. NotInAirflowError when there is none."""
        return list(self._get(f"/canary/api/services/{quote(service, safe='')}/rollouts", limit=str(limit))["rollouts"])

    def rollout(self, rollout_id: str) -> dict[str, Any]:
        return self._get(f"/canary/api/rollouts/{quote(rollout_id, safe='')}")

    def rollout_of_run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """NotInAirflowError while the run's rollout has not begun."""
        return self._get(f"/canary/api/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}/rollout")

    def abort(self, service: str, reason: str) -> str:
        """What was done, as a sentence."""
        _, said = self._send("POST", f"/canary/api/services/{quote(service, safe='')}/abort", {"reason": reason})
        return str(said["sentence"])

    def report(self, rollout_id: str) -> str:
        """The report as a self-contained HTML page."""
        return self._logged_in().get_text(f"/canary/rollouts/{quote(rollout_id, safe='')}/report", accept="text/html")

    # -- transport --------------------------------------------------------------------------------------------------

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        return self._send("GET", path + (f"?{urlencode(query)}" if query else ""), None)[1]

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, good: tuple[int, ...] = (200, 201)
    ) -> tuple[int, "_Answer"]:
        server = self._logged_in()
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        reply = server.send(method, path, body=None if body is None else json.dumps(body), headers=headers, good=good)
        try:
            answer = json.loads(reply.text)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise AirflowRefusedError(f"{server.base_url}{path} does not answer as Airflow does.")
        return reply.status, _Answer(answer, f"{server.base_url}{path}")

    def _logged_in(self) -> HttpServer:
        if self._password:
            self._server, self._password = _with_token(self._server, self._new_token()), ""
        return self._server

    def _new_token(self) -> str:
        body = json.dumps({"username": self._user, "password": self._password})
        # The answer to a failed login may repeat what was sent; as its password, it is taken out of every error.
        server = replace(self._server, password=self._password)
        reply = server.send(
            "POST", "/auth/token", body=body, headers={"Content-Type": "application/json"}, good=(200, 201)
        )
        try:
            return str(json.loads(reply.text)["access_token"])
        except (ValueError, KeyError, TypeError):
            raise AirflowRefusedError(f"{self._server.base_url}/auth/token gave no token.") from None


class _Answer(dict[str, Any]):
    """A JSON object whose missing keys are said in a sentence."""

    def __init__(self, values: Mapping[str, Any], url: str) -> None:
        super().__init__(values)
        self._url = url

    def __missing__(self, key: str) -> Any:
        raise AirflowRefusedError(f"{self._url} does not answer as Airflow does: there is no {key}.")


def _dag(dag_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='')}"


def _with_token(server: HttpServer, token: str) -> HttpServer:
    return replace(server, extra=server.extra.model_copy(update={"headers": {"Authorization": f"Bearer {token}"}}))


def _checked_url(url: str) -> str:
    text = url.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment or not text.isprintable():
        raise ConnectionSettingsError(f"{URL} must be Airflow's address, such as https://airflow.example.com.")
    if parts.username is not None or parts.password is not None:
        raise ConnectionSettingsError(f"{URL} has a user or password in it; use CANARY_AIRFLOW_USER and a file.")
    if parts.scheme == "http" and not _is_here(host):
        raise ConnectionSettingsError(f"{URL} must begin with https://, or everybody on the way could read the token.")
    return text


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _from_file(environment: Mapping[str, str], name: str) -> str:
    path = environment.get(name, "")
    if not path:
        return ""
    try:
        with Path(path).open(encoding="utf-8") as file:
            return file.read(_LARGEST_SECRET).strip()
    except (OSError, UnicodeError) as error:
        raise ConnectionSettingsError(f"{name} names a file that cannot be read ({type(error).__name__}).") from None

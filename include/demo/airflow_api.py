"""A small client of Airflow's REST API for the demo and the tests: trigger, watch, read logs, clear, mark, answer.

It talks to a server on this machine and therefore ignores proxy settings.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self
from urllib.parse import quote

import httpx

from canary_release.core.problems import CanaryError

POLL = 0.2  # seconds between two looks at a run
BUSY_PATIENCE = 30.0  # seconds after which a request that met a locked SQLite is not asked again
REPEATABLE = frozenset({"GET", "PATCH"})  # asked twice they do what they do once
PAGE = 100  # entries a page; the server's own maximum
ENDED = frozenset({"success", "failed"})


class AirflowApiError(CanaryError):
    """Airflow refused a request; ``status`` is the HTTP status, the message ends with the server's own words."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AirflowUnreachableError(AirflowApiError):
    """No Airflow answered at all."""


@dataclass(frozen=True)
class Run:
    """A DAG run. state: queued, running, success or failed. started, ended: None until it has."""

    dag_id: str
    run_id: str
    state: str
    note: str | None
    conf: Mapping[str, Any]
    started: datetime | None
    ended: datetime | None

    @property
    def over(self) -> bool:
        return self.state in ENDED

    @property
    def seconds(self) -> float | None:
        """From start to end; None while it runs."""
        return (self.ended - self.started).total_seconds() if self.started and self.ended else None


@dataclass(frozen=True)
class TaskInstance:
    """One task of a run as it is now. state is None before it was scheduled. duration: seconds of the last try."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    queued: datetime | None
    started: datetime | None
    ended: datetime | None
    duration: float | None


@dataclass(frozen=True)
class Approval:
    """A question to a person (human in the loop) that waits for an answer or has one."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    subject: str
    body: str | None
    options: tuple[str, ...]
    chosen: tuple[str, ...]
    answered: bool


class AirflowApi:
    """Airflow's REST API at ``url``, logged in as ``user`` with the first request.

    Every method raises AirflowUnreachableError when nobody answers within ``timeout`` seconds, and AirflowApiError
    when the server refuses.
    """

    def __init__(self, url: str, user: str, password: str, *, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._credentials = {"username": user, "password": password}
        self._client = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)
        self._token: str | None = None

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the server itself

    def login(self) -> None:
        """Fetch a fresh token."""
        answer = self._send("POST", "/auth/token", json=self._credentials)
        self._token = str(_json(answer)["access_token"])

    def health(self) -> dict[str, dict[str, str | None]]:
        """Status and latest heartbeat of metadatabase, scheduler, dag_processor and triggerer. Needs no login."""
        return dict(_json(self._send("GET", "/api/v2/monitor/health")))

    def execution_health(self) -> str:
        """Status of the part that tasks report to. Needs no login; the first request builds that part (3 s)."""
        return str(_json(self._send("GET", "/execution/health"))["status"])

    def plugins(self) -> list[str]:
        """Names of the plugins that the API server has loaded."""
        return [entry["name"] for entry in self._pages("/api/v2/plugins", "plugins")]

    def dags(self) -> list[str]:
        """Ids of the DAGs that have been parsed and still exist."""
        return [entry["dag_id"] for entry in self._pages("/api/v2/dags", "dags")]

    def import_errors(self) -> dict[str, str]:
        """File name to traceback for every DAG file that cannot be imported."""
        entries = self._pages("/api/v2/importErrors", "import_errors")
        return {entry["filename"]: entry["stack_trace"] for entry in entries}

    def pause(self, dag_id: str, paused: bool = True) -> None:
        self.call("PATCH", _dag(dag_id), {"is_paused": paused})

    # --- runs

    def trigger(
        self,
        dag_id: str,
        run_id: str,
        conf: Mapping[str, Any] | None = None,
        *,
        note: str | None = None,
        run_after: datetime | None = None,
    ) -> Run:
        """Start a run, or queue it until ``run_after`` (aware). A run id that exists is refused with status 409.

        Two of one name there cannot be, so it may be asked twice.
        """
        body: dict[str, Any] = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {}), "note": note}
        if run_after is not None:
            body["run_after"] = run_after.isoformat()
        return _run(self.call("POST", f"{_dag(dag_id)}/dagRuns", body, repeatable=True))

    def run(self, dag_id: str, run_id: str) -> Run:
        return _run(self.call("GET", _dag_run(dag_id, run_id)))

    def runs(self, dag_id: str) -> list[Run]:
        """All runs of a DAG ("~" for all DAGs), oldest first."""
        return [_run(entry) for entry in self._pages(f"{_dag(dag_id)}/dagRuns", "dag_runs", order_by="id")]

    def mark_run(self, dag_id: str, run_id: str, state: str) -> None:
        """Set a run's state as a person would: success, failed or queued."""
        self.call("PATCH", _dag_run(dag_id, run_id), {"state": state})

    def clear_run(self, dag_id: str, run_id: str, *, only_failed: bool = False) -> None:
        """Run every task (or every failed task) of a run again."""
        self.call("POST", f"{_dag_run(dag_id, run_id)}/clear", {"dry_run": False, "only_failed": only_failed})

    def delete_run(self, dag_id: str, run_id: str) -> None:
        self.call("DELETE", _dag_run(dag_id, run_id))

    def wait_until_ended(self, dag_id: str, run_id: str, seconds: float) -> Run:
        """The run once it is success or failed; AirflowApiError with the tasks' states when time is over."""
        return self.wait_until(dag_id, run_id, lambda run, _: run.over, seconds, "end")

    def wait_until(
        self,
        dag_id: str,
        run_id: str,
        reached: Callable[[Run, Mapping[str, TaskInstance]], bool],
        seconds: float,
        what: str,
    ) -> Run:
        """The run once ``reached(run, tasks)``. An API server that is away meanwhile is waited for, too.

        what: completes "run … did not …".
        """
        deadline = time.monotonic() + seconds
        last = "nothing was seen of it"
        while True:
            try:
                run, tasks = self.run(dag_id, run_id), self.tasks(dag_id, run_id)
                if reached(run, tasks):
                    return run
                states = ", ".join(f"{name} {task.state}" for name, task in tasks.items())
                last = f"it is {run.state} with {states or 'no tasks'}"
            except AirflowUnreachableError as error:
                last = str(error)
            if time.monotonic() > deadline:
                raise AirflowApiError(f"Run {run_id} of {dag_id} did not {what} within {seconds:g} s: {last}.")
            time.sleep(POLL)

    # --- tasks

    def tasks(self, dag_id: str, run_id: str) -> dict[str, TaskInstance]:
        """The run's task instances by task id; a mapped one is called ``task_id[map_index]``."""
        entries = self._pages(f"{_dag_run(dag_id, run_id)}/taskInstances", "task_instances")
        found = [_task_instance(entry) for entry in entries]
        return {task.task_id if task.map_index < 0 else f"{task.task_id}[{task.map_index}]": task for task in found}

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, *, map_index: int = -1) -> str:
        """The messages of one try's log, one a line, as the log view shows them without times and sources."""
        lines = self.log_events(dag_id, run_id, task_id, try_number, map_index=map_index)
        return "\n".join(str(line["event"]) for line in lines)

    def log_events(
        self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, *, map_index: int = -1
    ) -> list[dict[str, Any]]:
        """One try's log as records: ``event``, mostly ``timestamp`` and ``level``, and whatever keys were logged."""
        path = f"{_task(dag_id, run_id, task_id)}/logs/{try_number}"
        answer = self._authorised(
            "GET", path, params={"map_index": map_index}, headers={"Accept": "application/x-ndjson"}
        )
        records = [json.loads(line) for line in answer.text.splitlines() if line.strip()]
        return [record if isinstance(record, dict) else {"event": str(record)} for record in records]

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """A value that a task pushed."""
        return self.call("GET", f"{_task(dag_id, run_id, task_id)}/xcomEntries/{quote(key, safe='')}")["value"]

    def mark_task(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Set a task's state as a person would: success, failed or skipped."""
        self.call("PATCH", _task(dag_id, run_id, task_id), {"new_state": state})

    def clear_tasks(
        self, dag_id: str, run_id: str, task_ids: Sequence[str], *, downstream: bool = False, only_failed: bool = False
    ) -> None:
        """Run these tasks of a run again, with ``downstream`` also everything after them."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "include_downstream": downstream,
            "only_failed": only_failed,
        }
        self.call("POST", f"{_dag(dag_id)}/clearTaskInstances", body)

    # --- approvals

    def approvals(self, dag_id: str = "~", run_id: str = "~", *, answered: bool | None = False) -> list[Approval]:
        """Questions to people: the open ones, with ``answered=True`` the answered ones, with None all."""
        query = {} if answered is None else {"response_received": str(answered).lower()}
        return [
            _approval(entry)
            for entry in self._pages(f"{_dag_run(dag_id, run_id)}/hitlDetails", "hitl_details", **query)
        ]

    def answer(self, approval: Approval, option: str, params: Mapping[str, Any] | None = None) -> None:
        """Choose ``option``; unknown options are refused with status 400, a second answer with 409."""
        path = f"{_task(approval.dag_id, approval.run_id, approval.task_id)}/{approval.map_index}/hitlDetails"
        self.call("PATCH", path, {"chosen_options": [option], "params_input": dict(params or {})})

    # --- transport

    def call(self, method: str, path: str, body: Any = None, *, repeatable: bool = False) -> Any:
        """Any other endpoint, with the token; ``path`` begins with /. Gives the decoded JSON, None for no content.

        repeatable: a POST that may be asked again when the server says that it was not carried out.
        """
        answer = self._authorised(method, path, repeatable=repeatable, json=body)
        return _json(answer) if answer.content else None

    def _authorised(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        repeatable: bool = False,
        **options: Any,
    ) -> httpx.Response:
        if self._token is None:
            self.login()
        headers = {"Authorization": f"Bearer {self._token}", **(headers or {})}
        return self._send(method, path, repeatable=repeatable, headers=headers, **options)

    def _pages(self, path: str, key: str, **query: str) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            page = _json(self._authorised("GET", path, params={**query, "limit": PAGE, "offset": offset}))
            yield from page[key]
            offset += PAGE
            if offset >= page["total_entries"]:
                return

    def _send(self, method: str, path: str, *, repeatable: bool = False, **options: Any) -> httpx.Response:
        """An Airflow on SQLite answers 500 when another of its processes wrote between a request's own read and write;
        SQLite's time-out does not help there. What may be asked twice is asked again.
        """
        deadline = time.monotonic() + BUSY_PATIENCE
        while True:
            answer = self._sent(method, path, **options)
            final = not (repeatable or method in REPEATABLE) or time.monotonic() > deadline
            if final or not _database_was_busy(answer):
                return _accepted(answer, method, path)
            time.sleep(POLL)

    def _sent(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **options)
        except httpx.TransportError as error:
            cause = str(error) or type(error).__name__
            raise AirflowUnreachableError(
                f"No Airflow answers {method} {self.url}{path} ({cause}); is its API server running?"
            ) from error


def _database_was_busy(answer: httpx.Response) -> bool:
    return answer.status_code == 500 and "Database error" in _words(answer)


def _accepted(answer: httpx.Response, method: str, path: str) -> httpx.Response:
    if answer.is_error:
        raise AirflowApiError(
            f"Airflow answered {method} {path} with {answer.status_code}: {_words(answer)}", answer.status_code
        )
    return answer


def _dag(dag_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id, safe='~')}"


def _dag_run(dag_id: str, run_id: str) -> str:
    return f"{_dag(dag_id)}/dagRuns/{quote(run_id, safe='~')}"


def _task(dag_id: str, run_id: str, task_id: str) -> str:
    return f"{_dag_run(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}"


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise AirflowApiError(
            f"{answer.url} did not answer with JSON; is this Airflow's API server?", answer.status_code
        ) from error


def _words(answer: httpx.Response) -> str:
    """What the server said, without its JSON around it."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text.strip() or answer.reason_phrase
    if isinstance(detail, list):
        return "; ".join(f"{'.'.join(map(str, each.get('loc', ())))}: {each.get('msg', each)}" for each in detail)
    return str(detail)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _run(entry: Mapping[str, Any]) -> Run:
    return Run(
        dag_id=entry["dag_id"],
        run_id=entry["dag_run_id"],
        state=entry["state"],
        note=entry["note"],
        conf=entry["conf"] or {},
        started=_time(entry["start_date"]),
        ended=_time(entry["end_date"]),
    )


def _task_instance(entry: Mapping[str, Any]) -> TaskInstance:
    return TaskInstance(
        task_id=entry["task_id"],
        map_index=entry["map_index"],
        state=entry["state"],
        try_number=entry["try_number"],
        queued=_time(entry["queued_when"]),
        started=_time(entry["start_date"]),
        ended=_time(entry["end_date"]),
        duration=entry["duration"],
    )


def _approval(entry: Mapping[str, Any]) -> Approval:
    task = entry["task_instance"]
    return Approval(
        dag_id=task["dag_id"],
        run_id=task["dag_run_id"],
        task_id=task["task_id"],
        map_index=task["map_index"],
        subject=entry["subject"],
        body=entry["body"],
        options=tuple(entry["options"]),
        chosen=tuple(entry["chosen_options"] or ()),
        answered=entry["response_received"],
    )

"""Commands that ask a running Airflow: what they send, and that no secret gets into sight."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from canary_release.cli import main
from canary_release.control.real_desk import open_ledger

TOKEN = "planted-token-0123456789"
PASSWORD = "planted-password-0123456789"
DAG = "/api/v2/dags/release_shop"
DAGS = {"dags": [{"dag_id": "release_shop"}]}
QUESTION = {
    "hitl_details": [
        {
            "subject": "shop v2: 5 % → 25 %?",
            "task_instance": {"dag_id": "release_shop", "dag_run_id": "shop-v2", "task_id": "approve_25"},
        }
    ]
}


@dataclass
class FakeAirflow:
    """Answers method and path as told; 404 for what it was not told. Keeps what it was sent."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    sent: list[tuple[str, Any, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAirflow]:
    told = FakeAirflow()

    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            path = self.path.partition("?")[0]
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            sent = json.loads(body) if body else None
            told.sent.append((f"{self.command} {path}", sent, self.headers.get("Authorization", "")))
            status, answer = told.answers.get(f"{self.command} {path}", (404, {"detail": f"no such thing; {TOKEN}"}))
            payload = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PATCH = _any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    told.url = f"http://127.0.0.1:{server.server_address[1]}"
    told.answers["GET /api/v2/dags"] = (200, DAGS)
    monkeypatch.setenv("CANARY_AIRFLOW_URL", told.url)
    monkeypatch.setenv("CANARY_AIRFLOW_TOKEN", TOKEN)
    yield told
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_release_sends_the_conf_and_the_token(fake: FakeAirflow, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers[f"POST {DAG}/dagRuns"] = (200, {})
    assert main(["release", "shop", "v2", "--reason", "CHK-812", "--steps", "5,100", "--dry-run"]) == 0
    what, body, token = fake.sent[-1]
    assert (what, token) == (f"POST {DAG}/dagRuns", f"Bearer {TOKEN}")
    assert body == {
        "dag_run_id": "shop-v2",
        "logical_date": None,
        "conf": {"version": "v2", "steps": "5,100", "reason": "CHK-812", "dry_run": True},
    }
    assert "run shop-v2 of release_shop was started" in capsys.readouterr().out


def test_release_of_the_same_run_starts_nothing_twice(fake: FakeAirflow, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers[f"POST {DAG}/dagRuns"] = (409, {"detail": "exists"})
    assert main(["release", "shop", "v2"]) == 1
    assert "give another --run-id" in capsys.readouterr().err


def test_release_that_airflow_refuses_shows_its_words_without_the_token(
    fake: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers[f"POST {DAG}/dagRuns"] = (400, {"detail": f"version is too short {TOKEN}"})
    assert main(["release", "shop", "v2"]) == 1
    said = capsys.readouterr()
    assert "version is too short ***" in said.err
    assert TOKEN not in said.out + said.err


@pytest.mark.parametrize(
    ("dags", "words"), [([], "no DAG that releases 'shop'"), (["a", "b"], "several DAGs: a, b. Choose one with --dag")]
)
def test_service_without_one_dag_is_a_sentence(
    fake: FakeAirflow, capsys: pytest.CaptureFixture[str], dags: list[str], words: str
) -> None:
    fake.answers["GET /api/v2/dags"] = (200, {"dags": [{"dag_id": name} for name in dags]})
    assert main(["release", "shop", "v2"]) == 1
    assert words in capsys.readouterr().err


def test_watched_release_that_never_begins_ends_with_1(fake: FakeAirflow, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers[f"POST {DAG}/dagRuns"] = (200, {})
    fake.answers[f"GET {DAG}/dagRuns/shop-v2"] = (200, {"state": "failed"})
    assert main(["release", "shop", "v2", "--watch"]) == 1
    assert "ended before its rollout began" in capsys.readouterr().err


def test_watched_release_that_waits_for_its_calendar_says_so_once(
    fake: FakeAirflow, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answers[f"POST {DAG}/dagRuns"] = (200, {})
    waits = {"state": "running", "note": "waits: releases are frozen until sun 2027-01-03 00:00 UTC\x1b[2J"}
    fake.answers[f"GET {DAG}/dagRuns/shop-v2"] = (200, waits)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            fake.answers[f"GET {DAG}/dagRuns/shop-v2"] = (200, {"state": "failed"})

    monkeypatch.setattr("canary_release.cli_remote.time.sleep", sleep)
    assert main(["release", "shop", "v2", "--watch"]) == 1
    said = capsys.readouterr().out
    assert said.count("shop-v2 waits: releases are frozen until sun 2027-01-03 00:00 UTC") == 1
    assert "\x1b" not in said


@pytest.mark.parametrize("word", ["approve", "reject"])
def test_answer_names_what_was_asked(fake: FakeAirflow, capsys: pytest.CaptureFixture[str], word: str) -> None:
    fake.answers[f"GET {DAG}/dagRuns/~/hitlDetails"] = (200, QUESTION)
    path = f"PATCH {DAG}/dagRuns/shop-v2/taskInstances/approve_25/-1/hitlDetails"
    fake.answers[path] = (200, {})
    assert main([word, "shop", "--weight", "25", "--comment", "looks good"]) == 0
    assert fake.sent[-1][:2] == (
        path,
        {"chosen_options": [word.capitalize()], "params_input": {"comment": "looks good"}},
    )
    assert "shop v2: 5 % → 25 %?" in capsys.readouterr().out


def test_approval_of_another_weight_than_asked_is_refused(
    fake: FakeAirflow, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers[f"GET {DAG}/dagRuns/~/hitlDetails"] = (200, QUESTION)
    assert main(["approve", "shop", "--weight", "100"]) == 1
    assert "nothing about 100 % waits" in capsys.readouterr().err
    assert not [what for what, *_ in fake.sent if what.startswith("PATCH")]


def test_abort_goes_to_airflow_or_with_a_flag_to_the_ledger(
    fake: FakeAirflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["POST /canary/api/services/shop/abort"] = (200, {"sentence": "shop-1 rolled back: aborted"})
    assert main(["abort", "shop", "--reason", "customers call"]) == 0
    assert fake.sent[-1][1] == {"reason": "customers call"}
    extra = {"sqlalchemy_url": f"sqlite:///{tmp_path / 'ledger.db'}"}
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_LEDGER", json.dumps({"conn_type": "generic", "extra": extra}))
    open_ledger.cache_clear()
    before = len(fake.sent)
    assert main(["abort", "shop", "--ledger"]) == 1
    assert "the ledger knows no service 'shop'" in capsys.readouterr().err
    assert len(fake.sent) == before


def test_password_comes_from_a_file_and_is_changed_for_a_token(
    fake: FakeAirflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    monkeypatch.delenv("CANARY_AIRFLOW_TOKEN")
    monkeypatch.setenv("CANARY_AIRFLOW_USER", "ada")
    monkeypatch.setenv("CANARY_AIRFLOW_PASSWORD_FILE", str(file))
    fake.answers["POST /auth/token"] = (201, {"access_token": "fresh-token-987654321"})
    fake.answers[f"POST {DAG}/dagRuns"] = (200, {})
    assert main(["release", "shop", "v2"]) == 0
    assert fake.sent[0][:2] == ("POST /auth/token", {"username": "ada", "password": PASSWORD})
    assert fake.sent[-1][2] == "Bearer fresh-token-987654321"


def test_failed_login_shows_no_password(
    fake: FakeAirflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    monkeypatch.delenv("CANARY_AIRFLOW_TOKEN")
    monkeypatch.setenv("CANARY_AIRFLOW_USER", "ada")
    monkeypatch.setenv("CANARY_AIRFLOW_PASSWORD_FILE", str(file))
    fake.answers["POST /auth/token"] = (401, {"detail": f"{PASSWORD} is wrong"})
    assert main(["release", "shop", "v2"]) == 1
    said = capsys.readouterr().err
    assert "answered 401" in said
    assert PASSWORD not in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"CANARY_AIRFLOW_TOKEN": ""}, "no login: set CANARY_AIRFLOW_TOKEN"),
        ({"CANARY_AIRFLOW_URL": ""}, "must be Airflow's address"),
        ({"CANARY_AIRFLOW_URL": "https://ada:secret-word@airflow.example"}, "has a user or password in it"),
        ({"CANARY_AIRFLOW_URL": "http://airflow.example"}, "must begin with https://"),
        ({"CANARY_AIRFLOW_URL": "file:///etc/passwd"}, "must be Airflow's address"),
        (
            {"CANARY_AIRFLOW_TOKEN": "", "CANARY_AIRFLOW_TOKEN_FILE": "/nowhere"},
            "CANARY_AIRFLOW_TOKEN_FILE names a file",
        ),
        ({"CANARY_AIRFLOW_TOKEN": "two words"}, "is no token"),
    ],
)
def test_wrong_environment_is_a_sentence_without_its_values(
    fake: FakeAirflow,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    words: str,
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    assert main(["release", "shop", "v2"]) == 1
    said = capsys.readouterr().err
    assert words in said
    assert "secret-word" not in said
    assert "two words" not in said


def test_history_has_every_rollout_that_the_limit_allows(fake: FakeAirflow, capsys: pytest.CaptureFixture[str]) -> None:
    rollouts = [
        {
            "service": "shop", "rollout": f"shop-{number}", "old_version": "v1", "version": "v2", "state": "promoted",
            "step": 3, "started_at": 0.0, "ended_at": 60.0, "started_by": "ada", "outcome_reason": "every check passed",
        }
        for number in range(12)
    ]  # fmt: skip
    fake.answers["GET /canary/api/services/shop/rollouts"] = (200, {"service": "shop", "rollouts": rollouts})
    assert main(["history", "shop", "--limit", "12", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 12
    assert rows[0] == {
        "service": "shop", "rollout": "shop-0", "version": "v1 -> v2", "state": "promoted", "step": 4,
        "started": "1970-01-01 00:00:00Z", "ended": "1970-01-01 00:01:00Z", "by": "ada", "why": "every check passed",
    }  # fmt: skip


@pytest.mark.parametrize("limit", ["0", "-1", "1001"])
def test_history_of_no_or_of_endless_length_is_a_wrong_call(fake: FakeAirflow, limit: str) -> None:
    assert main(["history", "shop", "--limit", limit]) == 2
    assert fake.sent == []


def test_server_that_speaks_something_else_is_a_sentence(fake: FakeAirflow, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET /api/v2/dags"] = (200, ["not", "airflow"])
    assert main(["release", "shop", "v2"]) == 1
    assert "does not answer as Airflow does" in capsys.readouterr().err


def test_answer_of_another_version_is_a_sentence(fake: FakeAirflow, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "service": "shop", "rollout": "shop-1", "old_version": "v1", "version": "v2", "state": "running", "step": 0,
        "started_at": 0.0, "ended_at": None, "started_by": "ada", "outcome_reason": "",
    }  # fmt: skip
    fake.answers["GET /canary/api/services"] = (200, {"services": [row]})
    fake.answers["GET /canary/api/rollouts/shop-1"] = (200, {"row": {"service": "shop"}, "at": "soon"})
    assert main(["status"]) == 0
    assert main(["status", "shop"]) == 1
    assert "no rollout as this version of canary knows it" in capsys.readouterr().err

"""Secrets planted in every place that a connection has, every way of working taken, and everything written searched."""

import base64
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from airflow.sdk.exceptions import AirflowFailException

from canary_release.cli import main
from canary_release.control.real_desk import open_ledger
from canary_release.core.problems import CanaryError
from canary_release.operators.guard import AbortOperator, GuardianOperator
from canary_release.operators.start_release import StartReleaseOperator
from contracts.little_servers import Answer, LittleServer, little_server
from security.hostile import a_context

SECRETS = {
    place: f"plant3d-{place}-8f2c"
    for place in ("login", "password", "header", "bearer", "metrics", "ledger", "airflow", "userinfo")
}
RELEASE = """\
service: shop
load_balancer: {type: traefik, connection: security_lb, route: shop, backends: [blue, green]}
metrics: {type: scrape, connection: security_metrics, preset: traefik}
steps:
  - {weight: 1%, bake: 30s}
  - {weight: 100%, bake: 30s}
checks:
  - {metric: error_rate, max_increase: 0.5pp}
"""
DYNAMIC = """\
http:
  services:
    shop: {weighted: {services: [{name: blue, weight: 10000}, {name: green, weight: 0}]}}
"""
FILE = {"file": "/nowhere/dynamic.yaml"}
WEIGHTED = {"services": [{"name": "blue@file", "weight": 10000}, {"name": "green@file", "weight": 0}]}


class Everything:
    """Whatever was written anywhere: task logs, terminal, exceptions, XCom values, files."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
        self.folder, self.capsys, self.caplog = folder, capsys, caplog
        self.texts: list[str] = []
        self.tracebacks: list[str] = []

    def act(self, what: Callable[[], Any]) -> None:
        try:
            self.texts.append(json.dumps(what(), default=str))
        except Exception as error:  # noqa: BLE001  its text is what is looked at
            self.texts.append("".join(traceback.format_exception(error)))
            if not isinstance(error, AirflowFailException | CanaryError):
                self.tracebacks.append(self.texts[-1])

    def found(self) -> list[str]:
        """The places of the secrets that were found, in clear, in base64 or quoted."""
        out, err = self.capsys.readouterr()
        self.texts += [out, err, self.caplog.text]
        files = [file.read_bytes().decode("latin-1") for file in self.folder.rglob("*") if file.is_file()]
        whole = "\n".join([*self.texts, *files])
        assert len(whole) > 1000, "nothing was written, so nothing was searched"
        coded = base64.b64encode(f"{SECRETS['login']}:{SECRETS['password']}".encode()).decode()
        hits = [place for place, secret in SECRETS.items() if secret in whole or quote(secret) in whole]
        return [*hits, "basic"] if coded in whole else hits


@pytest.fixture
def everything(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> Everything:
    (tmp_path / "dynamic.yaml").write_text(DYNAMIC)
    (tmp_path / "shop.yaml").write_text(RELEASE)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    open_ledger.cache_clear()
    return Everything(tmp_path, capsys, caplog)


def connect(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "http", **fields}))


def connect_all(monkeypatch: pytest.MonkeyPatch, everything: Everything, server: LittleServer) -> None:
    here = {"host": "127.0.0.1", "port": server.port}
    headers = {"X-Api-Key": SECRETS["header"], "X-Auth": f"Bearer {SECRETS['bearer']}"}
    extra = {"file": str(everything.folder / "dynamic.yaml"), "headers": headers}
    connect(monkeypatch, "security_lb", **here, login=SECRETS["login"], password=SECRETS["password"], extra=extra)
    connect(monkeypatch, "security_metrics", **here, login="m", password=SECRETS["metrics"])
    connect(monkeypatch, "canary_airflow", **here, login="a", password=SECRETS["airflow"])
    ledger = {
        "conn_type": "sqlite",
        "host": str(everything.folder / "l.db"),
        "login": "l",
        "password": SECRETS["ledger"],
    }
    connect(monkeypatch, "canary_ledger", **ledger)


def traefik() -> dict[str, Answer]:
    service = {"status": "enabled", "usedBy": ["shop@file"], "weighted": WEIGHTED}
    return {
        "/api/http/services/shop@file": Answer(json.dumps(service).encode()),
        "/api/http/routers/shop@file": Answer(b'{"status": "enabled"}'),
        "/metrics": Answer(b'traefik_service_requests_total{service="blue@file",code="200"} 10\n'),
    }


def a_parrot() -> Answer:
    """A failing server that repeats all it was sent."""
    coded = base64.b64encode(f"{SECRETS['login']}:{SECRETS['password']}".encode()).decode()
    said = f"Authorization: Basic {coded} X-Api-Key: {SECRETS['header']} {SECRETS['bearer']} {SECRETS['password']}"
    return Answer(said.encode(), status=500)


def go_everywhere(everything: Everything, run_id: str) -> None:
    file = str(everything.folder / "shop.yaml")
    conf = {"version": "v2", "reason": "CHK-812"}
    start = StartReleaseOperator(task_id="start", release_file=file)
    everything.act(lambda: start.execute(a_context(conf, run_id=run_id)))
    for call in (
        ["lint", file],
        ["plan", file],
        ["plan", file, "--from-source"],
        ["status"],
        ["status", "--json"],
        ["doctor", file],
        ["doctor", "--json"],
        ["guard", "--once"],
        ["audit", "verify"],
        ["abort", "shop", "--reason", "test"],
        ["history", "shop", "--json"],
    ):
        everything.act(lambda call=call: main(call))
    everything.act(lambda: GuardianOperator(task_id="guard").execute(a_context({})))
    everything.act(lambda: AbortOperator(task_id="abort").execute(a_context({"service": "shop"})))


def test_secrets_of_connections_that_work_are_written_nowhere(
    everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    with little_server(Answer(b"{}"), traefik()) as server:
        connect_all(monkeypatch, everything, server)
        go_everywhere(everything, "run-1")
        assert server.seen["/api/http/services/shop@file"] > 2
        # Neither version nor reason nor run reach an address.
        assert not [path for path in server.seen if "v2" in path.replace("api/v2", "") or "CHK" in path]
    assert open_ledger().history("shop")
    assert everything.found() == []


def test_secrets_that_a_failing_server_repeats_are_written_nowhere(
    everything: Everything, monkeypatch: pytest.MonkeyPatch
) -> None:
    with little_server(Answer(b"{}")) as server:
        connect_all(monkeypatch, everything, server)
        for path in traefik():
            server.answers[path] = a_parrot()
        server.answers["/metrics"] = Answer(SECRETS["metrics"].encode(), status=403)
        go_everywhere(everything, "run-2")
        assert server.seen["/api/http/services/shop@file"]
    assert any("***" in text for text in everything.texts)
    assert everything.found() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"host": f"http://ann:{SECRETS['userinfo']}@127.0.0.1", "extra": FILE},
        {"host": f"http://127.0.0.1/?token={SECRETS['userinfo']}", "extra": FILE},
        {"host": "127.0.0.1", "port": 1, "password": SECRETS["password"], "login": SECRETS["login"], "extra": FILE},
        {"host": "127.0.0.1", "port": 1, "extra": {"file": "/x", "headers": {"X": {"deep": SECRETS["header"]}}}},
        {"host": "127.0.0.1", "port": 1, "extra": {"file": "/x", "token": SECRETS["header"]}},
        {"host": "127.0.0.1", "port": 1, "extra": '{"file": "' + SECRETS["header"]},
        {"conn_type": "aws", "host": "x", "password": SECRETS["password"], "extra": FILE},
    ],
    ids=["userinfo", "query", "nobody_there", "deep", "unknown_key", "not_json", "type"],
)
def test_secrets_of_a_connection_that_cannot_be_used_are_written_nowhere(
    everything: Everything, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    with little_server(Answer(b"{}"), traefik()) as server:
        connect_all(monkeypatch, everything, server)
        connect(monkeypatch, "security_lb", **fields)
        go_everywhere(everything, "run-3")
    assert everything.found() == []
    assert everything.tracebacks == []


NOBODY = "127.0.0.1:1/db"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg2://ann:{SECRETS['ledger']}@{NOBODY}",
        f"postgresql+psycopg2://ann:a/{SECRETS['ledger']}@{NOBODY}",
        f"oracel://ann:{SECRETS['ledger']}@{NOBODY}",
        f"postgresql+psycopg2://{NOBODY}?user=ann&password={SECRETS['ledger']}",
        f"postgresql+psycopg2://ann:a@{SECRETS['ledger']}@{NOBODY}",
    ],
    ids=["password", "slash", "dialect", "query", "at_sign"],
)
def test_password_of_a_ledger_that_cannot_be_opened_is_written_nowhere(
    everything: Everything, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    with little_server(Answer(b"{}"), traefik()) as server:
        connect_all(monkeypatch, everything, server)
        connect(monkeypatch, "canary_ledger", conn_type="generic", extra={"sqlalchemy_url": url})
        go_everywhere(everything, "run-4")
    assert any("cannot be opened" in text for text in [*everything.texts, everything.caplog.text])
    assert everything.found() == []

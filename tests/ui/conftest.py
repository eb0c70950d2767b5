"""The pages' app over a ledger full of states, with Airflow's simple auth manager deciding who may do what."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient

from canary_release.control.real_desk import open_ledger
from canary_release.ledger.store import Ledger
from demo.page_states import PageStates, balancer_connection

FORBIDDEN_DAG = "release_stock"


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with a service in every state; copied, never opened again."""
    file = tmp_path_factory.mktemp("states") / "ledger.db"
    ledger = Ledger.open(f"sqlite:///{file}")
    states = PageStates(ledger)
    states.everything()
    states.slow("stock", "v7")
    states.hostile()
    states.long_names()
    ledger.close()
    return file


@dataclass(frozen=True)
class Pages:
    """client: not signed in; ``as_`` gives the headers of a user by role."""

    client: TestClient
    ledger: Ledger
    balancer: Path

    @staticmethod
    def as_(role: str) -> dict[str, str]:
        return {"X-Test-Role": role}


def airflow_pages(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger, balancer: Path = Path(), known: set[str] | None = None
) -> Pages:
    """The app under Airflow's simple auth manager, without Airflow's database: it knows these DAGs, or all that are
    asked for, and hides FORBIDDEN_DAG from viewers.
    """
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.api_fastapi.core_api.security import get_user

    from canary_release.ui import permissions
    from canary_release.ui.sub_app import make_app

    class Manager(SimpleAuthManager):
        def get_authorized_dag_ids(self, *, user: SimpleAuthManagerUser, **_: object) -> set[str]:
            if user.role is None:
                return set()
            return (known or set()) - ({FORBIDDEN_DAG} if user.role == "viewer" else set())

    def signed_in(request: Request) -> SimpleAuthManagerUser:
        role = request.headers.get("X-Test-Role")
        if role is None:
            raise HTTPException(401, "Not authenticated")
        return SimpleAuthManagerUser(username=f"the-{role}", role=None if role == "none" else role)

    manager = Manager()
    monkeypatch.setattr(permissions, "get_auth_manager", lambda: manager)
    monkeypatch.setattr(permissions, "_teams_of", lambda dag_ids: {})
    monkeypatch.setattr(permissions, "_known_to_airflow", lambda dag_ids: dag_ids & {FORBIDDEN_DAG})
    app = make_app()
    app.dependency_overrides[get_user] = signed_in
    return Pages(TestClient(app), ledger, balancer)


@pytest.fixture
def pages(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    shutil.copyfile(filled, tmp_path / "ledger.db")
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    connection = {"conn_type": "generic", "extra": {"sqlalchemy_url": url}}
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_LEDGER", json.dumps(connection))
    for name, value in balancer_connection(tmp_path / "balancer.json", "checkout", 5).items():
        monkeypatch.setenv(name, value)
    open_ledger.cache_clear()
    known = {"release_checkout", "release_web", "release_search", "release_profile", "release_billing", FORBIDDEN_DAG}
    yield airflow_pages(monkeypatch, open_ledger(), tmp_path / "balancer.json", known)
    open_ledger().close()
    open_ledger.cache_clear()

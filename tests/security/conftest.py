"""A release of a small world whose run goes through the real operators."""

import shutil
from pathlib import Path

import pytest

from canary_release.control import real_desk
from canary_release.ledger.store import Ledger
from canary_release.operators import rollout_task
from control.world import World
from security.hostile import SHOP


@pytest.fixture(scope="session")
def empty_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger's file with its schema, to be copied: making one takes longer than most tests."""
    file = tmp_path_factory.mktemp("ledger") / "ledger.db"
    Ledger.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def world(tmp_path: Path, empty_ledger: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Operators open a desk of this world; every write to its load balancer is in ``world.balancer.writes``."""
    (tmp_path / "shop.yaml").write_text(SHOP)
    shutil.copy(empty_ledger, tmp_path / "ledger.db")
    there = World(tmp_path)
    there.desk.read_release = real_desk.read_frozen
    for module in (rollout_task, real_desk):
        monkeypatch.setattr(module, "open_desk", lambda: there.desk)
    return there

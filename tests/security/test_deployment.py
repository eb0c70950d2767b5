"""What is shipped for a first installation: pinned versions, no default passwords, nothing open to the network."""

import re
from typing import Any

import pytest
import yaml

from security.hostile import ROOT


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
    return loaded


def pins(name: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-")]


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_every_package_is_pinned_to_one_version(name: str) -> None:
    found = pins(name)
    assert found
    assert not [line for line in found if not re.match(r"^[A-Za-z0-9._\[\]-]+==[^*,\s]+(\s*;.*)?$", line)]


def test_ports_are_published_on_loopback_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert not [port for port in ports if not str(port).startswith("127.0.0.1:")]


def test_every_secret_of_the_composition_must_be_set_and_none_is_shipped(compose: dict[str, Any]) -> None:
    example = (ROOT / ".env.example").read_text()
    for name in ("POSTGRES_PASSWORD", "JWT_SECRET", "FERNET_KEY"):
        assert re.search(rf"^{name}=$", example, re.M), f"{name} must be empty"
        assert f"${{{name}:?" in (ROOT / "docker-compose.yaml").read_text()
    text = yaml.safe_dump(compose).lower()
    assert "all_admins" not in text
    assert "admin:admin" not in text
    assert "0.0.0.0" not in text


def test_checkout_is_mounted_read_only(compose: dict[str, Any]) -> None:
    mounts = [volume for volume in compose["x-airflow"]["volumes"] if volume.startswith("./")]
    assert len(mounts) == 3
    assert all(volume.endswith(":ro") for volume in mounts)

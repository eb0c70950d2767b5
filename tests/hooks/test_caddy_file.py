"""The file that Caddy reads for every request: what stands in it, and what must not be taken for a share."""

import json
import random
from decimal import Decimal
from pathlib import Path

import pytest

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.caddy_file import CaddyFileHook, threshold

BLUE, GREEN = "shop-blue", "shop-green"


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "shop"
    file.write_text(f"0 {GREEN}=0 {BLUE}=10000\n")
    connection = {"conn_type": "http", "host": "127.0.0.1", "port": 9, "extra": {"file": str(file)}}
    monkeypatch.setenv("AIRFLOW_CONN_CADDY", json.dumps(connection))
    return file


def shift(percent: str) -> None:
    weights = Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))
    CaddyFileHook("caddy", (BLUE, GREEN), CaddyFileHook.Options(route="shop")).set_weights(weights)


@pytest.mark.parametrize(
    ("percent", "line"),
    [
        ("0", f"0 {GREEN}=0 {BLUE}=10000\n"),
        ("0.01", f"00068db9 {GREEN}=1 {BLUE}=9999\n"),
        ("25", f"40000000 {GREEN}=2500 {BLUE}=7500\n"),
        ("100", f"g {GREEN}=10000 {BLUE}=0\n"),
    ],
)
def test_a_share_is_a_line_whose_first_word_parts_the_requests(share: Path, percent: str, line: str) -> None:
    shift(percent)
    assert share.read_text() == line


def test_texts_are_compared_as_the_numbers_are(share: Path) -> None:
    draw = random.Random(7)
    numbers = [f"{draw.getrandbits(32):08x}-{draw.getrandbits(16):04x}-4" for _ in range(20_000)]
    for percent in ("0", "1", "25", "100"):
        shift(percent)
        below = sum(number < share.read_text() for number in numbers)
        assert abs(below / 200 - float(percent)) < 1.5
        assert below == {"0": 0, "100": 20_000}.get(percent, below)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "40000000\n",
        f"40000000 {GREEN}=2500\n",
        f"40000000 {GREEN}=2501 {BLUE}=7499\n",  # somebody changed the one and not the other
        f"40000000 {GREEN}=2500 {GREEN}=7500\n",
        f"40000000 {GREEN}=2500 {BLUE}=7500 shop-red=1\n",
        f"4000000G {GREEN}=2500 {BLUE}=7500\n",
    ],
)
def test_a_file_that_is_not_as_it_was_left_is_an_error_and_stays(share: Path, text: str) -> None:
    share.write_text(text)
    with pytest.raises(LoadBalancerError):
        shift("5")
    assert share.read_text() == text


def test_other_names_are_unknown_targets(share: Path) -> None:
    share.write_text("0 old=0 new=10000\n")
    with pytest.raises(UnknownTargetError, match="no share for shop-blue and shop-green; it has old, new"):
        shift("5")


def test_every_share_has_a_threshold_of_its_own() -> None:
    assert len({threshold(units) for units in range(10_001)}) == 10_001

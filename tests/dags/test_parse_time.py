"""Parsing many release files stays cheap and linear, since the DAG processor does it again and again."""

import time
from pathlib import Path

import pytest

from canary_release.dag_factory import release_dags
from security.hostile import SHOP

FILES = 200
SECONDS = 2.0


def parsed(folder: Path, count: int) -> float:
    """Seconds of this thread's own processor time, so that a busy machine does not count."""
    folder.mkdir()
    for number in range(count):
        (folder / f"shop{number:03d}.yaml").write_text(SHOP.replace("service: shop", f"service: shop{number:03d}"))
    began = time.thread_time()
    dags = release_dags(folder)
    took = time.thread_time() - began
    assert len(dags) == count
    assert not [dag for dag in dags.values() if "broken" in dag.tags]
    return took


@pytest.mark.figures
def test_two_hundred_release_files_are_parsed_within_two_seconds_and_linearly(tmp_path: Path) -> None:
    parsed(tmp_path / "warm", 5)
    few, many = parsed(tmp_path / "few", FILES // 4), parsed(tmp_path / "many", FILES)
    print(f"{FILES} release files: {many:.2f} s, {FILES // 4}: {few:.2f} s")
    assert many <= SECONDS
    assert many <= 8 * few

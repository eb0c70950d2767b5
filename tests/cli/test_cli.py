"""The command line as a person and a CI job use it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from canary_release.cli import main
from canary_release.control.real_desk import open_ledger

ROOT = Path(__file__).resolve().parents[2]
SHOP = str(ROOT / "include" / "releases" / "shop.yaml")
WINDOWS = """\
window,start,side,weight,instances,requests,errors
0,0,stable,0.05,4,9500,19
0,0,canary,0.05,1,500,1
1,10,stable,0.05,4,9500,19
1,10,canary,0.05,1,500,250
2,20,stable,0.05,4,9500,19
2,20,canary,0.05,1,500,250
"""


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"sqlalchemy_url": f"sqlite:///{tmp_path / 'ledger.db'}"}
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_LEDGER", json.dumps({"conn_type": "generic", "extra": extra}))
    open_ledger.cache_clear()


def test_lint_says_ok_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", SHOP]) == 0
    assert capsys.readouterr().out == f"{SHOP}: ok\n"


def test_lint_of_one_bad_file_among_good_ones_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(Path(SHOP).read_text().replace("lease:", "leese:"))
    assert main(["lint", SHOP, str(bad), str(tmp_path / "missing.yaml")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(f"{bad}:") and "lease" in line]
    assert [line for line in lines if "missing.yaml" in line and "cannot be read" in line]


def test_plan_shows_every_weight(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", SHOP, "--steps", "5,100"]) == 0
    assert "5/100 %" in capsys.readouterr().out


def test_plan_of_a_foreign_weight_lists_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", SHOP, "--steps", "7,100"]) == 1
    assert "choose from 1, 5, 25, 100" in capsys.readouterr().err


def test_status_of_an_empty_ledger_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert "no rollout has been started yet" in capsys.readouterr().out


def test_status_and_abort_of_an_unknown_service_exit_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "shpo"]) == 1
    assert main(["abort", "shpo"]) == 1
    assert "the ledger knows no service 'shpo'" in capsys.readouterr().err


def test_judge_prints_a_line_a_window_and_sees_the_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "windows.csv"
    table.write_text(WINDOWS)
    assert main(["judge", SHOP, "--windows", str(table)]) == 0
    learned, *lines = capsys.readouterr().out.splitlines()
    assert learned.startswith("learned: How errors clump is not known yet")
    assert len(lines) == 3
    assert "roll_back" in lines[1]
    assert lines[2] == "1 more window came after it; --json judges what came as if nobody had acted."
    assert main(["judge", SHOP, "--windows", str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["decision"] == "roll_back"


def test_judge_of_a_bad_table_names_the_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "windows.csv"
    table.write_text(WINDOWS.replace("errors", "erors"))
    assert main(["judge", SHOP, "--windows", str(table)]) == 1
    assert "errors" in capsys.readouterr().err


def test_module_runs_as_a_program_and_never_shows_a_traceback(tmp_path: Path) -> None:
    noise = tmp_path / "noise.yaml"
    noise.write_bytes(b"\x00\xff\xfe")
    done = subprocess.run(
        [sys.executable, "-m", "canary_release", "lint", str(noise)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "plugins")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "noise.yaml" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr

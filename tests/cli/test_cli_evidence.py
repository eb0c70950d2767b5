"""What people get out of the judge at a terminal: plans that say what they can see, backtests, exports, replays."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from canary_release.cli import main
from canary_release.control.real_desk import open_ledger
from canary_release.core.frames import frame_from_windows, windows_from_frame
from canary_release.core.wording import odds
from control.test_rollout import release
from control.world import BLUE, World, a_release
from core.simulated import Traffic, rollout

ROOT = Path(__file__).resolve().parents[2]
FILE = """\
service: shop
load_balancer: {type: memory, connection: shop_balancer, backends: [shop-blue, shop-green]}
metrics:       {type: replayed, connection: shop_metrics}
poll: 30s
lease: 120s
steps:
  - {weight: 1%,  bake: 10m}
  - {weight: 5%,  bake: 10m}
  - {weight: 25%, bake: 10m}
  - {weight: 50%, bake: 10m}
  - {weight: 100%, bake: 10m}
checks:
  - {metric: error_rate,     max_increase: 0.5pp}
  - {metric: page_load_time, quantile: 0.95, max_increase: 10%}
"""
SHORT = """\
service: shop
load_balancer: {type: memory, connection: shop_balancer, backends: [shop-blue, shop-green]}
metrics:       {type: replayed, connection: shop_metrics}
poll: 1s
lease: 20s
steps: [{weight: 5%, bake: 8s}, {weight: 100%, bake: 8s}]
checks:
  - {metric: error_rate, max_increase: 0.5pp}
"""
LOOSE = SHORT.replace("0.5pp", "60pp")
Printed = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"sqlalchemy_url": f"sqlite:///{tmp_path / 'ledger.db'}"}
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_LEDGER", json.dumps({"conn_type": "generic", "extra": extra}))
    monkeypatch.setenv("COLUMNS", "200")
    open_ledger.cache_clear()


@pytest.fixture
def file(tmp_path: Path) -> str:
    return written(tmp_path / "shop.yaml", FILE)


@pytest.fixture
def windows(tmp_path: Path) -> str:
    return written_table(tmp_path / "windows.csv", Traffic(1000, times=8))


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def written_table(path: Path, traffic: Traffic) -> str:
    frame_from_windows(rollout(np.random.default_rng(4), traffic)).to_csv(path, index=False)
    return str(path)


def past(tmp_path: Path) -> tuple[str, str]:
    """A promoted and a rolled-back rollout in the ledger."""
    world = World(tmp_path, a_release(5, 100, bake=8.0))
    good = release(world, "v2")
    world.metrics.error_rate[BLUE] = 0.1
    return good, release(world, "v3")


# --- plan -------------------------------------------------------------------------------------------------------------


def test_plan_without_traffic_says_how_to_give_it(file: str, capsys: Printed) -> None:
    assert main(["plan", file]) == 0
    out = capsys.readouterr().out
    assert "detects" not in out.splitlines()[1]
    assert "give --rate 40/s --error-rate 0.5%, --history FILE, or --from-source" in out


def test_plan_with_a_rate_shows_what_each_step_detects_warns_and_counts_the_cost(file: str, capsys: Printed) -> None:
    assert main(["plan", file, "--rate", "40/s", "--error-rate", "0.5%"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].endswith("detects")
    assert "error_rate +" in out.splitlines()[2]
    assert "warning: step 1: at 1 % and 40 requests/s this step sees +1 pp of error_rate (twice its limit) in" in out
    assert "cost: a canary with error_rate +1 pp from its first request on" in out
    assert "page_load_time p95: unknown, needs latency buckets from a history" in out


def test_plan_with_a_history_knows_the_latency_too(file: str, tmp_path: Path, capsys: Printed) -> None:
    history = written_table(tmp_path / "history.csv", Traffic(1000))
    assert main(["plan", file, "--history", history]) == 0
    out = capsys.readouterr().out
    assert "page_load_time p95 +" in out.splitlines()[2]
    assert f"from {history}" in out


def test_plan_from_the_source_reads_what_it_remembers(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    made = rollout(np.random.default_rng(4), Traffic(1000))
    recent = pd.Timestamp.now(tz="UTC").timestamp() - 3600
    table = frame_from_windows(made).assign(
        start=lambda frame: frame.start + recent, end=lambda frame: frame.end + recent
    )
    table.to_csv(tmp_path / "recent.csv", index=False)
    connect(monkeypatch, "shop_metrics", {"file": str(tmp_path / "recent.csv")})
    connect(monkeypatch, "shop_balancer", {})
    assert main(["plan", file, "--from-source"]) == 0, capsys.readouterr().err
    assert "from 40 min of history of the metric source" in capsys.readouterr().out


def connect(monkeypatch: pytest.MonkeyPatch, name: str, extra: dict[str, str]) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps({"conn_type": "generic", "extra": extra}))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rate", "40"], "is no rate of requests"),
        (["--rate", "0/s"], "is no rate of requests"),
        (["--rate", "40/s", "--error-rate", "0.5"], "is not a percentage"),
        (["--error-rate", "0.5%"], "--error-rate needs --rate"),
        (["--history", "missing.csv"], "missing.csv cannot be read"),
        (["--from-source"], "shop_metrics"),
    ],
)
def test_plan_with_bad_traffic_is_one_sentence(file: str, arguments: list[str], said: str, capsys: Printed) -> None:
    assert main(["plan", file, *arguments]) == 1
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_plan_with_two_kinds_of_traffic_is_a_wrong_call(file: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", file, "--rate", "40/s", "--from-source"])
    assert ended.value.code == 2


# --- judge ------------------------------------------------------------------------------------------------------------


def test_judge_as_json_gives_the_whole_judgement_a_line(file: str, windows: str, capsys: Printed) -> None:
    assert main(["judge", file, "--windows", windows, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 80
    assert {"window", "decision", "verdict", "evidence", "p_value", "checks", "sentence", "reason"} <= set(lines[0])
    assert [check["check"] for check in lines[0]["checks"]] == ["error_rate", "page_load_time p95"]
    assert lines[-1]["decision"] == "roll_back"


def test_judge_takes_a_history_of_the_service(file: str, windows: str, tmp_path: Path, capsys: Printed) -> None:
    history = written_table(tmp_path / "history.csv", Traffic(1000))
    assert main(["judge", file, "--windows", windows, "--history", history]) == 0
    assert " roll_back " in capsys.readouterr().out.splitlines()[-2]


def test_judge_ends_with_the_rollback_and_says_how_much_came_after_it(
    file: str, tmp_path: Path, capsys: Printed
) -> None:
    bad = written_table(tmp_path / "bad.csv", Traffic(1000, times=20.0))
    assert main(["judge", file, "--windows", bad]) == 0
    *_, last, after = capsys.readouterr().out.splitlines()
    assert last.split()[1] == "roll_back"
    left = int(after.split()[0])
    assert after == f"{left} more windows came after it; --json judges what came as if nobody had acted."
    assert int(last.split()[0]) + 1 + left == 80


def test_judge_as_json_and_as_lines_use_the_same_history(
    file: str, windows: str, tmp_path: Path, capsys: Printed
) -> None:
    history = written_table(tmp_path / "history.csv", Traffic(1000))
    assert main(["judge", file, "--windows", windows, "--history", history, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main(["judge", file, "--windows", windows, "--history", history]) == 0
    lines = capsys.readouterr().out.splitlines()
    judged = [line for line in lines if not line.startswith("learned: ") and "more window" not in line]
    assert len(judged) >= 3
    for row, line in zip(found, judged, strict=False):
        assert line.startswith(f"{row['window']:>6}  {row['decision']}")
        assert odds(row["evidence"]) in line
    assert any("of the service: counts are" in line for line in lines if line not in judged)


def test_judge_of_a_bad_table_names_file_and_column(file: str, windows: str, capsys: Printed) -> None:
    Path(windows).write_text(Path(windows).read_text().replace("requests", "requets", 1))
    assert main(["judge", file, "--windows", windows]) == 1
    err = capsys.readouterr().err
    assert "windows.csv: column 'requests' is missing" in err
    assert len(err.splitlines()) == 1


def test_judge_and_export_of_parquet_work_or_name_the_missing_package(
    file: str, windows: str, tmp_path: Path, capsys: Printed
) -> None:
    good, _ = past(tmp_path)
    name = str(tmp_path / "windows.parquet")
    status = main(["export", good, "-o", name])
    if importlib.util.find_spec("pyarrow") is None:
        assert status == 1
        assert "need the package pyarrow" in capsys.readouterr().err
        return
    assert status == 0
    assert windows_from_frame(pd.read_parquet(name)) == open_ledger().windows(good)
    assert main(["judge", file, "--windows", name]) == 0


# --- backtest ---------------------------------------------------------------------------------------------------------


def test_backtest_with_the_same_rules_changes_nothing(tmp_path: Path, capsys: Printed) -> None:
    past(tmp_path)
    same = written(tmp_path / "same.yaml", SHORT)
    assert main(["backtest", same]) == 0
    out = capsys.readouterr().out
    assert "shop-1" in out
    assert "shop-2" in out
    assert "of 2 rollouts 0 would have ended otherwise" in out


def test_backtest_with_looser_rules_says_what_it_cannot_know(tmp_path: Path, capsys: Printed) -> None:
    _, bad = past(tmp_path)
    loose = written(tmp_path / "loose.yaml", LOOSE)
    assert main(["backtest", loose, "--rollouts", "1", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    row = json.loads(line)
    assert (row["rollout"], row["was"], row["would"], row["requests_spared"]) == (bad, "rolled_back", "unknown", None)
    assert "unknown after window" in row["note"]
    assert main(["backtest", loose]) == 0
    assert "unknown after @" in capsys.readouterr().out


def test_backtest_into_a_csv_file(tmp_path: Path, capsys: Printed) -> None:
    past(tmp_path)
    file, out = written(tmp_path / "loose.yaml", LOOSE), tmp_path / "backtest.csv"
    assert main(["backtest", file, "--csv", str(out)]) == 0
    assert list(pd.read_csv(out).rollout) == ["shop-2", "shop-1"]
    assert "of 2 rollouts" in capsys.readouterr().out


def test_backtest_without_recorded_rollouts_says_so(file: str, capsys: Printed) -> None:
    assert main(["backtest", file, "--service", "cart"]) == 1
    assert "the ledger has no finished rollout of 'cart' with windows; it knows: none yet." in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-3", "many", "1e3"])
def test_backtest_over_a_number_that_is_none_is_a_wrong_call(file: str, number: str, capsys: Printed) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["backtest", file, "--rollouts", number])
    assert ended.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


# --- export -----------------------------------------------------------------------------------------------------------


def test_export_gives_what_the_ledger_holds(tmp_path: Path, capsys: Printed) -> None:
    good, _ = past(tmp_path)
    out = tmp_path / "windows.csv"
    assert main(["export", good, "-o", str(out)]) == 0
    assert f"rows of {good} (promoted)" in capsys.readouterr().out
    assert windows_from_frame(pd.read_csv(out)) == open_ledger().windows(good)


def test_export_goes_on_into_judge(tmp_path: Path, capsys: Printed) -> None:
    _, bad = past(tmp_path)
    assert main(["export", bad]) == 0
    table = written(tmp_path / "windows.csv", capsys.readouterr().out)
    file = written(tmp_path / "shop.yaml", SHORT)
    assert main(["judge", file, "--windows", table]) == 0
    assert " roll_back " in capsys.readouterr().out.splitlines()[-1]


def test_export_of_an_unknown_rollout_is_one_sentence(capsys: Printed) -> None:
    assert main(["export", "shop-99"]) == 1
    assert capsys.readouterr().err == "canary: the ledger knows no rollout 'shop-99'.\n"


def test_program_without_a_ledger_never_shows_a_traceback(file: str, tmp_path: Path) -> None:
    extra = {"sqlalchemy_url": f"sqlite:///{tmp_path / 'missing' / 'ledger.db'}"}
    connection = json.dumps({"conn_type": "generic", "extra": extra})
    done = subprocess.run(
        [sys.executable, "-m", "canary_release", "backtest", file],
        env=os.environ | {"PYTHONPATH": str(ROOT / "plugins"), "AIRFLOW_CONN_CANARY_LEDGER": connection},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "canary: the ledger at" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr

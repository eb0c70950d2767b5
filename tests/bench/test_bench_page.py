"""The bench's rows, the promises held against them, and its command."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.__main__ import main
from bench.against_peers import beaten_by, delay
from bench.chance import chance_of_as_many, refuted, wilson
from bench.grid import Cell, Past, Row, Walk, hurt_until, left_unsafely, measured, own_series, run
from bench.profiles import PROFILES
from bench.promises import findings
from bench.report import page, read_csv, write_csv
from bench.traffic import CANARY, Plan, Regression, Service, history, simulate

SMALL = Plan(ladder=(0.1, 0.5), window=60.0, seconds=600.0)
BAD = Cell("bad", Service(), SMALL, "errors x20 from 300 s", Regression(errors=20.0, onset=300.0))


def test_rollback_before_the_onset_is_false_and_its_time_is_not_averaged() -> None:
    seen = simulate(BAD.service, BAD.plan, BAD.regression, 4, 41)
    row = measured(BAD, "by hand", np.array([120.0, 360.0, 420.0, np.inf]), seen)
    assert (row.false, row.missed, row.mean, row.late) == (0.25, 0.25, 90.0, np.inf)


def test_any_rollback_of_a_good_canary_is_false() -> None:
    good = Cell("good", Service(), SMALL)
    seen = simulate(good.service, good.plan, good.regression, 4, 42)
    assert measured(good, "by hand", np.array([60.0, np.inf, np.inf, np.inf]), seen).false == 0.25


def test_requests_are_hurt_from_the_onset_until_the_rollback() -> None:
    seen = simulate(BAD.service, BAD.plan, BAD.regression, 3, 43)
    hurt = hurt_until(seen, BAD.regression, np.array([300.0, 420.0, np.inf]))
    after = seen.requests[CANARY][:, 5:] * 0.005 * 19.0
    assert hurt == pytest.approx([0.0, after[1, :2].sum(), after[2].sum()])


def test_every_judge_sees_the_same_rollouts_and_the_gross_regression() -> None:
    rows = run(BAD, 5, 44, learned=False)
    assert len({row.judge for row in rows}) == len(rows) == 10
    by_judge = {row.judge: row for row in rows}
    assert by_judge["oracle"].missed == by_judge["ours"].missed == 0.0
    assert by_judge["oracle"].mean <= by_judge["ours"].mean <= 300.0


def test_judge_is_told_of_nothing_of_the_service_as_a_whole_and_of_its_instances() -> None:
    own = {row.judge: row for row in run(BAD, 2, 44, learned=True) if row.judge in set(Past)}
    assert list(own) == ["ours", "ours, own series", "ours, history"]
    table = history(BAD.service, 1.0, 60.0, 3)
    together = own_series(table)
    assert len(together) == 60
    assert together["errors"].sum() == table["errors"].sum()
    assert set(together["instances"]) == {BAD.service.instances}


def test_judge_that_decides_itself_finishes_before_the_plan() -> None:
    cell = Cell("early", Service(rate=5000.0), Plan())
    (row,) = run(cell, 3, 45, learned=False)
    assert row.finished == 1.0
    assert row.finish < cell.plan.seconds


def test_step_left_early_is_unsafe_only_when_the_next_weight_is_too_much() -> None:
    cell = Cell("early", Service(), Plan(), "x", Regression(errors=2.0))  # 1.0 * w_next >= 0.25 from the second step on
    first, second = ((0, 60.0),), ((0, 60.0), (1, 60.0))
    assert not left_unsafely(cell, Walk("unfinished", 2400.0, first))
    assert left_unsafely(cell, Walk("unfinished", 2400.0, second))
    assert not left_unsafely(cell, Walk("roll_back", 120.0, second)), "it was rolled back from the second, not raised"
    assert not left_unsafely(cell, Walk("unfinished", 2400.0, ((0, 60.0), (1, 600.0)))), "baked to its end"


def test_sampling_error_of_a_share_without_events_is_not_zero() -> None:
    low, high = wilson(0.0, 300)
    assert low == pytest.approx(0.0)
    assert high == pytest.approx(0.01264, abs=1e-4)


def test_a_promise_is_refuted_only_by_more_than_chance() -> None:
    assert chance_of_as_many(0, 100, 0.01) == pytest.approx(1.0)
    assert chance_of_as_many(1, 100, 0.01) == pytest.approx(1.0 - 0.99**100)
    assert not refuted(0.02, 100, 0.01)
    assert refuted(0.08, 100, 0.01)


def test_a_broken_promise_is_named_with_its_cell() -> None:
    kept = Row("good: kept", "good", "ours", 100, false=0.0)
    broken = Row("good: broken", "good", "ours", 100, false=0.09)
    (found,) = findings([kept, broken])
    assert (found.cells, len(found.broken)) == (2, 1)
    assert found.broken[0].startswith("good: broken: 9.0 %")
    assert "good: broken: 9.0 %" in page([kept, broken], "by hand")


def test_slower_than_promised_is_measured_against_the_oracle() -> None:
    oracle = Row("bad: x; iid", "bad", "oracle", 100, false=0.0, missed=0.0, mean=100.0)
    fast = replace(oracle, judge="ours", mean=210.0)
    slow = replace(oracle, judge="ours", mean=211.0)
    assert [one.broken for one in findings([oracle, fast])] == [(), ()]
    assert findings([oracle, slow])[1].broken == ("bad: x; iid: 211 s, allowed 210 s (oracle 100 s)",)


def test_promise_that_asks_for_more_than_the_counts_can_tell_is_called_a_mistake() -> None:
    oracle = Row("bad: x; iid", "bad", "oracle", 100, false=0.0, missed=0.0, mean=100.0)
    found = findings([oracle, replace(oracle, judge="ours", mean=500.0, noisy_bound=300.0)])[1]
    assert found.impossible == len(found.broken) == 1
    assert "no test can in less than 300 s" in found.broken[0]
    assert findings([oracle, replace(oracle, judge="ours", mean=500.0, noisy_bound=150.0)])[1].impossible == 0


def test_promise_that_a_test_that_is_told_the_noise_does_not_keep_either_is_said_to_be_so() -> None:
    oracle = Row("bad: x; iid", "bad", "oracle", 100, false=0.0, missed=0.0, mean=100.0)
    ours, told = replace(oracle, judge="ours", mean=300.0, missed=0.3), replace(oracle, judge="told", mean=250.0)
    missed, slower, *of_told = findings([oracle, ours, told])
    assert (slower.impossible, slower.too_much) == (0, 1)
    assert slower.broken == ("bad: x; iid: 300 s, allowed 210 s (oracle 100 s); *told* does not either: 250 s",)
    assert missed.broken == ("bad: x; iid: 30.0 %",), "told misses none"
    assert [len(found.broken) for found in of_told] == [0, 1]
    assert of_told[1].broken == ("bad: x; iid: 250 s, allowed 210 s (oracle 100 s)",)
    assert "- *ours*: 3.72 times as long as *told* in the median of 1 cells" in page([oracle, ours, told], "by hand")


def test_promise_of_fewer_misses_than_the_best_test_has_is_called_a_mistake() -> None:
    oracle = Row("bad: x; iid", "bad", "oracle", 100, false=0.0, missed=0.0, mean=100.0)
    ours = replace(oracle, judge="ours", missed=0.4, least_missed=0.083)
    found = findings([oracle, ours])[0]
    assert (found.impossible, found.broken) == (
        1, ("bad: x; iid: 40.0 %; a mistake in the promise, no test can with less than 8.3 %",)
    )  # fmt: skip
    assert findings([oracle, replace(ours, least_missed=0.019)])[0].impossible == 0


def test_promise_of_a_sooner_promotion_than_the_best_rules_is_called_a_mistake() -> None:
    early = Row("early: none; iid", "early", "ours", 100, finish=900.0, finished=1.0, unsafe=0.0, soonest=742.0)
    found = findings([early])[0]
    assert (found.impossible, found.broken) == (
        1, ("early: iid: 900 s; a mistake in the promise, no test can in less than 742 s",)
    )  # fmt: skip
    assert findings([replace(early, soonest=590.0)])[0].impossible == 0
    assert "| iid | 100 | 742 s |" in page([early], "by hand")


def test_judge_is_measured_against_what_noise_leaves_where_it_leaves_enough() -> None:
    oracle = Row("bad: x; clumps of 3", "bad", "oracle", 100, false=0.0, missed=0.0, mean=100.0)
    ours = replace(oracle, judge="ours", mean=661.0, noisy_bound=400.0)
    found = findings([oracle, ours])[2]
    assert found.broken == ("bad: x; clumps of 3: 661 s, allowed 660 s (bound with noise 400 s)",)
    assert findings([oracle, replace(ours, mean=659.0)])[2].broken == ()
    assert len(findings([oracle, replace(ours, noisy_bound=np.inf)])) == 2


def test_only_peers_as_careful_as_the_judge_are_compared_with_it() -> None:
    """Under the same noise and traffic; a miss counts as the rest of the rollout."""
    good = Row("good: none; iid; 50/s; x", "good", "kayenta", 100, false=0.0)
    bad = Row("bad: y; iid; 50/s; x", "bad", "kayenta", 100, false=0.0, missed=0.5, mean=300.0)
    ours = replace(bad, judge="ours", missed=0.0, mean=1351.0)
    assert [delay(bad), delay(ours)] == [1350.0, 1351.0]
    assert [won for _, others in beaten_by([ours], [good, bad]) for _, won in others] == [False]
    assert [won for _, others in beaten_by([replace(ours, mean=1349.0)], [good, bad]) for _, won in others] == [True]
    assert [others for _, others in beaten_by([ours], [replace(good, false=0.02), bad])] == [[]]
    elsewhere = replace(good, cell="good: none; shared; 50/s; x")
    assert [others for _, others in beaten_by([ours], [elsewhere, bad])] == [[]]


def test_rows_survive_the_csv(tmp_path: Path) -> None:
    rows = run(BAD, 2, 46, learned=False)
    write_csv(rows, tmp_path / "rows.csv")
    again = read_csv(tmp_path / "rows.csv")
    assert [(row.cell, row.judge, row.rollouts) for row in again] == [
        (row.cell, row.judge, row.rollouts) for row in rows
    ]
    assert [row.hurt for row in again] == pytest.approx([row.hurt for row in rows], rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_no_two_cells_of_a_profile_are_the_same(profile: str) -> None:
    names = [cell.name for cell, _ in PROFILES[profile]()]
    assert len(set(names)) == len(names)


def test_full_profile_has_every_value_of_every_dimension_of_a_good_canary() -> None:
    good = [cell for cell, _ in PROFILES["full"]() if cell.kind == "good"]
    assert {cell.plan.window for cell in good} == {10.0, 15.0, 30.0, 60.0}
    assert {cell.service.instances for cell in good} == {4, 12, 40, 200}
    assert {cell.error_limit for cell in good} == {"none", "10%", "0.5pp"}
    assert len({cell.plan.ladder for cell in good}) == 2
    turns = [cell for cell in good if cell.latency_limit == "10%"]
    pairs = {(cell.service.noise.name, cell.service.rate, cell.service.errors) for cell in turns}
    assert len(pairs) == len(turns) == 48


def test_full_profile_has_good_canaries_without_any_tolerance_and_with_few_instances() -> None:
    strict = [cell for cell, _ in PROFILES["full"]() if cell.kind == "good" and cell.latency_limit == "none"]
    assert {cell.error_limit for cell in strict} == {"none"}
    assert {cell.service.instances for cell in strict} == {4}
    wandering = {cell.service.noise.deviation for cell in strict if cell.service.noise.lasting == 600.0}
    assert {0.2, 0.3} <= wandering


def test_command_runs_one_cell_writes_its_page_and_does_not_run_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, text = tmp_path / "rows.csv", tmp_path / "page.md"
    asked = ["--cells", "bad: errors x20; iid;*", "--rollouts", "2", "--no-history"]
    asked += ["--csv", str(rows), "--markdown", str(text)]
    assert main(asked) == 0
    assert "| errors x20; iid | 2 |" in text.read_text()
    before = rows.read_bytes()
    capsys.readouterr()
    assert main(asked) == 0
    assert "bench: " not in capsys.readouterr().err
    assert rows.read_bytes() == before


def test_rows_of_another_seed_are_not_mixed_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = tmp_path / "rows.csv"
    write_csv(run(BAD, 1, 47, learned=False), rows)
    assert main(["--csv", str(rows), "--seed", "48"]) == 2
    assert "made with another seed than 48" in capsys.readouterr().err


def test_pattern_without_a_cell_is_an_error_that_says_what_to_try(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cells", "nothing"]) == 2
    assert "no cell of the profile quick matches 'nothing'" in capsys.readouterr().err


def test_table_of_something_else_is_an_error_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    assert main(["--csv", str(other)]) == 2
    assert "not a table of this bench" in capsys.readouterr().err


def test_rows_of_an_older_bench_are_an_error_that_says_what_they_lack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = tmp_path / "older.csv"
    write_csv([Row("good: none", "good", "ours", 100, false=0.0)], older)
    pd.read_csv(older).drop(columns=["least_missed", "soonest"]).to_csv(older, index=False)
    assert main(["--csv", str(older)]) == 2
    said = capsys.readouterr().err
    assert said == (
        f"bench: {older}: made by an older bench, without least_missed and soonest; remove it or name another file.\n"
    )

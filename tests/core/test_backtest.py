"""Past rollouts under other rules, on recorded windows of simulated traffic."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from canary_release.core.backtest import COLUMNS, PROMOTED, ROLLED_BACK, UNKNOWN, RecordedRollout, backtest, summary
from canary_release.core.release import Check, CheckKind, Limit, LimitKind
from canary_release.core.values import Window
from core.simulated import ERRORS, Traffic, release_of, rollout

LOOSE = Check("error_rate", CheckKind.PROPORTION, max_change=Limit(LimitKind.POINTS, 0.2, "20pp"))
STRICT = release_of(ERRORS, poll=30.0)
GOOD, BAD = (rollout(np.random.default_rng(seed), Traffic(times=times)) for seed, times in ((1, 1.0), (2, 8.0)))


def past(windows: Sequence[Window], was: str, was_window: int | None, note: str = "") -> RecordedRollout:
    return RecordedRollout("shop-1", "v2", 1_800_000_000.0, was, was_window, note, windows)


def judged(release: object, *recorded: RecordedRollout) -> pd.Series:
    table = backtest(release, recorded)  # type: ignore[arg-type]
    assert list(table.columns) == COLUMNS
    return table.iloc[0]


def test_good_rollout_ends_as_it_did() -> None:
    row = judged(STRICT, past(GOOD, PROMOTED, 79))
    assert (row.would, row.changed, row.requests_spared) == (PROMOTED, False, 0)


def test_bad_version_that_was_promoted_would_have_been_stopped_and_its_users_spared() -> None:
    row = judged(STRICT, past(BAD, PROMOTED, 79))
    assert (row.would, row.changed) == (ROLLED_BACK, True)
    after = [window.canary for window in BAD[row.would_window + 1 :] if window.canary]
    assert row.requests_spared == sum(counts.requests for counts in after)
    # 4 % of the canary's requests failed, 0.5 % of stable's.
    assert row.errors_spared == pytest.approx(0.035 * row.requests_spared, rel=0.1)
    assert "Certain enough to roll back" in row.note


def test_rollback_that_the_same_rules_would_repeat_has_not_changed() -> None:
    first = judged(STRICT, past(BAD, PROMOTED, 79)).would_window
    row = judged(STRICT, past(BAD[: first + 1], ROLLED_BACK, int(first)))
    assert (row.would, row.would_window, row.changed, row.requests_spared) == (ROLLED_BACK, first, False, 0)


def test_looser_rules_that_would_have_gone_on_are_unknown_after_the_recording() -> None:
    loose = release_of(LOOSE, poll=30.0)
    row = judged(loose, past(BAD[:6], ROLLED_BACK, 5))
    assert (row.would, row.would_window) == (UNKNOWN, 5)
    assert "unknown after window 5" in row.note
    assert pd.isna(row.requests_spared)
    extra = [
        counts.errors - counts.requests * stable.errors / stable.requests
        for window in BAD[:6]
        if (counts := window.canary) and (stable := window.stable)
    ]
    assert row.errors_a_window_beyond == pytest.approx(sum(extra) / 6)
    assert row.errors_a_window_beyond > 5


def test_rules_that_would_have_stayed_longer_in_a_step_are_unknown_from_there() -> None:
    slower = release_of(ERRORS, poll=30.0, bake=1200.0, early_promotion=False)
    row = judged(slower, past(GOOD, PROMOTED, 79))
    assert (row.would, row.would_window) == (UNKNOWN, 19)
    assert row.note == "unknown after window 19: it would have stayed at 1 %, where the recording goes on."


def test_plan_with_a_weight_that_was_never_recorded_is_unknown() -> None:
    other = release_of(ERRORS, poll=30.0, plan=(0.01, 0.05, 0.25, 0.5, 0.75))
    assert "nothing was recorded at 75 %" in judged(other, past(GOOD, PROMOTED, 79)).note


def test_weights_that_the_file_does_not_have_are_judged_for_harm_only() -> None:
    fewer = release_of(ERRORS, poll=30.0, plan=(0.01, 0.05, 0.5))
    row = judged(fewer, past(GOOD, PROMOTED, 79))
    assert (row.would, row.note) == (
        PROMOTED,
        "20 windows at weights that the file does not have were judged for harm only.",
    )
    assert judged(fewer, past(BAD, PROMOTED, 79)).would == ROLLED_BACK


def test_rollout_that_a_person_aborted_says_so() -> None:
    row = judged(STRICT, past(GOOD[:3], ROLLED_BACK, None, "aborted by ada"))
    assert row.would == UNKNOWN
    assert row.note.endswith("It was ended by other means: aborted by ada")


def test_broken_windows_and_missing_sides_cost_nobody_anything() -> None:
    windows = [replace(window, canary=None) if at % 2 else window for at, window in enumerate(BAD)]
    windows[0] = replace(windows[0], broken="a counter fell")
    row = judged(STRICT, past(windows, PROMOTED, 79))
    assert row.would == ROLLED_BACK
    assert row.requests_spared > 0


def test_summary_counts_each_kind_of_change() -> None:
    table = backtest(
        STRICT,
        [
            past(GOOD, PROMOTED, 79),
            past(BAD, PROMOTED, 79),
            past(BAD[:12], ROLLED_BACK, 11),
            past(GOOD[:3], ROLLED_BACK, 2),
        ],
    )
    said = summary(table)
    assert said.startswith("of 4 rollouts 2 would have ended otherwise: 1 promoted then, rolled back now, ")
    assert "1 rolled back at another window" in said
    assert "1 unknown, because the new rules would have gone on beyond the recording" in said


def test_rollouts_without_windows_are_left_out() -> None:
    assert backtest(STRICT, [past([], ROLLED_BACK, None)]).empty
    assert summary(backtest(STRICT, [])) == "of 0 rollouts 0 would have ended otherwise"

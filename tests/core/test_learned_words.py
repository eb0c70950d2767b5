"""What was learned of stable during a rollout, and what is only assumed: one sentence beside the verdict."""

import re
from dataclasses import replace

import numpy as np
import pytest

from bench.grid import own_series
from bench.traffic import Service, history
from canary_release.core.clumps_seen import ClumpsSeen
from canary_release.core.judge import judge
from canary_release.core.judge_state import JudgeState
from canary_release.core.judgement import Judgement
from canary_release.core.noise import DEFAULT_NOISE, Noise
from canary_release.core.noise_learning import learn
from canary_release.core.release import Check, CheckKind
from canary_release.core.values import Counts, Window
from canary_release.core.wording import table
from core.simulated import ERRORS, LATENCY, Traffic, latency_shares, release_of, rollout

RELEASE = release_of(ERRORS, LATENCY)


def windows_of(rate: float = 1000.0, clump: float = 1.0, windows: int = 30) -> list[Window]:
    return rollout(np.random.default_rng(1), Traffic(rate, clump=clump))[:windows]


def learned(judgement: Judgement) -> list[str]:
    return [check.learned for check in judgement.checks]


def test_errors_that_come_one_by_one_are_said_to() -> None:
    errors, latency = learned(judge(RELEASE, windows_of())[-1])
    assert errors.startswith("Errors of stable come one by one (seen in ")
    assert re.match(r"Requests slower than \d+ ms of stable come one by one \(seen in ", latency)


def test_errors_that_come_in_clumps_are_said_to_in_the_size_that_the_judge_reckons_with() -> None:
    windows = windows_of(50, 6.0, 60)
    (errors, _) = learned(judge(RELEASE, windows)[-1])
    stable = np.array(
        [[one.stable.errors, one.stable.requests, one.start] for one in windows if one.stable], dtype=float
    )
    phi = float(ClumpsSeen(np.array([DEFAULT_NOISE.phi])).extend(stable[:, :1], stable[:, 1:2], stable[:, 2])[-1, 0])
    assert f"come in clumps of about {(phi + 1.0) / 2.0:.2g} (seen in " in errors
    assert phi > 6.0


def test_counts_are_those_of_the_last_twenty_minutes_before_the_window() -> None:
    """What is older counts for less than a sixteenth, so that it is not what was learned from."""
    windows = windows_of(windows=70)
    said = judge(RELEASE, windows)
    for at, span in ((4, "2 min"), (69, "19 min 30 s")):
        first = max(0, at - 39)
        errors = sum(one.stable.errors for one in windows[first:at] if one.stable)
        assert f"(seen in {errors:,} over {span})" in learned(said[at])[0]


def test_before_anything_was_seen_the_sentence_says_what_is_assumed() -> None:
    first, second = judge(RELEASE, windows_of(50))[:2]
    together = (DEFAULT_NOISE.phi + 1.0) / 2.0
    assert learned(first)[0].startswith(
        f"How errors clump is not known yet (none seen before): about {together:.2g} together are assumed"
    )
    assert "How errors clump is not known yet (seen in " in learned(second)[0]


def test_what_instances_may_do_is_called_assumed_until_a_history_of_them_teaches_it() -> None:
    assert all("instances may differ by 3" in one for one in learned(judge(RELEASE, windows_of())[-1]))
    past = history(Service(), 1.0, 60.0, seed=3)
    told = judge(RELEASE, windows_of(), noise=learn(RELEASE, past))[-1]
    assert learned(told) == ["", ""]
    (errors, _) = learned(judge(RELEASE, windows_of(), noise=learn(RELEASE, own_series(past)))[-1])
    assert errors == "That instances may differ by 30 % is assumed."


def test_noise_that_somebody_gave_is_neither_learned_nor_assumed() -> None:
    assert learned(judge(RELEASE, windows_of(), noise=Noise(3.0, 0.1))[-1]) == ["", ""]


def test_other_events_are_called_by_their_name() -> None:
    check = Check("refunds", CheckKind.PROPORTION)
    made = [
        replace(one, **{side: replace(counts, proportions={"refunds": (counts.errors, counts.requests)})})
        for one in windows_of()
        for side, counts in (("stable", one.stable),)
        if isinstance(counts, Counts)
    ]
    assert learned(judge(release_of(check), made)[-1])[0].startswith("Events of refunds of stable come one by one")


def test_bursts_in_which_stable_is_not_as_usual_are_said_to_teach_nothing() -> None:
    windows = windows_of()
    slow = [replace(one, stable=replace(one.stable, buckets=_slow(one.stable))) for one in windows[20:22] if one.stable]
    said = learned(judge(RELEASE, [*windows[:20], *slow, *windows[22:]])[-1])
    assert "2 windows in which stable was much slower or faster than usual taught nothing" in said[1]
    assert "taught nothing" not in learned(judge(RELEASE, windows)[-1])[1]


def _slow(counts: Counts) -> tuple[int, ...]:
    return tuple(int(one) for one in np.round(counts.requests * latency_shares(15.0)))


def test_values_and_latency_without_buckets_say_nothing() -> None:
    bare = [
        replace(one, edges=(), stable=replace(one.stable, buckets=()), canary=replace(one.canary, buckets=()))
        for one in windows_of()
        if one.stable and one.canary
    ]
    said = judge(release_of(LATENCY, Check("cpu", CheckKind.VALUE)), bare)[-1]
    assert learned(said) == ["", ""]


def test_latency_that_has_buckets_only_later_begins_to_learn_then() -> None:
    windows = windows_of(windows=12)
    bare = [
        replace(one, edges=(), stable=replace(one.stable, buckets=()), canary=replace(one.canary, buckets=()))
        for one in windows[:6]
        if one.stable and one.canary
    ]
    said = judge(RELEASE, [*bare, *windows[6:]])
    assert "is not known yet" in learned(said[6])[1]
    assert "come one by one" in learned(said[11])[1]


@pytest.mark.parametrize("pieces", [1, 7])
def test_windows_that_come_one_by_one_teach_the_same(pieces: int) -> None:
    windows, state = windows_of(50, 3.0), JudgeState(RELEASE)
    for at in range(0, len(windows), pieces):
        said = state.fold(windows[at : at + pieces])
    whole = judge(RELEASE, windows)
    assert [learned(said[at]) for at in range(len(windows))] == [learned(whole[at]) for at in range(len(windows))]


def test_table_says_it_once_for_all_checks_of_a_metric_and_json_for_each() -> None:
    checks = [replace(ERRORS, metric="error_rate", max_change=None), ERRORS]
    said = judge(release_of(*checks), windows_of())[-1]
    assert table(said).count("Errors of stable come one by one") == 1
    assert table(said).splitlines()[-1] == said.checks[0].learned
    assert [one["learned"] for one in said.to_json()["checks"]] == learned(said)
    assert learned(said)[0] == learned(said)[1] != ""

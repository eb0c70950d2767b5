"""Judging from memory: the same answer as from the ledger, and never from other windows than the ledger's."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from canary_release.control.judging import Memory
from canary_release.core.judge import judge
from canary_release.core.judge_state import JudgeState
from canary_release.core.noise import Noise
from canary_release.core.noise_report import NoiseReport
from core.simulated import ERRORS, LATENCY, Traffic, release_of, rollout

RELEASE = release_of(ERRORS, LATENCY)
WINDOWS = rollout(np.random.default_rng(4), Traffic(times=3.0, windows=24))


def a_rollout(name: str = "shop-1", **changes: object) -> object:
    return SimpleNamespace(**({"id": name, "release_sha256": "abc", "noise": None} | changes))


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows each call of the judge had to fold."""
    sizes: list[int] = []
    fold = JudgeState.fold

    def counting(self: JudgeState, windows: object) -> object:
        sizes.append(len(windows))  # type: ignore[arg-type]
        return fold(self, windows)  # type: ignore[arg-type]

    monkeypatch.setattr(JudgeState, "fold", counting)
    return sizes


def test_each_look_folds_only_the_new_window_and_says_the_same_as_a_replay(folded: list[int]) -> None:
    memory = Memory()
    for at in range(len(WINDOWS)):
        said = memory.judged(a_rollout(), RELEASE, WINDOWS[:at], WINDOWS[at : at + 1])  # type: ignore[arg-type]
        assert folded[-1] == 1
    assert sum(folded) == len(WINDOWS)
    assert said[:] == judge(RELEASE, WINDOWS)[:]


def test_restarted_process_replays_the_ledger(folded: list[int]) -> None:
    said = Memory().judged(a_rollout(), RELEASE, WINDOWS[:20], WINDOWS[20:])  # type: ignore[arg-type]
    assert folded == [20, 4]
    assert said[-1] == judge(RELEASE, WINDOWS)[-1]


def test_window_that_the_ledger_did_not_take_is_forgotten_again(folded: list[int]) -> None:
    memory = Memory()
    other = replace(WINDOWS[10], end=WINDOWS[10].end + 1.0)
    memory.judged(a_rollout(), RELEASE, WINDOWS[:10], [other])  # type: ignore[arg-type]
    said = memory.judged(a_rollout(), RELEASE, WINDOWS[:11], WINDOWS[11:12])  # type: ignore[arg-type]
    assert folded[-2:] == [11, 1]
    assert said[-1] == judge(RELEASE, WINDOWS[:12])[-1]


@pytest.mark.parametrize("change", [{"release_sha256": "def"}, {"noise": NoiseReport().to_json()}])
def test_other_release_file_or_noise_is_judged_anew(change: dict[str, object], folded: list[int]) -> None:
    memory = Memory()
    memory.judged(a_rollout(), RELEASE, [], WINDOWS[:5])  # type: ignore[arg-type]
    memory.judged(a_rollout(**change), RELEASE, WINDOWS[:5], WINDOWS[5:6])  # type: ignore[arg-type]
    assert folded[-2:] == [5, 1]


def test_noise_of_the_rollout_is_what_it_is_judged_with() -> None:
    report = NoiseReport(checks={"error_rate": Noise(1.0, 0.0)})
    said = Memory().judged(a_rollout(noise=report.to_json()), RELEASE, [], WINDOWS)  # type: ignore[arg-type]
    assert said[-1] == judge(RELEASE, WINDOWS, noise=report)[-1]


def test_memory_is_bounded() -> None:
    memory = Memory(most=2)
    for name in ("a-1", "b-1", "c-1"):
        memory.judged(a_rollout(name), RELEASE, [], WINDOWS[:2])  # type: ignore[arg-type]
    assert list(memory._kept) == ["b-1", "c-1"]

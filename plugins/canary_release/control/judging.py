"""Judging a rollout's windows as they come: only the new ones, as long as this process remembers the others.

The judge's state is a pure function of the release file, the noise that was learned and the recorded windows, so losing
it costs nothing but a replay from the ledger; and it is used only when it was made of exactly these windows.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from canary_release.control.learning import noise_of_rollout
from canary_release.core.judge_state import JudgeState
from canary_release.core.judgements import Judgements
from canary_release.core.release import Release
from canary_release.core.values import Window
from canary_release.ledger.records import Rollout

_MOST = 256


@dataclass
class _Remembered:
    release_sha256: str
    noise: object
    windows: list[Window]
    state: JudgeState


class Memory:
    """The states of the rollouts judged last. Safe to share between threads: who judges takes the state away."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._kept: OrderedDict[str, _Remembered] = OrderedDict()
        self._lock = Lock()

    def judged(
        self, rollout: Rollout, release: Release, known: Sequence[Window], fresh: Sequence[Window]
    ) -> Judgements:
        """One judgement for each window: the ``known`` ones of the ledger, then the ``fresh`` ones."""
        kept = self._take(rollout, list(known)) or self._replayed(rollout, release, known)
        judgements = kept.state.fold(fresh)
        kept.windows.extend(fresh)
        with self._lock:
            self._kept[rollout.id] = kept
            self._kept.move_to_end(rollout.id)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return judgements

    def _take(self, rollout: Rollout, known: list[Window]) -> _Remembered | None:
        with self._lock:
            kept = self._kept.pop(rollout.id, None)
        if kept is None or kept.release_sha256 != rollout.release_sha256 or kept.noise != rollout.noise:
            return None
        return kept if kept.windows == known else None

    def _replayed(self, rollout: Rollout, release: Release, known: Sequence[Window]) -> _Remembered:
        state = JudgeState(release, noise_of_rollout(rollout))
        state.fold(known)
        return _Remembered(rollout.release_sha256, rollout.noise, list(known), state)


MEMORY = Memory()

"""The judge: windows in, verdicts out; a pure function of (release, noise, windows so far)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import overload

import numpy as np

from canary_release.core.effects import shown
from canary_release.core.held_against import Scene, Weighed, rate_before
from canary_release.core.judgement import CheckVerdict, Judgement
from canary_release.core.mixture import (
    NEEDED,
    PASS_NEEDED,
    best_restart,
    in_step,
    log_sum,
    restart_weights,
    shares_of_alpha,
)
from canary_release.core.noise import Noise
from canary_release.core.observations import (
    ERROR_RATE,
    Arms,
    BoolArray,
    FloatArray,
    IntArray,
    Timeline,
    proportion_arms,
    timeline,
)
from canary_release.core.release import Check, CheckKind, Release, Step
from canary_release.core.values import Verdict, Window
from canary_release.core.weigh import PRIOR_RATE, NoiseOf, label, noise_of, weigh
from canary_release.core.wording import Occasion, breaker_sentence, check_sentence, overall_sentence

SILENCE = 10.0  # requests that should have come and did not: by chance once in e^10
BREAKER_RATE, BREAKER_ERRORS, BREAKER_RATIO = 0.25, 20.0, 5.0
DOUBT = 5.0  # evidence of harm with which nothing passes, however small the harm would be at the next weight
LARGEST_SHOWN = 690.0  # ln of the largest evidence that is written out

_VERDICTS = (Verdict.PASS, Verdict.UNDECIDED, Verdict.NO_DATA, Verdict.FAIL)
PASSED, UNDECIDED, WITHOUT_DATA, FAILED = range(4)


def judge(release: Release, windows: Sequence[Window], *, noise: NoiseOf = None) -> "Judgements":
    """One judgement a window, in order; the last is the current one.

    The windows are those of the whole rollout so far. noise: what was learned of the service, for all checks or by the
    check's label; safe defaults without it. A judgement never depends on later windows. Raises ReleaseFileError for a
    limit that its check cannot have.
    """
    return Judgements(release, windows, noise)


class Judgements(Sequence[Judgement]):
    """Judgements that are worded when they are looked at; evidence and verdicts of all windows are there at once."""

    def __init__(self, release: Release, windows: Sequence[Window], noise: NoiseOf = None) -> None:
        self._release, self._windows, self._noise = release, windows, noise
        self._checks = release.checks
        self._worded: dict[int, Judgement] = {}
        self._sentences: dict[tuple[int, bytes], str] = {}
        plan = [step for step in release.steps if isinstance(step, Step)]
        self._time: Timeline = timeline(windows, [float(step.weight) / 100.0 for step in plan])
        planned = _planned_windows(plan, windows, release.poll)
        weights = restart_weights(self._time.first, len(plan), planned)
        self._scene = Scene(self._time, weights, release.harm_budget)
        self._weighed: list[Weighed] = weigh(self._checks, windows, self._scene, noise) if windows else []
        self._shares = shares_of_alpha(self._checks)

    def __len__(self) -> int:
        return len(self._windows)

    @overload
    def __getitem__(self, index: int) -> Judgement: ...

    @overload
    def __getitem__(self, index: slice) -> list[Judgement]: ...

    def __getitem__(self, index: int | slice) -> Judgement | list[Judgement]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        if at not in self._worded:
            self._worded[at] = self._judgement(at)
        return self._worded[at]

    # --- arrays over windows ------------------------------------------------------------------------------------------

    @cached_property
    def evidence(self) -> FloatArray:
        """Sum of a_i E_i after each window."""
        acting = self._shares > 0
        if not acting.any():
            return np.ones(len(self))
        logs = self._log_e[:, acting] + np.log(self._shares[acting])
        return np.exp(np.minimum(log_sum(logs), LARGEST_SHOWN))

    @cached_property
    def crossed(self) -> int | None:
        """The first window after which the canary had to go back."""
        over = np.flatnonzero((self.evidence >= NEEDED) | self._breaker)
        return int(over[0]) if len(over) else None

    def verdict(self, at: int) -> Verdict:
        return _VERDICTS[self._overall[at]]

    def sentence(self, at: int) -> str:
        """The judgement's sentence, without wording every check."""
        if self.crossed is not None and at >= self.crossed:
            return self._failure
        codes = self._codes[at]
        key = (int(self._overall[at]), codes.tobytes())
        if key not in self._sentences:
            said = [(label(check), _VERDICTS[codes[place]]) for place, check in self._acting_checks]
            self._sentences[key] = overall_sentence(self.verdict(at), said)
        return self._sentences[key]

    def failing(self, at: int) -> tuple[str, ...]:
        """Checks that failed and may not roll back by themselves."""
        tame = [(place, check) for place, check in self._acting_checks if not check.critical]
        return tuple(label(check) for place, check in tame if self._codes[at, place] == FAILED)

    @cached_property
    def _overall(self) -> IntArray:
        """The rollout's verdict after each window, as a place in _VERDICTS."""
        acting = self._codes[:, self._acting]
        if acting.shape[1]:
            # A check that failed without being critical leaves the rollout undecided.
            found = np.where((acting == WITHOUT_DATA).any(axis=1), WITHOUT_DATA, UNDECIDED)
            found = np.where((acting == PASSED).all(axis=1), PASSED, found)
        else:
            found = np.where(self._no_requests, WITHOUT_DATA, UNDECIDED)
        failed = np.arange(len(self)) >= (len(self) if self.crossed is None else self.crossed)
        return np.where(failed, FAILED, found)

    @cached_property
    def _codes(self) -> IntArray:
        """Each check's verdict after each window, as places in _VERDICTS (W, C)."""
        codes = np.where(self._passed, PASSED, UNDECIDED)
        codes = np.where(self._no_data, WITHOUT_DATA, codes)
        codes = np.where(self._failed, FAILED, codes)
        if self._blamed is not None and self.crossed is not None:
            codes[self.crossed :, self._blamed] = FAILED
        return codes

    @cached_property
    def _acting(self) -> BoolArray:
        return np.array([not check.observe_only for check in self._checks], dtype=bool)

    @cached_property
    def _acting_checks(self) -> list[tuple[int, Check]]:
        return [(i, check) for i, check in enumerate(self._checks) if not check.observe_only]

    def _stacked(self, columns: list[FloatArray] | list[BoolArray]) -> FloatArray:
        return np.array(columns, dtype=float).reshape(len(columns), len(self)).T

    @cached_property
    def _log_e(self) -> FloatArray:
        return self._stacked([weighed.log_e for weighed in self._weighed])

    @cached_property
    def needed(self) -> FloatArray:
        """What each check alone would need; those that do not act on their own are held against the whole line."""
        return NEEDED / np.where(self._shares > 0, self._shares, 1.0)

    @cached_property
    def _failed(self) -> BoolArray:
        """Each check's own line, once crossed for good (W, C)."""
        return np.asarray(np.maximum.accumulate(self._log_e, axis=0) >= np.log(self.needed))

    @cached_property
    def _passed(self) -> BoolArray:
        safe = self._stacked([weighed.log_pass for weighed in self._weighed]) >= np.log(PASS_NEEDED)
        return np.asarray(safe & ~self._no_data & ~self._failed & (self._log_e < np.log(DOUBT)))

    @cached_property
    def _no_data(self) -> BoolArray:
        return self._stacked([no_data(weighed.arms, self._time)[:, 0] for weighed in self._weighed]) > 0

    @cached_property
    def _requests(self) -> Arms:
        return proportion_arms(self._windows, [ERROR_RATE], self._time.broken)

    @cached_property
    def _no_requests(self) -> BoolArray:
        return no_data(self._requests, self._time)[:, 0]

    @cached_property
    def _breaker(self) -> BoolArray:
        plain = Check(ERROR_RATE, CheckKind.PROPORTION)
        errors = next((check for check in self._checks if check.metric == ERROR_RATE), plain)
        return breaker(self._requests, self._scene, noise_of(errors, self._noise))

    # --- words --------------------------------------------------------------------------------------------------------

    @cached_property
    def _by_breaker(self) -> bool:
        return self.crossed is not None and self.evidence[self.crossed] < NEEDED

    @cached_property
    def _blamed(self) -> int | None:
        """The check with the largest a_i E_i when the line was crossed."""
        if self.crossed is None or self._by_breaker:
            return None
        with np.errstate(divide="ignore"):
            return int(np.argmax(self._log_e[self.crossed] + np.log(self._shares)))

    @cached_property
    def _failure(self) -> str:
        assert self.crossed is not None
        if self._blamed is None:
            events = in_step(np.c_[_columns(self._requests)], self._time.first)[self.crossed]
            return breaker_sentence(*(int(count) for count in events))
        return self._check_verdict(self._blamed, self.crossed).sentence

    def _judgement(self, at: int) -> Judgement:
        window = self._windows[at]
        blamed = None
        if self.crossed is not None and at >= self.crossed:
            blamed = ERROR_RATE if self._blamed is None else label(self._checks[self._blamed])
        return Judgement(
            window=window.index if window.index >= 0 else at,
            step=window.step,
            weight=window.weight,
            verdict=self.verdict(at),
            evidence=float(self.evidence[at]),
            p_value=float(min(1.0, 1.0 / np.max(self.evidence[: at + 1]))),
            blamed=blamed,
            checks=tuple(self._check_verdict(check, at) for check in range(len(self._checks))),
            sentence=self.sentence(at),
        )

    def _check_verdict(self, place: int, at: int) -> CheckVerdict:
        check, weighed = self._checks[place], self._weighed[place]
        verdict = _VERDICTS[self._codes[at, place]]
        first = self._first_shown(place, at, verdict)
        effect = shown(check, weighed, slice(first, at + 1), noise_of(check, self._noise), self._time)
        log_e, log_pass = float(weighed.log_e[at]), float(weighed.log_pass[at])
        said = CheckVerdict(
            check=label(check),
            verdict=verdict,
            evidence=float(np.exp(min(log_e, LARGEST_SHOWN))),
            needed=float(self.needed[place]),
            limit=effect.limit,
            sentence="",
            kind=check.kind,
            unit=effect.unit,
            **effect.numbers,
        )
        occasion = Occasion(
            check=check,
            scope="in this step" if first == self._time.first[at] else f"since window {self._number(first)}",
            edge=effect.edge,
            safety=float(np.exp(min(log_pass, LARGEST_SHOWN))),
            why=self._why_no_data(place, at) if verdict is Verdict.NO_DATA else "",
            alone=bool(self._time.alone[at]),
        )
        return replace(said, sentence=check_sentence(said, occasion))

    def _why_no_data(self, place: int, at: int) -> str:
        check, weighed = self._checks[place], self._weighed[place]
        return weighed.never or why_no_data(check.metric, weighed.arms, self._time, self._windows[at], at)

    def _number(self, at: int) -> int:
        return self._windows[at].index if self._windows[at].index >= 0 else at

    def _first_shown(self, check: int, at: int, verdict: Verdict) -> int:
        """The step so far, or since the harm began where less than half of the evidence is from this step."""
        step = int(self._time.first[at])
        if verdict is not Verdict.FAIL:
            return step
        single = self._weighed[check].single
        began = best_restart(single, self._scene.weights, at)
        since, of_step = (float(single[left : at + 1].sum(axis=0).max()) for left in (began, step))
        return began if began > step or of_step < 0.5 * since else step


def _planned_windows(plan: Sequence[Step], windows: Sequence[Window], poll: float) -> int:
    """How many windows the plan's bakes will take, from the length of the first one."""
    first = windows[0].seconds if windows else poll
    length = first if np.isfinite(first) and first > 0 else poll
    return max(20, int(np.ceil(sum(step.bake for step in plan) / length)))


def _columns(arms: Arms) -> tuple[FloatArray, ...]:
    columns = (arms.canary_events, arms.canary_of, arms.stable_events, arms.stable_of)
    return tuple(column[:, 0] for column in columns)


def no_data(arms: Arms, time: Timeline) -> BoolArray:
    """Where a check cannot be judged, (W, C).

    A side could not be read in this window, it had no traffic in the step so far, or it has been silent where at least
    ten requests were due.
    """
    alone = time.alone[:, None]
    unread = ~arms.canary_known | (~arms.stable_known & ~alone)
    idle = (in_step(arms.canary_of, time.first) <= 0) | ((in_step(arms.stable_of, time.first) <= 0) & ~alone)
    return unread | idle | _silent(arms, time)


def _silent(arms: Arms, time: Timeline) -> BoolArray:
    share = np.clip(np.nan_to_num(time.weight, nan=0.0), 0.0, 1.0)[:, None]
    known = (share > 0) & (share < 1)
    with np.errstate(divide="ignore"):
        ratio = np.where(known, share / np.where(known, 1.0 - share, 1.0), 0.0)
        back = np.where(known, 1.0 / np.where(known, ratio, 1.0), 0.0)
    canary = _since_last(arms.stable_of * ratio, arms.canary_of > 0) >= SILENCE
    stable = _since_last(arms.canary_of * back, arms.stable_of > 0) >= SILENCE
    return canary | stable


def _since_last(due: FloatArray, came: BoolArray) -> FloatArray:
    total = np.cumsum(due, axis=0)
    return np.asarray(total - np.maximum.accumulate(np.where(came, total, 0.0), axis=0))


def why_no_data(metric: str, arms: Arms, time: Timeline, window: Window, at: int) -> str:
    """What was missing, for one column."""
    if window.broken is not None:
        return f"the window cannot be used ({window.broken})"
    sides = (("the canary", window.canary, arms.canary_known), ("stable", window.stable, arms.stable_known))
    for name, counts, known in sides:
        if not known[at, 0] and (name == "the canary" or not time.alone[at]):
            return f"{name} could not be read" if counts is None else f"{name} has no usable counts of {metric}"
    if in_step(arms.canary_of, time.first)[at, 0] <= 0:
        return "the canary has had no traffic in this step"
    if in_step(arms.stable_of, time.first)[at, 0] <= 0:
        return "stable has had no traffic in this step"
    return "the canary has gone silent" if arms.canary_of[at, 0] <= 0 else "stable has gone silent"


def breaker(arms: Arms, scene: Scene, noise: Noise) -> BoolArray:
    """Where the canary must go back without any statistics, (W,), in one window or in the step so far.

    At least a quarter of its requests fail, at least 20 phi errors (so that one sticky client is not enough), and at
    least five times stable's rate; its last known rate once stable has no traffic left.
    """
    before = rate_before(arms, scene, np.array([PRIOR_RATE]))[:, 0]
    columns = np.stack(_columns(arms), axis=1)
    tripped = np.zeros(len(columns), dtype=bool)
    for errors, requests, stable_errors, stable_requests in (columns.T, in_step(columns, scene.time.first).T):
        rate = errors / np.maximum(requests, 1.0)
        own = stable_errors / np.maximum(stable_requests, 1.0)
        stable = np.where(stable_requests > 0, own, np.where(scene.time.alone, before, np.inf))
        enough = (rate >= BREAKER_RATE) & (errors >= BREAKER_ERRORS * noise.phi)
        tripped |= enough & (rate >= BREAKER_RATIO * stable)
    return tripped & arms.canary_known[:, 0]

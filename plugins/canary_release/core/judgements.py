"""Judgements of a rollout's windows: verdicts of all are there at once, words only when they are asked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np

from canary_release.core.effects import Effects
from canary_release.core.guard_rails import columns_of, why_no_data
from canary_release.core.held_against import Scene
from canary_release.core.judgement import CheckVerdict, Judgement
from canary_release.core.mixture import NEEDED, best_restart
from canary_release.core.noise import Noise
from canary_release.core.observations import ERROR_RATE, Arms
from canary_release.core.record import BoolArray, FloatArray, IntArray, Record
from canary_release.core.release import Check
from canary_release.core.running_sums import Rows
from canary_release.core.traffic_split import TrafficSplit
from canary_release.core.values import Verdict
from canary_release.core.weigh import Weighed, label
from canary_release.core.wording import (
    SLOWED,
    Occasion,
    breaker_sentence,
    burning_sentence,
    check_sentence,
    limit_text,
    overall_sentence,
)

DOUBT = 5.0  # evidence of harm with which nothing passes, however small the harm would be at the next weight
LARGEST = 690.0  # ln of the largest evidence that is written out
VERDICTS = (Verdict.PASS, Verdict.UNDECIDED, Verdict.NO_DATA, Verdict.FAIL)
PASSED, UNDECIDED, WITHOUT_DATA, FAILED = range(4)


class Findings:
    """What was found in the windows so far, row by row; the judge's state adds, judgements read.

    groups: the places of the checks of one kind, and how they were weighed.  crossed: the window after which the canary
    had to go back; blamed: the place of the check with the largest a_i E_i then, None when it was the breaker.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        shares: FloatArray,
        groups: Sequence[tuple[IntArray, Weighed]],
        noises: Sequence[Noise],
        split: TrafficSplit,
    ) -> None:
        self.checks, self.groups, self.noises, self.split = checks, groups, noises, split
        self.where = {
            place: (weighed, column) for places, weighed in groups for column, place in enumerate(places.tolist())
        }
        self.labels, self.limits = [label(check) for check in checks], [limit_text(check) for check in checks]
        self.needed: FloatArray = NEEDED / np.where(shares > 0, shares, 1.0)
        self.needs: list[float] = self.needed.tolist()
        self._shares = shares
        self.records: list[Record] = []
        self.ends: list[int] = []
        self.evidence: Rows[np.float64] = Rows()
        self.log_e: Rows[np.float64] = Rows()
        self.codes: Rows[np.int64] = Rows()
        self.overall: Rows[np.int64] = Rows()
        self.first: Rows[np.int64] = Rows()
        self.index: Rows[np.int64] = Rows()
        self.alone: Rows[np.bool_] = Rows()
        self.weights: Rows[np.float64] = Rows()
        self.instance_noise: Rows[np.float64] = Rows()
        self.requests: Rows[np.float64] = Rows()
        self.crossed: int | None = None
        self.blamed: int | None = None

    def __len__(self) -> int:
        return len(self.evidence)

    def add(self, record: Record, scene: Scene, requests: Arms, evidence: FloatArray, log_e: FloatArray) -> None:
        time = scene.time
        self.records.append(record)
        self.ends.append(len(self) + len(record))
        self.evidence.extend(evidence)
        self.log_e.extend(log_e)
        self.first.extend(time.first)
        numbers = np.arange(len(self) - len(record), len(self))
        self.index.extend(np.where(record.index >= 0, record.index, numbers))
        self.alone.extend(time.alone)
        self.weights.extend(scene.weights)
        self.instance_noise.extend(time.instance_noise)
        self.requests.extend(columns_of(requests)[:, 0])

    def cross(self, before: int, breaker: BoolArray) -> None:
        """Look for the end in the windows from ``before`` on; sticky."""
        if self.crossed is not None:
            return
        evidence = self.evidence.array[before:]
        over = np.flatnonzero((evidence >= NEEDED) | breaker)
        if not len(over):
            return
        self.crossed = before + int(over[0])
        if evidence[over[0]] >= NEEDED:
            with np.errstate(divide="ignore"):
                self.blamed = int(np.argmax(self.log_e.array[self.crossed] + np.log(self._shares)))

    def row_of_checks(self, of_groups: Iterable[np.ndarray[Any, Any]]) -> FloatArray:
        """One row of each group as one row of all checks, (C,)."""
        row = np.zeros(len(self.checks))
        for (places, _), values in zip(self.groups, of_groups, strict=True):
            row[places] = values
        return row

    def rule(self, codes: IntArray, overall: IntArray) -> None:
        self.codes.extend(codes)
        self.overall.extend(overall)

    def record_at(self, at: int) -> Record:
        """One window."""
        block = int(np.searchsorted(self.ends, at, side="right"))
        began = self.ends[block] - len(self.records[block])
        return self.records[block][at - began : at - began + 1]


@dataclass(frozen=True)
class _Moment:
    """What the words of all checks need of window ``at``. step: the first window of its step.

    verdicts, evidence, safety: by the place of the check.
    """

    at: int
    step: int
    alone: bool
    instance_noise: float
    verdicts: Sequence[Verdict]
    evidence: Sequence[float]
    safety: Sequence[float]


class Judgements(Sequence[Judgement]):
    """The judgements of the first ``windows`` windows; folding more into the state leaves them as they are."""

    def __init__(self, found: Findings, windows: int) -> None:
        self._found, self._windows = found, windows
        self._checks = found.checks
        self._acting = [(place, check) for place, check in enumerate(found.checks) if not check.observe_only]
        self._worded: dict[int, Judgement] = {}
        self._sentences: dict[tuple[int, bytes], str] = {}
        self._effects: dict[tuple[int, int, int], Effects] = {}
        crossed = found.crossed
        self.crossed = crossed if crossed is not None and crossed < windows else None
        """The first window after which the canary had to go back."""

    def __len__(self) -> int:
        return self._windows

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

    @cached_property
    def evidence(self) -> FloatArray:
        """Sum of a_i E_i after each window."""
        return self._found.evidence.array[: self._windows] if self._windows else np.zeros(0)

    @property
    def needed(self) -> FloatArray:
        """What each check alone would need; those that do not act on their own are held against the whole line."""
        return self._found.needed

    def verdict(self, at: int) -> Verdict:
        return VERDICTS[self._found.overall.array[at]]

    def sentence(self, at: int) -> str:
        """The judgement's sentence, without wording every check."""
        return self._sentence(at, self.holds(at))

    def _sentence(self, at: int, holds: tuple[str, ...]) -> str:
        if self.crossed is not None and at >= self.crossed:
            return self._failure
        codes = self._found.codes.array[at]
        key = (int(self._found.overall.array[at]), codes.tobytes())
        if key not in self._sentences:
            said = [(self._found.labels[place], VERDICTS[codes[place]]) for place, _ in self._acting]
            self._sentences[key] = overall_sentence(self.verdict(at), said)
        return " ".join((self._sentences[key], *holds))

    def failing(self, at: int) -> tuple[str, ...]:
        """Checks that failed and may not roll back by themselves."""
        codes = self._found.codes.array[at]
        return tuple(label(check) for place, check in self._acting if not check.critical and codes[place] == FAILED)

    def leaning(self, at: int) -> tuple[str, ...]:
        """Acting checks whose evidence leans towards harm, clearly but not enough to roll back."""
        lean = self._found.log_e.array[at] >= np.log(DOUBT)
        return tuple(label(check) for place, check in self._acting if lean[place])

    def holds(self, at: int) -> tuple[str, ...]:
        """Why nothing may be raised although no harm was shown: a wrong split of the traffic, both sides suffering."""
        said = []
        if self._found.split.held.array[at]:
            said.append(self._found.split.sentence(at, float(self._found.record_at(at).weight[0])))
        burning = self._found.row_of_checks(weighed.burning.array[at] for _, weighed in self._found.groups)
        said += [burning_sentence(label(check), check) for place, check in self._acting if burning[place]]
        slowed = [weighed for _, weighed in self._found.groups if len(weighed.slowed) and weighed.slowed.array[at]]
        return (*said, *(SLOWED for _ in slowed))

    @cached_property
    def _failure(self) -> str:
        assert self.crossed is not None
        if self._found.blamed is None:
            first = int(self._found.first.array[self.crossed])
            counts = self._found.requests.array[first : self.crossed + 1].sum(axis=0)
            return breaker_sentence(*(int(count) for count in counts))
        return self._check_verdict(self._found.blamed, self._moment(self.crossed)).sentence

    def _judgement(self, at: int) -> Judgement:
        window, blamed, holds, moment = self._found.record_at(at), None, self.holds(at), self._moment(at)
        if self.crossed is not None and at >= self.crossed:
            blamed = ERROR_RATE if self._found.blamed is None else label(self._checks[self._found.blamed])
        return Judgement(
            window=int(self._found.index.array[at]),
            step=int(window.step[0]),
            weight=float(window.weight[0]),
            verdict=self.verdict(at),
            evidence=float(self.evidence[at]),
            p_value=float(min(1.0, 1.0 / np.max(self.evidence[: at + 1]))),
            blamed=blamed,
            checks=tuple(self._check_verdict(check, moment) for check in range(len(self._checks))),
            sentence=self._sentence(at, holds),
            holds=holds,
            leaning=self.leaning(at),
        )

    def _moment(self, at: int) -> _Moment:
        found = self._found
        log_pass = found.row_of_checks(weighed.log_pass.array[at] for _, weighed in found.groups)
        return _Moment(
            at=at,
            step=int(found.first.array[at]),
            alone=bool(found.alone.array[at]),
            instance_noise=float(found.instance_noise.array[at]),
            verdicts=[VERDICTS[code] for code in found.codes.array[at].tolist()],
            evidence=np.exp(np.minimum(found.log_e.array[at], LARGEST)).tolist(),
            safety=np.exp(np.minimum(log_pass, LARGEST)).tolist(),
        )

    def _check_verdict(self, place: int, moment: _Moment) -> CheckVerdict:
        found, check, at = self._found, self._checks[place], moment.at
        weighed, column = found.where[place]
        verdict = moment.verdicts[place]
        first = self._beginning(place, at) if verdict is Verdict.FAIL else moment.step
        effect = self._effect(weighed, first, at).of(column, found.noises[place], moment.instance_noise)
        said: dict[str, Any] = {
            "check": found.labels[place],
            "verdict": verdict,
            "evidence": moment.evidence[place],
            "needed": found.needs[place],
            "limit": found.limits[place],
            "kind": check.kind,
            "unit": effect.unit,
            **effect.numbers,
        }
        occasion = Occasion(
            check=check,
            scope="in this step" if first == moment.step else f"since window {found.index.array[first]}",
            edge=effect.edge,
            safety=moment.safety[place],
            why=self._why_no_data(place, at) if verdict is Verdict.NO_DATA else "",
            alone=moment.alone,
        )
        return CheckVerdict(**said, sentence=check_sentence(CheckVerdict(**said, sentence=""), occasion))

    def _effect(self, weighed: Weighed, first: int, at: int) -> Effects:
        key = (id(weighed), first, at)
        if key not in self._effects:
            self._effects[key] = Effects(weighed, slice(first, at + 1), self._found.alone.array)
        return self._effects[key]

    def _why_no_data(self, place: int, at: int) -> str:
        weighed, column = self._found.where[place]
        never = weighed.why_never(column)
        if never:
            return never
        first, alone = int(self._found.first.array[at]), bool(self._found.alone.array[at])
        requests = weighed.counts.array[first : at + 1, column][:, (1, 3)]
        return why_no_data(
            self._checks[place].metric,
            self._found.record_at(at),
            weighed.known.array[at, column].tolist(),
            requests.sum(axis=0).tolist(),
            alone=alone,
            came=bool(requests[-1, 0] > 0),
        )

    def _beginning(self, place: int, at: int) -> int:
        """The step so far, or since the harm began where less than half of the evidence is from this step."""
        weighed, column = self._found.where[place]
        step = int(self._found.first.array[at])
        single = weighed.leading(column, at)
        began = best_restart(single, self._found.weights.array, at)
        since, of_step = (float(single[left : at + 1].sum(axis=0).max()) for left in (began, step))
        return began if began > step or of_step < 0.5 * since else step

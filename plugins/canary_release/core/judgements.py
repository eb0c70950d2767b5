"""Judgements of a rollout's windows: verdicts of all are there at once, words only when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np

from canary_release.core.effects import Effects
from canary_release.core.findings import DOUBT, FAILED, LARGEST, VERDICTS, Findings
from canary_release.core.guard_rails import why_no_data
from canary_release.core.judgement import CheckVerdict, Judgement
from canary_release.core.learned_words import RECENT, learned_sentence
from canary_release.core.mixture import best_restart
from canary_release.core.observations import ERROR_RATE
from canary_release.core.record import FloatArray
from canary_release.core.values import Verdict
from canary_release.core.weigh import Weighed, label
from canary_release.core.wording import (
    SLOWED,
    Occasion,
    breaker_sentence,
    burning_sentence,
    check_sentence,
    overall_sentence,
)


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
        self._taught: dict[tuple[int, int], list[str]] = {}
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
            "learned": self._learned(weighed, at)[column],
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

    def _learned(self, weighed: Weighed, at: int) -> list[str]:
        """A sentence for each check of one kind; many of them have learned the same."""
        key = (id(weighed), at)
        if key not in self._taught:
            since, seconds = self._recent(at)
            learned = weighed.learned(at, since)
            each = {id(one): one for one in learned if one is not None}
            said = {place: learned_sentence(one, seconds) for place, one in each.items()}
            self._taught[key] = [said.get(id(one), "") for one in learned]
        return self._taught[key]

    def _recent(self, at: int) -> tuple[int, float]:
        """The first window of the last while before this one, and seconds since."""
        start = self._found.starts.array[: at + 1]
        since = int(np.argmax(start > start[at] - RECENT))
        return since, float(start[at] - start[since])

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

"""The judge's running state: folds new windows into the evidence, in one piece or one by one, to the same last bit."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from canary_release.core.findings import DOUBT, FAILED, LARGEST, PASSED, UNDECIDED, WITHOUT_DATA, Findings
from canary_release.core.guard_rails import Breaker, NoData
from canary_release.core.held_against import Scene
from canary_release.core.judgements import Judgements
from canary_release.core.mixture import PASS_NEEDED, shares_of_alpha
from canary_release.core.noise_report import NoiseReport
from canary_release.core.observations import ERROR_RATE, Calendar, RestartWeights, proportion_arms
from canary_release.core.problems import ReleaseFileError
from canary_release.core.record import BoolArray, Edges, FloatArray, IntArray, Record, record_of
from canary_release.core.release import Check, CheckKind, Release, Step
from canary_release.core.running_sums import Largest, log_sum
from canary_release.core.traffic_split import TrafficSplit
from canary_release.core.values import Window
from canary_release.core.weigh import NoiseOf, Weighed, WeighedProportions, misfits, noise_of
from canary_release.core.weigh_latency import WeighedLatency
from canary_release.core.weigh_values import WeighedValues

BLOCK = 3 << 16  # array elements worked on at a time, so that they stay in the processor's cache


class JudgeState:
    """Everything known of a rollout after the windows folded so far.

    ``fold`` adds windows and returns the judgements of all so far. Folding them one by one, or all at once, or in any
    other pieces, gives the same judgements. Raises ReleaseFileError for a limit that its check cannot have.
    """

    def __init__(self, release: Release, noise: NoiseOf = None) -> None:
        problems = [problem for check in release.checks for problem in misfits(check)]
        if problems:
            raise ReleaseFileError(problems)
        self._release, self._checks = release, release.checks
        self._plan = [step for step in release.steps if isinstance(step, Step)]
        kinds = [(check.kind, check.metric) for check in release.checks]
        self._events = {metric for kind, metric in kinds if kind is CheckKind.PROPORTION} - {ERROR_RATE}
        self._values = {metric for kind, metric in kinds if kind is CheckKind.VALUE}
        self._groups = _groups(release.checks, noise)
        places = [places for places, _ in self._groups]
        self._order = np.argsort(np.concatenate(places)) if places else np.zeros(0, dtype=np.int64)
        self._calendar = Calendar(self._plan)
        self._edges: Edges = ()
        self._shares = shares_of_alpha(release.checks)
        self._acting = np.array([not check.observe_only for check in release.checks], dtype=bool)
        plain = Check(ERROR_RATE, CheckKind.PROPORTION)
        errors = next((check for check in release.checks if check.metric == ERROR_RATE), plain)
        self._breaker, self._no_requests = Breaker(noise_of(errors, noise)), NoData()
        self._split, self._highest = TrafficSplit(moved_by_others=release.drift == "adopt"), Largest()
        noises = [noise_of(check, noise) for check in release.checks]
        self._found = Findings(release.checks, self._shares, self._groups, noises, self._split)
        self._restarts: RestartWeights | None = None

    def __len__(self) -> int:
        return len(self._found)

    def fold(self, windows: Sequence[Window] | Record) -> Judgements:
        """Add windows after those folded before."""
        if len(windows):
            record = windows if isinstance(windows, Record) else self._record(windows)
            self._fold_record(self._complete(record))
        return Judgements(self._found, len(self._found))

    def _record(self, windows: Sequence[Window]) -> Record:
        return record_of(windows, self._events, self._values, self._edges)

    def _complete(self, record: Record) -> Record:
        """Columns that the checks name and the record lacks are unknown."""
        events, values = self._events - record.proportions.keys(), self._values - record.values.keys()
        if not events and not values:
            return record
        return replace(
            record,
            proportions={**dict.fromkeys(events, np.full((len(record), 2, 2), np.nan)), **record.proportions},
            values={**dict.fromkeys(values, np.full((len(record), 2), np.nan)), **record.values},
        )

    def _fold_record(self, record: Record) -> None:
        """In blocks; the first window with latency edges begins one, so that earlier ones never know of it."""
        width = max(16, BLOCK // (20 * max(1, len(self._checks))))
        known = record.edges_from if not self._edges and record.edges else 0
        cuts = sorted({*range(0, len(record), width), known, len(record)})
        for left, right in pairwise(cuts):
            block = record[left:right]
            if right <= known or (self._edges and record.edges != self._edges):
                block = replace(
                    block, edges=self._edges, buckets=np.full((len(block), 2, len(self._edges) + 1), np.nan)
                )
            self._edges = block.edges
            self._fold_block(block)

    def _fold_block(self, record: Record) -> None:
        time = self._calendar.extend(record)
        if self._restarts is None:
            self._restarts = RestartWeights(len(self._plan), self._planned(float(time.seconds[0])))
        scene = Scene(time, self._restarts.extend(time.first), self._release.harm_budget)
        before = len(self._found)
        for _, weighed in self._groups:
            weighed.extend(record, scene)
        requests = proportion_arms(record, [ERROR_RATE], time.broken)
        self._split.extend(requests, scene)
        rows = slice(before, before + len(record))
        log_e = self._columns([weighed.log_e.array[rows] for _, weighed in self._groups], len(record))
        self._found.add(record, scene, requests, self._evidence(log_e), log_e)
        self._found.cross(before, self._breaker.extend(requests, time))
        codes = self._codes(rows, log_e)
        self._found.rule(codes, self._overall(rows, codes, self._no_requests.extend(requests, time)[:, 0]))

    def _planned(self, seconds: float) -> int:
        """How many windows the plan's bakes will take, from the length of the first one."""
        return max(20, int(np.ceil(sum(step.bake for step in self._plan) / seconds)))

    def _columns(self, of_groups: Sequence[FloatArray | BoolArray], windows: int) -> FloatArray:
        """In the order of the checks, (W, C)."""
        if not of_groups:
            return np.zeros((windows, 0))
        return np.concatenate(of_groups, axis=1).astype(float)[:, self._order]

    def _evidence(self, log_e: FloatArray) -> FloatArray:
        """Sum of a_i E_i after each window, (W,)."""
        acting = self._shares > 0
        if not acting.any():
            return np.ones(len(log_e))
        return np.exp(np.minimum(log_sum(log_e[:, acting] + np.log(self._shares[acting])), LARGEST))

    def _codes(self, rows: slice, log_e: FloatArray) -> IntArray:
        """Each check's verdict after each window, (W, C)."""
        if not self._checks:
            return np.zeros((len(log_e), 0), dtype=np.int64)
        groups = [weighed for _, weighed in self._groups]
        no_data = self._columns([weighed.no_data.array[rows] for weighed in groups], len(log_e)) > 0
        log_pass = self._columns([weighed.log_pass.array[rows] for weighed in groups], len(log_e))
        failed = self._highest.extend(log_e) >= np.log(self._found.needed)
        codes = np.where((log_pass >= np.log(PASS_NEEDED)) & (log_e < np.log(DOUBT)), PASSED, UNDECIDED)
        codes = np.where(failed, FAILED, np.where(no_data, WITHOUT_DATA, codes))
        crossed, blamed = self._found.crossed, self._found.blamed
        if crossed is not None and blamed is not None:
            codes[max(crossed - rows.start, 0) :, blamed] = FAILED
        return codes

    def _overall(self, rows: slice, codes: IntArray, no_requests: BoolArray) -> IntArray:
        """The rollout's verdict after each window, (W,). A check that failed without being critical leaves it open."""
        acting = codes[:, self._acting]
        if acting.shape[1]:
            found = np.where((acting == WITHOUT_DATA).any(axis=1), WITHOUT_DATA, UNDECIDED)
            held = self._split.held.array[rows] | self._burning(rows)
            found = np.where((acting == PASSED).all(axis=1) & ~held, PASSED, found)
        else:
            found = np.where(no_requests, WITHOUT_DATA, UNDECIDED)
        if self._found.crossed is not None:
            found[max(self._found.crossed - rows.start, 0) :] = FAILED
        return found

    def _burning(self, rows: slice) -> BoolArray:
        """Where both versions suffer, so that nothing is raised, (W,)."""
        columns = [weighed.burning.array[rows] for _, weighed in self._groups]
        columns += [weighed.slowed.array[rows, None] for _, weighed in self._groups if len(weighed.slowed)]
        return np.asarray(np.concatenate(columns, axis=1).any(axis=1))


def _groups(checks: Sequence[Check], noise: NoiseOf) -> list[tuple[IntArray, Weighed]]:
    report = noise if isinstance(noise, NoiseReport) else NoiseReport()
    made: list[tuple[IntArray, Weighed]] = []
    for kind in CheckKind:
        places = np.flatnonzero([check.kind is kind for check in checks])
        chosen = [checks[place] for place in places.tolist()]
        if not chosen:
            continue
        if kind is CheckKind.PROPORTION:
            made.append((places, WeighedProportions(chosen, noise, report.baseline)))
        elif kind is CheckKind.LATENCY:
            made.append((places, WeighedLatency(chosen, noise, report.baseline, report.at_edges)))
        else:
            made.append((places, WeighedValues(chosen)))
    return made

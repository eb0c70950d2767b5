"""What was found in a rollout's windows, kept row by row for whoever words it."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from canary_release.core.guard_rails import columns_of
from canary_release.core.held_against import Scene
from canary_release.core.mixture import NEEDED
from canary_release.core.noise import Noise
from canary_release.core.observations import Arms
from canary_release.core.record import BoolArray, FloatArray, IntArray, Record
from canary_release.core.release import Check
from canary_release.core.running_sums import Rows
from canary_release.core.traffic_split import TrafficSplit
from canary_release.core.values import Verdict
from canary_release.core.weigh import Weighed, label
from canary_release.core.wording import limit_text

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
        self.starts: Rows[np.float64] = Rows()
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
        self.starts.extend(time.start)
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

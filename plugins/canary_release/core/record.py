"""Recorded windows as columns: the form in which the judge reads them, from objects or from a table.

Sides are the places CANARY and STABLE of an axis. What could not be read is nan, never zero.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from canary_release.core.values import Counts, Window

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

CANARY, STABLE = 0, 1
Edges = tuple[float, ...]


@dataclass(frozen=True)
class Record:
    """W windows. index, step: whole numbers, -1 where unknown; start, end: epoch seconds; weight: 0 to 1 or nan.

    read: whether a side could be read at all; instances, requests, errors: (W, 2).  proportions: events and their base
    (W, 2, 2).  values: (W, 2).  buckets: (W, 2, B + 1), nan in windows with other edges; edges_from: the first row
    whose edges are these, W when there is none.
    """

    index: IntArray
    step: IntArray
    start: FloatArray
    end: FloatArray
    weight: FloatArray
    broken: Sequence[str | None]
    read: BoolArray
    instances: FloatArray
    requests: FloatArray
    errors: FloatArray
    proportions: Mapping[str, FloatArray]
    values: Mapping[str, FloatArray]
    edges: Edges
    buckets: FloatArray
    edges_from: int

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: slice) -> "Record":
        first, last, _ = rows.indices(len(self))
        return Record(
            index=self.index[rows],
            step=self.step[rows],
            start=self.start[rows],
            end=self.end[rows],
            weight=self.weight[rows],
            broken=self.broken[rows],
            read=self.read[rows],
            instances=self.instances[rows],
            requests=self.requests[rows],
            errors=self.errors[rows],
            proportions={name: pairs[rows] for name, pairs in self.proportions.items()},
            values={name: pairs[rows] for name, pairs in self.values.items()},
            edges=self.edges,
            buckets=self.buckets[rows],
            edges_from=min(max(self.edges_from - first, 0), max(last - first, 0)),
        )


def record_of(
    windows: Sequence[Window], proportions: Iterable[str], values: Iterable[str], edges: Edges = ()
) -> Record:
    """Windows as columns: of proportions and values only those named; edges: those in use, else the first usable."""
    of_edges = edges or next((window.edges for window in windows if usable_edges(window.edges)), ())
    sides = [[window.canary for window in windows], [window.stable for window in windows]]
    fits = [bool(of_edges) and window.edges == of_edges for window in windows]
    edges_from = 0 if edges else next((at for at, fit in enumerate(fits) if fit), len(windows))
    return Record(
        index=np.array([window.index for window in windows], dtype=np.int64),
        step=np.array([window.step for window in windows], dtype=np.int64),
        start=np.array([window.start for window in windows], dtype=float),
        end=np.array([window.end for window in windows], dtype=float),
        weight=np.array([window.weight for window in windows], dtype=float),
        broken=[window.broken for window in windows],
        read=_paired([[counts is not None for counts in side] for side in sides]).astype(bool),
        instances=_paired([[_instances(counts) for counts in side] for side in sides]),
        requests=_paired([[math.nan if counts is None else counts.requests for counts in side] for side in sides]),
        errors=_paired([[math.nan if counts is None else counts.errors for counts in side] for side in sides]),
        proportions={name: _proportion(sides, name) for name in proportions},
        values={name: _paired([[_value(counts, name) for counts in side] for side in sides]) for name in values},
        edges=of_edges,
        buckets=np.stack([_buckets(side, fits, len(of_edges) + 1) for side in sides], axis=1),
        edges_from=edges_from,
    )


def usable_edges(edges: Edges) -> bool:
    finite = all(math.isfinite(edge) and edge > 0 for edge in edges)
    return bool(edges) and finite and all(low < high for low, high in pairwise(edges))


def windows_of(record: Record) -> list[Window]:
    """The windows again; a side without latency in a window has no buckets."""
    canary, stable = (_counts_of(record, side) for side in (CANARY, STABLE))
    columns = (record.start.tolist(), record.end.tolist(), stable, canary, record.broken)
    placed = (record.index.tolist(), record.step.tolist(), record.weight.tolist())
    return [
        Window(start, end, of_stable, of_canary, record.edges, broken, index, step, weight)
        for start, end, of_stable, of_canary, broken, index, step, weight in zip(*columns, *placed, strict=True)
    ]


def _counts_of(record: Record, side: int) -> list[Counts | None]:
    made: list[Counts | None] = []
    instances, requests = record.instances[:, side].tolist(), record.requests[:, side].tolist()
    errors, buckets = record.errors[:, side].tolist(), record.buckets[:, side].tolist()
    pairs = {name: of[:, side].tolist() for name, of in record.proportions.items()}
    values = {name: of[:, side].tolist() for name, of in record.values.items()}
    for at, read in enumerate(record.read[:, side].tolist()):
        if not read:
            made.append(None)
            continue
        row = buckets[at] if record.edges else []
        made.append(
            Counts(
                requests=int(requests[at]),
                errors=int(errors[at]),
                buckets=() if any(map(math.isnan, row)) else tuple(map(int, row)),
                instances=None if math.isnan(instances[at]) else int(instances[at]),
                proportions={
                    name: (int(of[at][0]), int(of[at][1]))
                    for name, of in pairs.items()
                    if not any(map(math.isnan, of[at]))
                },
                values={name: of[at] for name, of in values.items() if not math.isnan(of[at])},
            )
        )
    return made


def _paired(sides: Sequence[Sequence[float | None]]) -> FloatArray:
    return np.array(sides, dtype=float).T


def _instances(counts: Counts | None) -> float:
    return math.nan if counts is None or counts.instances is None else counts.instances


def _value(counts: Counts | None, name: str) -> float:
    return math.nan if counts is None else counts.values.get(name, math.nan)


def _proportion(sides: Sequence[Sequence[Counts | None]], name: str) -> FloatArray:
    missing = (math.nan, math.nan)
    found = [[missing if one is None else one.proportions.get(name, missing) for one in side] for side in sides]
    return np.moveaxis(np.array(found, dtype=float).reshape(2, -1, 2), 0, 1)


def _buckets(side: Sequence[Counts | None], fits: Sequence[bool], width: int) -> FloatArray:
    missing = (math.nan,) * width
    rows = [
        counts.buckets if fit and counts is not None and len(counts.buckets) == width else missing
        for fit, counts in zip(fits, side, strict=True)
    ]
    return np.array(rows, dtype=float).reshape(len(side), width)

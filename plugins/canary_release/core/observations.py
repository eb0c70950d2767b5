"""Windows as arrays: one row a window, one column a check; what cannot be used is masked, never guessed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from canary_release.core.record import CANARY, STABLE, BoolArray, FloatArray, IntArray, Record
from canary_release.core.release import Step
from canary_release.core.running_sums import Total, side_by_side

ERROR_RATE = "error_rate"
# Of the stake: on the first window, on the steps' first windows, on all; of the last, for after the planned windows.
ON_FIRST, ON_STEPS, ON_TIME, LATER = 1 / 2, 1 / 6, 1 / 3, 1 / 8
LARGEST_COUNT = 1e12  # beyond it a count is a mistake of its source


@dataclass(frozen=True)
class Timeline:
    """What all checks share, each an array over some windows of a rollout.

    start, seconds: epoch seconds and length.  first: number of the first window of the window's step; began: the same
    as a row here, plus one, and 0 where that window is not among these.  weight: the canary's share, nan when unknown;
    next_weight: after the next raise.  alone: all traffic is meant for the canary, so there is nothing to compare with.
    instance_noise: 1/(canary instances) + 1/(stable instances), and that by the window's seconds; an unknown number of
    canary instances counts as one.
    """

    start: FloatArray
    seconds: FloatArray
    first: IntArray
    began: IntArray
    weight: FloatArray
    next_weight: FloatArray
    alone: BoolArray
    instance_noise: FloatArray
    broken: BoolArray

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def due(self) -> tuple[FloatArray, FloatArray]:
        """Requests of the canary for each of stable's, and of stable for each of the canary's, (W, 1); 0 if unknown."""
        weight = self.weight[:, None]
        known = (weight > 0) & (weight < 1)
        share = np.where(known, weight, 0.5)
        return np.where(known, share / (1.0 - share), 0.0), np.where(known, (1.0 - share) / share, 0.0)


class Calendar:
    """Reads the timeline of a rollout, window after window."""

    def __init__(self, plan: Sequence[Step]) -> None:
        raises = [float(step.weight) / 100.0 for step in plan]
        self._raises = np.sort(np.append(np.asarray(raises, dtype=float), 1.0))
        self._seen = 0
        self._step: int | None = None
        self._first = 0

    def extend(self, record: Record) -> Timeline:
        seconds = record.end - record.start
        index = np.arange(self._seen, self._seen + len(record))
        before = record.step[0] if self._step is None else self._step
        new = record.step != np.concatenate(([before], record.step[:-1]))
        new[0] |= self._step is None
        began = np.maximum.accumulate(np.where(new, np.arange(len(record)) + 1, 0))
        first = np.where(began > 0, index[began - 1], self._first)
        known = np.where(np.isnan(record.weight), 1.0, record.weight)
        next_raise = self._raises[np.minimum(self._raises.searchsorted(known + 1e-9), len(self._raises) - 1)]
        self._seen, self._step, self._first = self._seen + len(record), int(record.step[-1]), int(first[-1])
        return Timeline(
            start=record.start,
            seconds=np.where(np.isfinite(seconds) & (seconds > 0), seconds, 1.0),
            first=first.astype(np.int64),
            began=began.astype(np.int64),
            weight=record.weight,
            next_weight=next_raise.clip(1e-4, 1.0),
            alone=record.weight >= 1.0 - 1e-9,
            instance_noise=_instance_noise(record.instances),
            broken=np.array([broken is not None for broken in record.broken], dtype=bool),
        )


def _instance_noise(instances: FloatArray) -> FloatArray:
    known = instances > 0
    share = 1.0 / np.where(known, instances, 1.0)
    return np.asarray(share[:, CANARY] + share[:, STABLE] * known[:, STABLE])


@dataclass(frozen=True)
class Arms:
    """Events out of how many, for both sides, shape (windows, columns); zero where a side is not known."""

    canary_events: FloatArray
    canary_of: FloatArray
    stable_events: FloatArray
    stable_of: FloatArray
    canary_known: BoolArray
    stable_known: BoolArray

    def __getitem__(self, columns: slice | IntArray) -> "Arms":
        return Arms(
            self.canary_events[:, columns],
            self.canary_of[:, columns],
            self.stable_events[:, columns],
            self.stable_of[:, columns],
            self.canary_known[:, columns],
            self.stable_known[:, columns],
        )

    @property
    def swapped(self) -> "Arms":
        """Stable in the place of the canary."""
        return Arms(
            self.stable_events,
            self.stable_of,
            self.canary_events,
            self.canary_of,
            self.stable_known,
            self.canary_known,
        )

    @property
    def seen(self) -> BoolArray:
        return self.canary_known & self.stable_known

    @property
    def comparable(self) -> BoolArray:
        """Both sides are known and both had traffic."""
        return self.seen & (self.canary_of > 0) & (self.stable_of > 0)


def proportion_arms(record: Record, metrics: Sequence[str], broken: BoolArray) -> Arms:
    """Events and their base for each metric, shape (windows, metrics); ``error_rate`` is errors out of requests."""
    of_errors = side_by_side(record.errors, record.requests)
    each = [of_errors if name == ERROR_RATE else record.proportions[name] for name in metrics]
    pairs = np.concatenate([pair[:, None] for pair in each], axis=1)
    good = _counts(pairs[..., 0], pairs[..., 1]) & ~broken[:, None, None]
    clean = np.where(good[..., None], pairs, 0.0)
    return Arms(
        canary_events=clean[:, :, CANARY, 0],
        canary_of=clean[:, :, CANARY, 1],
        stable_events=clean[:, :, STABLE, 0],
        stable_of=clean[:, :, STABLE, 1],
        canary_known=good[:, :, CANARY],
        stable_known=good[:, :, STABLE],
    )


def _counts(events: FloatArray, of: FloatArray) -> BoolArray:
    """Where these are counts: not nan, negative, fractional or too large, and no more events than there were."""
    with np.errstate(invalid="ignore"):
        whole = (events == np.floor(events)) & (of == np.floor(of))
        return np.asarray(whole & (events >= 0) & (events <= of) & (of <= LARGEST_COUNT))


@dataclass(frozen=True)
class Histograms:
    """Latency: requests slower than each edge, and all (windows, 1), as places of ``edges``; (windows, edges)."""

    edges: FloatArray
    canary_slower: FloatArray
    canary_of: FloatArray
    stable_slower: FloatArray
    stable_of: FloatArray
    canary_known: BoolArray
    stable_known: BoolArray

    def at(self, edge: IntArray) -> Arms:
        """Requests slower than one edge a window and column; ``edge`` has the shape (windows, columns)."""
        windows, columns = edge.shape
        rows = np.arange(windows)[:, None]
        return Arms(
            canary_events=self.canary_slower[rows, edge],
            canary_of=self.canary_of.repeat(columns, axis=1),
            stable_events=self.stable_slower[rows, edge],
            stable_of=self.stable_of.repeat(columns, axis=1),
            canary_known=self.canary_known.repeat(columns, axis=1),
            stable_known=self.stable_known.repeat(columns, axis=1),
        )


def histograms(record: Record, broken: BoolArray) -> Histograms:
    slower, of, known = slower_than_edges(record.buckets, broken)
    return Histograms(
        np.array(record.edges, dtype=float),
        slower[:, CANARY],
        of[:, CANARY],
        slower[:, STABLE],
        of[:, STABLE],
        known[:, CANARY],
        known[:, STABLE],
    )


def slower_than_edges(buckets: FloatArray, broken: BoolArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    """From buckets (W, K, B + 1): how many were slower than each edge (W, K, B), of how many, and whether known."""
    with np.errstate(invalid="ignore"):
        good = (buckets >= 0) & (buckets <= LARGEST_COUNT) & (buckets == np.floor(buckets))
    known = good.all(axis=-1, keepdims=True) & ~broken[:, None, None] & (buckets.shape[-1] > 1)
    clean = np.where(known, buckets, 0.0)
    total = clean.sum(axis=-1, keepdims=True)
    return total - clean.cumsum(axis=-1)[..., :-1], total, known


def value_arrays(record: Record, metrics: Sequence[str], broken: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Single numbers of canary and stable, shape (windows, metrics), nan where there is none."""
    pairs = np.stack([record.values[name] for name in metrics], axis=1)
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(pairs) & (pairs >= 0) & ~broken[:, None, None]
    clean = np.where(sound, pairs, np.nan)
    return clean[..., CANARY], clean[..., STABLE]


class RestartWeights:
    """How much of the stake is put on a regression that begins at each window; they add up to less than 1.

    Half on the first window, a sixth spread over the first windows of the plan's steps, a third over time: seven
    eighths of it evenly over the ``planned`` windows, seven eighths of the rest over as many again, and so on with
    doubled spans, so that a rollout that is held for days can still be judged. No weight depends on how many windows
    there will be.
    """

    def __init__(self, steps: int, planned: int) -> None:
        self._steps, self._span = max(steps, 1), max(planned, 1)
        self._begun, self._seen = Total(), 0

    def extend(self, first: IntArray) -> FloatArray:
        """(W,) for windows whose steps began at the windows numbered ``first``, (W,)."""
        index = np.arange(self._seen, self._seen + len(first))
        self._seen += len(first)
        starts = (first == index).astype(float)
        before, _ = self._begun.extend(starts)
        block = np.where(index < self._span, 0.0, np.floor(np.log2(np.maximum(index, 1) / self._span)) + 1.0)
        length = np.where(block == 0, self._span, self._span * 2.0 ** (block - 1.0))
        of_steps = ON_STEPS / self._steps * (starts * (before < self._steps))
        of_time = ON_TIME * (1.0 - LATER) * LATER**block / length
        return np.asarray(of_steps + of_time + ON_FIRST * (index == 0))

"""Windows as arrays: one row a window, one column a check; what cannot be used is masked, never guessed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from canary_release.core.values import Counts, Window

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

ERROR_RATE = "error_rate"
HALF_LIFE = 300.0  # seconds after which an old window of stable counts half
LARGEST_COUNT = 1e12  # beyond it a count is a mistake of its source
_MISSING = (math.nan, math.nan)


@dataclass(frozen=True)
class Timeline:
    """What all checks share, each an array over windows.

    start, seconds: epoch seconds and length.  first: index of the first window of the window's step.
    weight: the canary's share, nan when unknown.  next_weight: the share after the next raise.
    alone: all traffic is meant for the canary, so there is nothing to compare it with.
    instance_noise: 1/(canary instances) + 1/(stable instances); an unknown number of canary instances counts as one.
    """

    start: FloatArray
    seconds: FloatArray
    first: IntArray
    weight: FloatArray
    next_weight: FloatArray
    alone: BoolArray
    instance_noise: FloatArray
    broken: BoolArray

    def __len__(self) -> int:
        return len(self.start)


@dataclass(frozen=True)
class Arms:
    """Events out of how many, for both sides, shape (windows, columns); zero where a side is not known."""

    canary_events: FloatArray
    canary_of: FloatArray
    stable_events: FloatArray
    stable_of: FloatArray
    canary_known: BoolArray
    stable_known: BoolArray

    def __getitem__(self, columns: slice) -> "Arms":
        return Arms(*(getattr(self, name)[:, columns] for name in self.__dataclass_fields__))

    @property
    def seen(self) -> BoolArray:
        return self.canary_known & self.stable_known

    @property
    def comparable(self) -> BoolArray:
        """Both sides are known and both had traffic."""
        return self.seen & (self.canary_of > 0) & (self.stable_of > 0)


def timeline(windows: Sequence[Window], plan: Sequence[float]) -> Timeline:
    """``plan``: the canary's shares (0 to 1) that the release goes through."""
    start = np.array([window.start for window in windows], dtype=float)
    seconds = np.array([window.seconds for window in windows], dtype=float)
    weight = np.array([window.weight for window in windows], dtype=float)
    step = np.array([window.step for window in windows], dtype=np.int64)
    new = np.r_[True, step[1:] != step[:-1]][: len(windows)]
    first = np.maximum.accumulate(np.where(new, np.arange(len(windows)), 0))
    raises = np.sort(np.append(np.asarray(plan, dtype=float), 1.0))
    higher = np.searchsorted(raises, np.nan_to_num(weight, nan=1.0) + 1e-9)
    next_weight = np.clip(raises[np.minimum(higher, len(raises) - 1)], 1e-4, 1.0)
    noise = [_instance_noise(window.canary, window.stable) for window in windows]
    return Timeline(
        start=start,
        seconds=np.where(np.isfinite(seconds) & (seconds > 0), seconds, 1.0),
        first=first.astype(np.int64),
        weight=weight,
        next_weight=next_weight,
        alone=weight >= 1.0 - 1e-9,
        instance_noise=np.array(noise, dtype=float),
        broken=np.array([window.broken is not None for window in windows], dtype=bool),
    )


def _instance_noise(canary: Counts | None, stable: Counts | None) -> float:
    of_canary = canary.instances if canary is not None else None
    of_stable = stable.instances if stable is not None else None
    return 1.0 / max(of_canary or 1, 1) + (1.0 / of_stable if of_stable and of_stable > 0 else 0.0)


def proportion_arms(windows: Sequence[Window], metrics: Sequence[str], broken: BoolArray) -> Arms:
    """Events and their base for each metric, shape (windows, metrics); ``error_rate`` is errors out of requests."""
    canary = _side([window.canary for window in windows], metrics)
    stable = _side([window.stable for window in windows], metrics)
    return arms_of(canary[..., 0], canary[..., 1], stable[..., 0], stable[..., 1], broken)


def _side(side: Sequence[Counts | None], metrics: Sequence[str]) -> FloatArray:
    columns = [
        [(counts.errors, counts.requests) if counts is not None else _MISSING for counts in side]
        if metric == ERROR_RATE
        else [counts.proportions.get(metric, _MISSING) if counts is not None else _MISSING for counts in side]
        for metric in metrics
    ]
    flat = np.fromiter(chain.from_iterable(chain.from_iterable(columns)), dtype=float)
    return np.moveaxis(flat.reshape(len(metrics), len(side), 2), 0, 1)


def arms_of(
    canary_events: FloatArray,
    canary_of: FloatArray,
    stable_events: FloatArray,
    stable_of: FloatArray,
    broken: BoolArray,
) -> Arms:
    """Mask what cannot be counts: nan, negative, fractional, too large, more events than requests, broken windows."""
    usable = ~broken[:, None]
    canary = usable & _counts(canary_events, canary_of)
    stable = usable & _counts(stable_events, stable_of)
    return Arms(
        canary_events=np.where(canary, canary_events, 0.0),
        canary_of=np.where(canary, canary_of, 0.0),
        stable_events=np.where(stable, stable_events, 0.0),
        stable_of=np.where(stable, stable_of, 0.0),
        canary_known=canary,
        stable_known=stable,
    )


def _counts(events: FloatArray, of: FloatArray) -> BoolArray:
    with np.errstate(invalid="ignore"):
        whole = (events == np.floor(events)) & (of == np.floor(of))
        return np.asarray(whole & (events >= 0) & (events <= of) & (of <= LARGEST_COUNT))


@dataclass(frozen=True)
class Histograms:
    """Latency of both sides: requests slower than each edge, shape (windows, edges), and totals (windows, 1)."""

    edges: FloatArray
    canary_slower: FloatArray
    canary_of: FloatArray
    stable_slower: FloatArray
    stable_of: FloatArray
    canary_known: BoolArray
    stable_known: BoolArray

    def at(self, edge: IntArray) -> Arms:
        """Requests slower than one edge a window and column; ``edge`` has the shape (windows, columns)."""
        columns = edge.shape[1]
        return Arms(
            canary_events=np.take_along_axis(self.canary_slower, edge, axis=1),
            canary_of=np.repeat(self.canary_of, columns, axis=1),
            stable_events=np.take_along_axis(self.stable_slower, edge, axis=1),
            stable_of=np.repeat(self.stable_of, columns, axis=1),
            canary_known=np.repeat(self.canary_known, columns, axis=1),
            stable_known=np.repeat(self.stable_known, columns, axis=1),
        )


def histograms(windows: Sequence[Window], broken: BoolArray) -> Histograms:
    """The windows that share the first usable edges; a window with other edges is not known."""
    edges = next((window.edges for window in windows if _ascending(window.edges)), ())
    canary = _buckets(windows, [window.canary for window in windows], edges)
    stable = _buckets(windows, [window.stable for window in windows], edges)
    slower_canary, of_canary, canary_known = _slower(canary, broken)
    slower_stable, of_stable, stable_known = _slower(stable, broken)
    return Histograms(
        np.array(edges, dtype=float),
        slower_canary,
        of_canary,
        slower_stable,
        of_stable,
        canary_known,
        stable_known,
    )


def _ascending(edges: tuple[float, ...]) -> bool:
    finite = all(math.isfinite(edge) and edge > 0 for edge in edges)
    return bool(edges) and finite and all(low < high for low, high in pairwise(edges))


def _buckets(windows: Sequence[Window], side: Sequence[Counts | None], edges: tuple[float, ...]) -> FloatArray:
    width = len(edges) + 1
    missing = (math.nan,) * width
    rows = [
        counts.buckets if counts is not None and window.edges == edges and len(counts.buckets) == width else missing
        for window, counts in zip(windows, side, strict=True)
    ]
    return np.array(rows, dtype=float).reshape(len(windows), width)


def _slower(buckets: FloatArray, broken: BoolArray) -> tuple[FloatArray, FloatArray, BoolArray]:
    with np.errstate(invalid="ignore"):
        good = (buckets >= 0) & (buckets <= LARGEST_COUNT) & (buckets == np.floor(buckets))
    known = good.all(axis=1) & ~broken & (buckets.shape[1] > 1)
    clean = np.where(known[:, None], buckets, 0.0)
    total = clean.sum(axis=1, keepdims=True)
    return total - np.cumsum(clean, axis=1)[:, :-1], total, known[:, None]


def value_arrays(windows: Sequence[Window], metrics: Sequence[str], broken: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Single numbers of canary and stable, shape (windows, metrics), nan where there is none."""
    sides = [[window.canary for window in windows], [window.stable for window in windows]]
    arrays = [
        np.array(
            [
                [math.nan if counts is None else counts.values.get(metric, math.nan) for counts in side]
                for metric in metrics
            ],
            dtype=float,
        ).reshape(len(metrics), len(windows))
        for side in sides
    ]
    canary, stable = (
        np.where(np.isfinite(array.T) & (array.T >= 0) & ~broken[:, None], array.T, math.nan) for array in arrays
    )
    return canary, stable


def decayed_before(values: FloatArray, start: FloatArray) -> FloatArray:
    """For each window the sum of the rows before it, halved every five minutes; shape of ``values``."""
    gaps = np.maximum(np.nan_to_num(np.diff(start), posinf=0.0, neginf=0.0), 0.0)
    keep = 0.5 ** (gaps / HALF_LIFE)
    out = np.zeros_like(values)
    for row, factor in enumerate(keep.tolist()):
        np.multiply(out[row] + values[row], factor, out=out[row + 1])
    return out

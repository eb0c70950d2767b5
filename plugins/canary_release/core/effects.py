"""How large a difference is, with an interval, from the counts that a sentence shows."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canary_release.core.noise import Noise
from canary_release.core.record import BoolArray, FloatArray
from canary_release.core.weigh import Weighed
from canary_release.core.weigh_latency import WeighedLatency
from canary_release.core.weigh_values import WeighedValues

Z = 1.96  # a 95 % interval


@dataclass(frozen=True)
class Effect:
    """numbers: the fields of a CheckVerdict that come from counts; edge: seconds that latency counts refer to."""

    numbers: dict[str, Any]
    unit: str
    edge: float | None = None


class Effects:
    """The effects of all checks of one kind over the same windows. Only windows in which both sides were read count.

    alone: whether all traffic was meant for the canary, (W,), for all windows of the rollout so far.
    """

    def __init__(self, weighed: Weighed, rows: slice, alone: BoolArray) -> None:
        self._weighed, self._rows, self._alone = weighed, rows, alone[rows]
        known = weighed.known.array[rows]
        self._usable = known[..., 0] & (known[..., 1] | self._alone[:, None])
        counts = weighed.counts.array[rows]
        if not self._usable.all():
            counts = np.where(self._usable[..., None], counts, 0.0)
        self._counts: list[list[float]] = counts.sum(axis=0).tolist()
        self._latency: _Latency | None = None
        if isinstance(weighed, WeighedLatency) and weighed.edges:
            self._latency = _Latency(weighed, rows, self._alone)

    def of(self, column: int, noise: Noise, instance_noise: float) -> Effect:
        """instance_noise: the sum of 1/instances of both sides."""
        if self._latency is not None:
            return self._latency.effect(column, noise.phi)
        if isinstance(self._weighed, WeighedValues):
            return Effect(_numbers(self._counts[column]) | self._means(self._weighed, column), "")
        counts = self._counts[column]
        variance = noise.wander**2 * instance_noise
        rates = (_ratio(counts[0], counts[1]), _ratio(counts[2], counts[3]))
        interval = _ratio_interval(counts, noise.phi, variance)
        return Effect(_numbers(counts) | _change(rates, interval), "%")

    def _means(self, weighed: WeighedValues, column: int) -> dict[str, float | None]:
        values = weighed.values.array[self._rows, column][self._usable[:, column]]
        return _change((_mean(values[:, 0]), _mean(values[:, 1])), None)


class _Latency:
    """Both sides' requests by latency over the same windows, and the edge that each check watches after them."""

    def __init__(self, weighed: WeighedLatency, rows: slice, alone: BoolArray) -> None:
        known = np.asarray(weighed.known.array[rows].any(axis=1))
        usable = known[:, 0] & (known[:, 1] | alone)
        slower = weighed.slower.array[rows][usable].sum(axis=0).tolist()
        of = weighed.of.array[rows][usable].sum(axis=0).tolist()
        self._edges = weighed.edges
        self._canary, self._stable = (_Histogram(self._edges, slower[side], of[side]) for side in (0, 1))
        self._quantiles = [check.quantile or 0.5 for check in weighed.checks]
        self._watched: list[int] = weighed.edge.array[rows.stop - 1].tolist()

    def effect(self, column: int, phi: float) -> Effect:
        canary, stable, edge = self._canary, self._stable, self._watched[column]
        counts = [canary.slower[edge], canary.of, stable.slower[edge], stable.of]
        quantiles = _quantiles(canary, stable, self._quantiles[column], phi)
        return Effect(_numbers(counts) | quantiles, "s", self._edges[edge])


class _Histogram:
    """One side's requests: how many were slower than each edge, of how many."""

    def __init__(self, edges: Sequence[float], slower: list[float], of: float) -> None:
        self.slower, self.of = slower, of
        self._edges, self._below = [0.0, *edges], [0.0, *(of - more for more in slower)]

    def around(self, quantile: float, phi: float) -> tuple[float, float, float] | None:
        """The quantile between the ends of its interval, in seconds; None without requests.

        The interval comes from the ranks, quantile ± 1.96 sqrt(phi q (1 - q)/n). It has no upper end where that is
        beyond the slowest request or the last edge.
        """
        if self.of <= 0:
            return None
        reach = Z * (phi * quantile * (1.0 - quantile) / max(self.of, 1.0)) ** 0.5
        above = quantile + reach
        bounded = above < 1.0 and above * self.of < self._below[-1]
        return self._at(max(quantile - reach, 0.0)), self._at(quantile), self._at(above) if bounded else math.inf

    def _at(self, quantile: float) -> float:
        """Linear inside its bucket; the last edge when beyond."""
        wanted, below, edges = quantile * self.of, self._below, self._edges
        if wanted >= below[-1]:
            return edges[-1]
        left = bisect_right(below, wanted) - 1
        slope = (edges[left + 1] - edges[left]) / (below[left + 1] - below[left])
        return edges[left] + slope * (wanted - below[left])


def _numbers(counts: list[float]) -> dict[str, Any]:
    return {
        "canary_events": int(counts[0]),
        "canary_of": int(counts[1]),
        "stable_events": int(counts[2]),
        "stable_of": int(counts[3]),
    }


def _mean(values: FloatArray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _ratio(events: float, of: float) -> float | None:
    return events / of if of > 0 else None


def _change(sides: tuple[float | None, float | None], interval: tuple[float, float] | None) -> dict[str, float | None]:
    canary, stable = sides
    change = canary / stable - 1.0 if canary is not None and stable else None
    low, high = interval if interval is not None and change is not None else (None, None)
    return {"canary": canary, "stable": stable, "change": change, "low": low, "high": high}


def _ratio_interval(counts: list[float], phi: float, variance: float) -> tuple[float, float] | None:
    """Katz's log interval of a ratio of proportions, with the variance of counts times phi and the instances' noise."""
    canary, canary_of, stable, stable_of = counts
    if canary_of <= 0 or stable_of <= 0:
        return None
    canary, stable = max(canary, 0.5), max(stable, 0.5)
    spread = phi * max(1.0 / canary - 1.0 / canary_of + 1.0 / stable - 1.0 / stable_of, 0.0) + variance
    ratio = (canary / canary_of) / (stable / stable_of)
    reach = float(np.exp(min(Z * spread**0.5, 50.0)))
    return ratio / reach - 1.0, ratio * reach - 1.0


def _quantiles(
    canary_side: _Histogram, stable_side: _Histogram, quantile: float, phi: float
) -> dict[str, float | None]:
    """Quantiles of both sides, and the interval of their ratio."""
    canary, stable = canary_side.around(quantile, phi), stable_side.around(quantile, phi)
    if canary is None or stable is None or not (canary[1] > 0 and stable[1] > 0):
        return _change((canary[1] if canary else None, stable[1] if stable else None), None)
    interval = (canary[0] / stable[2] - 1.0, canary[2] / stable[0] - 1.0) if stable[0] > 0 else None
    return _change((canary[1], stable[1]), interval)

"""How large a difference is, with an interval, from the counts that a sentence shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from canary_release.core.held_against import Weighed
from canary_release.core.latency_evidence import histogram_quantile
from canary_release.core.noise import Noise
from canary_release.core.observations import BoolArray, FloatArray, Histograms, Timeline
from canary_release.core.release import Check, CheckKind
from canary_release.core.wording import limit_text

Z = 1.96  # a 95 % interval


@dataclass(frozen=True)
class Effect:
    """numbers: the fields of a CheckVerdict that come from counts; edge: seconds that latency counts refer to."""

    numbers: dict[str, Any]
    unit: str
    limit: str
    edge: float | None = None


def shown(check: Check, weighed: Weighed, rows: slice, noise: Noise, time: Timeline) -> Effect:
    """The effect over some windows. Only windows in which both sides could be read count."""
    arms = weighed.arms
    usable = (arms.canary_known & (arms.stable_known | time.alone[:, None]))[rows, 0]
    columns = (arms.canary_events, arms.canary_of, arms.stable_events, arms.stable_of)
    counts = [float(column[rows, 0][usable].sum()) for column in columns]
    names = ("canary_events", "canary_of", "stable_events", "stable_of")
    numbers: dict[str, Any] = {name: int(count) for name, count in zip(names, counts, strict=True)}
    if check.kind is CheckKind.VALUE and weighed.values is not None:
        sides = [_mean(side[rows][usable]) for side in weighed.values]
        return Effect(numbers | _change(sides, None), "", limit_text(check))
    if check.kind is CheckKind.LATENCY and weighed.histograms is not None and weighed.edge is not None:
        edge = int(weighed.edge[rows.stop - 1])
        at_edge = _latency_counts(weighed.histograms, rows, usable, edge)
        quantiles = _quantiles(weighed.histograms, rows, usable, check.quantile or 0.5, noise)
        return Effect(numbers | at_edge | quantiles, "s", limit_text(check), float(weighed.histograms.edges[edge]))
    variance = noise.tau2 * float(time.instance_noise[rows.stop - 1])
    rates = [_ratio(counts[0], counts[1]), _ratio(counts[2], counts[3])]
    interval = _ratio_interval(counts, noise.phi, variance)
    return Effect(numbers | _change(rates, interval), "%", limit_text(check))


def _mean(values: FloatArray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _ratio(events: float, of: float) -> float | None:
    return events / of if of > 0 else None


def _change(sides: list[float | None], interval: tuple[float, float] | None) -> dict[str, float | None]:
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
    reach = float(np.exp(min(Z * np.sqrt(spread), 50.0)))
    return ratio / reach - 1.0, ratio * reach - 1.0


def _latency_counts(seen: Histograms, rows: slice, usable: BoolArray, edge: int) -> dict[str, int]:
    canary, stable = seen.canary_slower[rows, edge], seen.stable_slower[rows, edge]
    return {
        "canary_events": int(canary[usable].sum()),
        "canary_of": int(seen.canary_of[rows, 0][usable].sum()),
        "stable_events": int(stable[usable].sum()),
        "stable_of": int(seen.stable_of[rows, 0][usable].sum()),
    }


def _quantiles(seen: Histograms, rows: slice, usable: BoolArray, quantile: float, noise: Noise) -> dict[str, Any]:
    """Quantiles of both sides; the interval comes from the ranks, quantile ± 1.96 sqrt(phi q (1 - q)/n)."""
    found = []
    for slower, of in ((seen.canary_slower, seen.canary_of), (seen.stable_slower, seen.stable_of)):
        total = float(of[rows, 0][usable].sum())
        reach = Z * float(np.sqrt(noise.phi * quantile * (1.0 - quantile) / max(total, 1.0)))
        summed = slower[rows][usable].sum(axis=0)
        points = [min(max(quantile + step * reach, 0.0), 1.0) for step in (-1, 0, 1)]
        found.append([histogram_quantile(seen.edges, summed, total, point) for point in points])
    (low_c, mid_c, high_c), (low_b, mid_b, high_b) = found
    if not (mid_c > 0 and mid_b > 0):
        sides = [value if value > 0 else None for value in (mid_c, mid_b)]
        return _change(sides, None)
    interval = (low_c / high_b - 1.0, high_c / low_b - 1.0) if low_b > 0 and high_b > 0 else None
    return _change([mid_c, mid_b], interval)

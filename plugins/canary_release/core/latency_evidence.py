"""Evidence from latency histograms, on the odds of being slower than a bucket edge.

A tolerance in seconds or per cent says how far stable's distribution may be stretched: the canary may exceed the edge
x as often as stable exceeds x/(1 + t) (or x - t). That is read from stable's histogram before the window and turned
into a tolerated odds ratio theta0 at the edge. Shapes: W windows, B edges, C columns, J alternatives.

The e-value is the 2x2 block of Turner, Ly & Grünwald (arXiv 2106.02693) for the null odds_c <= theta0 odds_b: the
alternative (p_j for the canary, p for stable) against the nearest null pair (g(p0), p0), g(p) = theta0 p/(1 - p +
theta0 p), which has the same mean: rho g(p0) + (1 - rho) p0 = rho p_j + (1 - rho) p. Because g is concave for
theta0 >= 1 the null is convex, so the mean of exp(l) is at most 1 for every null pair, not only for the predicted one.
"""

import numpy as np

from canary_release.core.observations import Arms, FloatArray, Histograms, IntArray, decayed_before
from canary_release.core.release import Limit, LimitKind

ODDS_FACTORS = np.geomspace(1.05, 16.0, 14)
DEFAULT_SHARES = (0.5, 0.1, 0.01)  # exceedances watched by a check without a quantile
_TINY = 1e-9


def exceedance_before(histograms: Histograms, start: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Stable's share of requests slower than each edge before each window (W, B), and its requests so far (W, 1)."""
    slower = decayed_before(histograms.stable_slower, start)
    total = decayed_before(histograms.stable_of, start)
    return np.clip((slower + 0.5) / (total + 1.0), _TINY, 1.0 - _TINY), total


def tolerated_exceedance(edges: FloatArray, exceedance: FloatArray, limit: Limit | None) -> FloatArray:
    """How often the canary may be slower than each edge, (W, B); at least stable's own exceedance.

    Between edges the survival function is taken on doubly logarithmic axes. There it is concave for exponential,
    normal, log-normal, Weibull and Pareto tails, so it lies above its chord and below both neighbouring chords made
    longer. The larger of the chord and that upper bound is used: a tolerance is never read too small.
    """
    if limit is None or limit.amount <= 0:
        return exceedance
    reached = edges / (1.0 + limit.amount) if limit.kind is LimitKind.RELATIVE else edges - limit.amount
    columns = [_survival_at(edges, exceedance, point) for point in reached.tolist()]
    return np.clip(np.maximum(np.stack(columns, axis=1), exceedance), _TINY, 1.0 - _TINY)


def _survival_at(edges: FloatArray, exceedance: FloatArray, point: float) -> FloatArray:
    """An upper estimate of the share slower than ``point`` seconds, (W,)."""
    if point <= 0:
        return np.ones(len(exceedance))
    right = int(np.searchsorted(edges, point))
    if edges[right] == point:
        return exceedance[:, right]
    log_x, log_s, at = np.log(edges), np.log(exceedance), np.log(point)
    bounds = []
    if right + 1 < len(edges):
        bounds.append(_line(log_x, log_s, right, right + 1, at))
    if right >= 2:
        bounds.append(_line(log_x, log_s, right - 2, right - 1, at))
    if right == 0:
        chord = np.log(1.0 + (exceedance[:, 0] - 1.0) * point / edges[0])
        ceiling = np.zeros(len(exceedance))
    else:
        chord = _line(log_x, log_s, right - 1, right, at)
        ceiling = log_s[:, right - 1]
    upper = np.min(bounds, axis=0) if bounds else ceiling
    return np.asarray(np.exp(np.minimum(np.maximum(chord, upper), ceiling)))


def _line(x: FloatArray, y: FloatArray, left: int, right: int, at: float) -> FloatArray:
    slope = (y[:, right] - y[:, left]) / (x[right] - x[left])
    return np.asarray(y[:, left] + slope * (at - x[left]))


def nearest_edge(tolerated: FloatArray, share: float) -> IntArray:
    """Per window the edge that the tolerated share of slow requests is nearest to ``share``, (W,)."""
    wanted = np.log(share / (1.0 - share))
    distance = np.abs(np.log(tolerated / (1.0 - tolerated)) - wanted)
    return np.asarray(np.argmin(distance, axis=1), dtype=np.int64)


def odds_log_evidence(arms: Arms, rate: FloatArray, odds_ratio: FloatArray, factors: FloatArray) -> FloatArray:
    """Log e-values against ``odds_c <= odds_ratio * odds_b``, shape (W, C, J), before any tempering.

    rate: stable's exceedance before the window; odds_ratio: theta0 >= 1; both (W, C), nan where nothing is known
    yet, which gives zero.
    """
    ready = arms.comparable & np.isfinite(rate)
    p = np.where(ready, rate, 0.5)[..., None]
    theta0 = np.where(ready, odds_ratio, 1.0)[..., None]
    total = np.maximum(arms.canary_of + arms.stable_of, 1.0)
    rho = (arms.canary_of / total)[..., None]
    odds = p / (1.0 - p) * theta0 * factors
    p_j = odds / (1.0 + odds)
    mean = rho * p_j + (1.0 - rho) * p
    linear = rho * theta0 + (1.0 - rho) - mean * (theta0 - 1.0)
    square = (1.0 - rho) * (theta0 - 1.0)
    p0 = 2.0 * mean / (linear + np.sqrt(linear * linear + 4.0 * square * mean))
    scale = 1.0 + p0 * (theta0 - 1.0)
    fast = (1.0 - p0) / scale
    evidence = (
        arms.canary_events[..., None] * np.log(p_j * scale / (theta0 * p0))
        - (arms.canary_of - arms.canary_events)[..., None] * np.log((1.0 + odds) * fast)
        + arms.stable_events[..., None] * np.log(p / p0)
        + (arms.stable_of - arms.stable_events)[..., None] * np.log((1.0 - p) / (1.0 - p0))
    )
    return np.where(ready[..., None], evidence, 0.0)


def histogram_quantile(edges: FloatArray, slower: FloatArray, of: float, quantile: float) -> float:
    """The quantile in seconds, linear inside its bucket; the last edge when it lies beyond; nan without requests."""
    if of <= 0 or not len(edges):
        return float("nan")
    below = np.concatenate(([0.0], of - slower))
    grid = np.concatenate(([0.0], edges))
    wanted = quantile * of
    if wanted >= below[-1]:
        return float(edges[-1])
    right = int(np.searchsorted(below, wanted, side="right"))
    inside = (wanted - below[right - 1]) / (below[right] - below[right - 1])
    return float(grid[right - 1] + inside * (grid[right] - grid[right - 1]))

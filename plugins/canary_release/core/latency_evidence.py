"""Evidence from latency histograms, on the odds of being slower than a bucket edge.

A tolerance in seconds or per cent says how far stable's distribution may be stretched: the canary may exceed the edge
x as often as stable exceeds x/(1 + t) (or x - t). That is read from stable's histogram before the window and turned
into a tolerated odds ratio theta0 at the edge. Shapes: W windows, B edges, C columns, J alternatives.

Evidence is the ratio of two likelihoods of the counts given how many of both sides' requests were slow, which do not
depend on how fast the service was in that window.
"""

from collections.abc import Sequence

import numpy as np

from canary_release.core.observations import Arms
from canary_release.core.record import FloatArray, IntArray
from canary_release.core.release import Limit, LimitKind

ODDS_FACTORS = np.array([1.12, 1.3, 1.7, 2.5, 4.5, 12.0])
DEFAULT_SHARES = (0.5, 0.1, 0.01)  # exceedances watched by a check without a quantile
_TINY = 1e-9


def exceedance(slower: FloatArray, of: FloatArray) -> FloatArray:
    """The share of requests slower than each edge, never quite 0 or 1; slower: (W, B), of: (W, 1)."""
    return np.asarray(((slower + 0.5) / (of + 1.0)).clip(_TINY, 1.0 - _TINY))


def tolerated_exceedance(edges: FloatArray, exceedance: FloatArray, limit: Limit | None) -> FloatArray:
    """How often the canary may be slower than each edge, (W, B); at least stable's own exceedance."""
    return Stretched(edges, [limit]).tolerated(exceedance)[:, 0]


class Stretched:
    """Stable's histogram made slower by each of L limits, on fixed edges (B,).

    Between edges the survival function is taken on doubly logarithmic axes. There it is concave for exponential,
    normal, log-normal, Weibull and Pareto tails, so it lies above its chord and below both neighbouring chords made
    longer. The larger of the chord and that upper bound is used: a tolerance is never read too small.
    """

    def __init__(self, edges: FloatArray, limits: Sequence[Limit | None]) -> None:
        self._edges, self._shape = edges, (len(limits), len(edges))
        point = np.concatenate([_reached(edges, limit) for limit in limits])
        at = np.log(np.maximum(point, 1e-300))
        log_x, last = np.log(edges), len(edges) - 1
        right = np.minimum(np.searchsorted(edges, point), last)
        self._point, self._right = point, right
        self._exact = edges[right] == point
        self._chord = _line(log_x, np.maximum(right - 1, 0), right, at)
        self._after = _line(log_x, right, np.minimum(right + 1, last), at)
        self._before = _line(log_x, np.maximum(right - 2, 0), np.maximum(right - 1, 0), at)

    def tolerated(self, exceedance: FloatArray) -> FloatArray:
        """(W, L, B) from stable's exceedance (W, B)."""
        log_s, first = np.log(exceedance), self._right == 0
        ceiling = np.where(first, 0.0, log_s[:, np.maximum(self._right - 1, 0)])
        below_first = np.log1p((exceedance[:, :1] - 1.0) * np.minimum(self._point / self._edges[0], 1.0))
        chord = np.where(first, below_first, _on(self._chord, log_s))
        after = np.where(self._right < len(self._edges) - 1, _on(self._after, log_s), np.inf)
        before = np.where(self._right >= 2, _on(self._before, log_s), np.inf)
        upper = np.minimum(np.minimum(after, before), np.maximum(ceiling, chord))
        found = np.exp(np.minimum(np.maximum(chord, upper), ceiling))
        found = np.where(self._exact, exceedance[:, self._right], np.where(self._point <= 0, 1.0, found))
        own = exceedance[:, None, :]
        return np.maximum(found.reshape(len(exceedance), *self._shape), own).clip(_TINY, 1.0 - _TINY)


_Line = tuple[IntArray, IntArray, FloatArray]


def _reached(edges: FloatArray, limit: Limit | None) -> FloatArray:
    """Where stable would be as slow as the canary may be at each edge, in seconds."""
    if limit is None or limit.amount <= 0:
        return edges
    return edges / (1.0 + limit.amount) if limit.kind is LimitKind.RELATIVE else edges - limit.amount


def _line(x: FloatArray, left: IntArray, right: IntArray, at: FloatArray) -> _Line:
    run = np.where(left == right, 1.0, x[right] - x[left])
    return left, right, (at - x[left]) / run


def _on(line: _Line, y: FloatArray) -> FloatArray:
    left, right, share = line
    from_y = y[:, left]
    return from_y + (y[:, right] - from_y) * share


def nearest_edge(tolerated: FloatArray, share: float | FloatArray) -> IntArray:
    """The edge (last axis of ``tolerated``) at which the tolerated share of slow requests is nearest to ``share``."""
    share = np.asarray(share, dtype=float)
    wanted = np.log(share / (1.0 - share))[..., None]
    distance = np.abs(np.log(tolerated / (1.0 - tolerated)) - wanted)
    return np.asarray(np.argmin(distance, axis=-1), dtype=np.int64)


def odds_log_likelihood(arms: Arms, odds_ratio: FloatArray, logs: FloatArray) -> FloatArray:
    """ln of the chance of both sides' counts, given their sum, where odds_c = odds_ratio exp(logs) odds_b, (W, C, J).

    Up to a term that does not depend on ``logs``, and by the double saddlepoint approximation (Davison, Statistical
    Models, 12.3): the likelihood at stable's likeliest own rate p, with rho g(p) + (1 - rho) p = share of all slow
    requests and g(p) = theta p/(1 - p + theta p), times the square root of the variance of the sum. odds_ratio: (W, C);
    logs: (W, C, J).
    """
    total = np.maximum(arms.canary_of + arms.stable_of, 1.0)
    rho = (arms.canary_of / total)[..., None]
    mean = ((arms.canary_events + arms.stable_events) / total).clip(1e-12, 1.0 - 1e-12)[..., None]
    theta = odds_ratio[..., None] * np.exp(logs)
    linear = 1.0 + (theta - 1.0) * (rho - mean)
    root = np.sqrt(linear * linear + 4.0 * (1.0 - rho) * (theta - 1.0) * mean)
    odds = 2.0 * mean / np.maximum(linear + root - 2.0 * mean, 1e-300)
    canary_odds = theta * odds
    of_all = (arms.canary_events + arms.stable_events)[..., None]
    canary_of, stable_of = arms.canary_of[..., None], arms.stable_of[..., None]
    slack, canary_slack = 1.0 + odds, 1.0 + canary_odds
    variance = canary_of * canary_odds / (canary_slack * canary_slack) + stable_of * odds / (slack * slack)
    evidence = of_all * np.log(odds) + arms.canary_events[..., None] * logs + 0.5 * np.log(variance + 1e-300)
    return np.asarray(evidence - canary_of * np.log(canary_slack) - stable_of * np.log(slack))

"""Evidence from events that surely come in clumps: the likelihood of the canary's count, paid for by stable's.

However large a clump is, it says little more than that it came, so the ratio of the likelihoods of a count bends: from
none to one it changes by as much as a whole clump is worth, afterwards by ever less. A tilt, which is straight, cannot
follow that where few clumps are expected. With f the ratio of the chances of side a's count (`clump_counts.py`) under
harm and under m* events,
    ln E f <= k (m - m*)   where m events are expected:
f is log-concave in the count, so ln E f is in m (Karlin, Total Positivity, 3), and its tangent at m* holds for every
rate. k = (E[clumps | x_a]/clumps - 1)/clump size, the mean taken under harm. Side b takes k m back, whatever the
rate: v^{x_b} with n_b K(v) = -k n_a theta and K as in `error_evidence.py`. Together
    l = ln f(x_a) + x_b ln v + k (m* - n_a delta).
m* steers power, never validity; it is what is expected at the nearest null rate.

Clumps are known only to be between two sizes. Where few are expected the smaller ones mislead, where many are the
larger ones, so l is the smaller of both sizes' evidence.
"""

import numpy as np

from canary_release.core.clump_counts import clumps_given, log_chance
from canary_release.core.error_evidence import Comparison, expected_at_nearest, paid_by_b
from canary_release.core.record import FloatArray

_FEWEST = 1e-9  # clumps, so that nothing is divided by nought


def clump_log_evidence(null: Comparison, factors: FloatArray, phi: FloatArray, least_phi: FloatArray) -> FloatArray:
    """l of the module docstring for harm by these factors (W, C, J); phi, least_phi: (C,) or (W, C), phi > 1.

    -inf where side b has too little traffic to take k m back.
    """
    loose, most_loose = (2.0 / (phi + 1.0))[..., None], (2.0 / (least_phi + 1.0))[..., None]
    expected, of_a = expected_at_nearest(null, factors)
    of_larger = _with_clumps(null, expected, of_a, loose, loose)
    return np.minimum(of_larger, _with_clumps(null, expected, of_a, most_loose, loose))


def _with_clumps(
    null: Comparison, expected: FloatArray, harm: FloatArray, loose: FloatArray, of_b: FloatArray
) -> FloatArray:
    """l when side a's clumps are of one size. expected: m*; harm: what it is multiplied by; of_b: 1 - r of side b."""
    usual = np.maximum(expected * loose, _FEWEST)
    slope = loose * _slope(usual, harm, loose)
    paid, possible = paid_by_b(null, slope, of_b)
    events = null.a_events[..., None]
    evidence = log_chance(events, harm * usual, loose) - log_chance(events, usual, loose)
    evidence += paid
    evidence += slope * (usual / loose - null.a_of[..., None] * null.delta[..., None])
    return np.where(possible, evidence, -np.inf)


def _slope(usual: FloatArray, harm: FloatArray, loose: FloatArray) -> FloatArray:
    """d ln E f/d clumps at ``usual``: E[clumps | x]/usual - 1, the mean under harm.

    By two nodes for the count less one, given that there is any, as if that were gamma with the same mean and variance
    (Gauss-Laguerre).
    """
    clumps = harm * usual
    some = -np.expm1(-clumps)
    mean = clumps / (loose * some)
    spread = clumps * (2.0 - loose) / (loose * loose * some) + mean * mean * some - mean * mean
    mean, spread = np.maximum(mean - 1.0, 1e-9), np.maximum(spread, 1e-9)
    scale = spread / mean
    reach = np.sqrt(scale * (scale + mean))
    of_lower = 0.5 * (1.0 + scale / reach)
    nodes = (clumps_given(1.0 + mean + scale + sign * reach, usual, loose) for sign in (-1.0, 1.0))
    lower, upper = nodes
    return np.asarray(some * (of_lower * lower + (1.0 - of_lower) * upper) / usual - 1.0)

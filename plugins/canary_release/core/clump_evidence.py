"""Evidence from events that surely come in clumps: a window without any is weighed apart.

However large a clump is, it says little more than that it came. Under Poisson clumps of geometric size the likelihood
of a count therefore bends: from none to one it changes by as much as a whole clump is worth, afterwards by far less.
So the events x_a of side a, a Polya-Aeppli count (Johnson, Kemp & Kotz, Univariate Discrete Distributions, 9.7), are
bet on, with r the stickiness of the largest clumps there may be and q that of the least, by
    g(x) = u^x (1 - b [x = 0]),   u >= 1 > b >= 0.
With y = (1 - r) u/(1 - r u) (what u makes of a clump), m events expected and clumps between those two sizes,
    ln E g <= ln G(m) = (1 - r) m (y - 1) + ln(1 - b exp(-(1 - q) m y)),
which is concave in m, so that its tangent at any m* holds for every rate: ln G(m) <= ln G(m*) + k (m - m*). Side b
takes k m back, whatever the rate: v^{x_b} with n_b K(v) = -k n_a theta and K as in `error_evidence.py`. Together
    l = ln g(x_a) + x_b ln v - ln G(m*) + k (m* - n_a delta).
m*, u and b steer power, never validity: m* is what is expected at the nearest null rate, u and b are such that under g
mean and chance of none are as under the alternative (the two statistics of that exponential family).
"""

import numpy as np

from canary_release.core.error_evidence import Comparison, against_nearest, clump_cumulant
from canary_release.core.record import BoolArray, FloatArray

_ROUNDS = 4  # of a fixed point that need not be exact
_FEWEST = 1e-9  # clumps, so that nothing is divided by nought


def clump_log_evidence(null: Comparison, factors: FloatArray, phi: FloatArray, least_phi: FloatArray) -> FloatArray:
    """l of the module docstring for harm by these factors (W, C, J); phi, least_phi: (C,) or (W, C), phi > 1.

    -inf where side b has too little traffic to take k m back.
    """
    loose, least = (2.0 / (phi + 1.0))[..., None], (2.0 / (least_phi + 1.0))[..., None]
    rho, theta, a_of = null.rho[..., None], null.theta[..., None], null.a_of[..., None]
    of_a, _ = against_nearest(null, factors)
    expected = a_of * (theta * null.rate[..., None] + null.delta[..., None]) * factors / of_a
    clumps, more = np.maximum(expected * loose, _FEWEST), least / loose
    harm = np.maximum(of_a, 1.0)
    y, none, gap = _bet(harm, clumps, loose, more)
    bends = gap > 0
    log_share = np.where(bends, np.log((1.0 - none) / -np.expm1(-harm * clumps)), 0.0)  # ln(1 - b none)
    log_empty = np.where(bends, clumps * (more * y - harm) + log_share, 0.0)  # ln(1 - b)
    slope = loose * (y - 1.0 + more * y * gap / (1.0 - none))
    taken = slope * theta * rho / np.maximum(1.0 - rho, 1e-12)
    possible = (taken < 0.9 * loose) & null.informative[..., None]
    taken = np.where(possible, taken, 0.0)
    log_v = np.log((loose - taken) / (loose - taken * (1.0 - loose)))
    evidence = null.a_events[..., None] * np.log(y / (loose + (1.0 - loose) * y))
    evidence += (null.a_events < 0.5)[..., None] * log_empty + null.b_events[..., None] * log_v
    evidence += slope * (clumps / loose - a_of * null.delta[..., None]) - clumps * (y - 1.0) - log_share
    return np.where(possible, evidence, -np.inf)


def _bet(
    harm: FloatArray, clumps: FloatArray, loose: FloatArray, more: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """y, exp(-(1 - q) m* y), and by how much that is above the chance of none under the alternative.

    The mean fits where y (1 - r + r y) (1 + more gap/(1 - none)) = harm; without a gap that is the best tilt.
    """
    sticks, nothing = 1.0 - loose, np.exp(-harm * clumps)
    share = np.ones_like(clumps)
    for left in reversed(range(_ROUNDS)):
        y = (np.sqrt(loose * loose + 4.0 * sticks * np.maximum(harm * share, 1.0)) - loose) / (2.0 * sticks)
        none = np.exp(-more * clumps * y)
        gap = np.maximum(none - nothing, 0.0)
        if left:
            share = 1.0 / (1.0 + more * gap / (1.0 - none))
    return y, none, gap


def clumps_say_more(
    null: Comparison, factors: FloatArray, tilt: FloatArray, phi: FloatArray, least_phi: FloatArray
) -> BoolArray:
    """Where clumps are expected to say more about harm by these factors than the events themselves, (W, C, J).

    Even if each window with any events counted once. That is stricter than it need be for geometric clumps, and makes
    up for services that have none: of single errors mixed with few large clumps there are more than their Fano factor
    tells, so that a bet on empty windows is only fair enough where few clumps are expected at all.
    """
    stickiness, loose = ((phi - 1.0) / (phi + 1.0))[..., None], (2.0 / (least_phi + 1.0))[..., None]
    expected = (null.a_of * (null.theta * null.rate + null.delta))[..., None]
    of_clumps = -np.expm1(-expected * (1.0 - stickiness) * factors) * np.log(factors)
    of_clumps -= expected * loose * (factors - 1.0)
    of_events = expected * (factors * tilt - clump_cumulant(np.exp(tilt), stickiness))
    return np.asarray(of_clumps > of_events)

"""Evidence from whether a window had any events at all, where it is only guessed how large clumps may be.

However events clump, a window with m expected has none with a chance of at least exp(-m), as if they were single. So
of a few single errors, "any or none" tells all that there is to be known, and clumps can neither hide nor feign it. For
harm by the factor f and m* expected, side a's events are bet on by
    g(x) = (1 - b [x = 0])/(1 - b exp(-m*)),   1 - b = exp(-(f - 1) m*) (1 - exp(-m*))/(1 - exp(-f m*)),
the ratio of the chances of any, and of none, for single events. Then
    ln E g <= ln(1 - b exp(-m)) - ln(1 - b exp(-m*)) <= k (m - m*),   k = b exp(-m*)/(1 - b exp(-m*)),
as the middle is concave in m: its tangent holds for every rate. Side b takes k m back, whatever the rate: v^{x_b} with
n_b K(v) = -k n_a theta and K as in `error_evidence.py` for the largest clumps; smaller ones make it less. Together
    l = ln g(x_a) + x_b ln v + k (m* - n_a delta).
m* steers power, never validity; it is what is expected at the nearest null rate.
"""

import numpy as np

from canary_release.core.error_evidence import (
    HARM_FACTORS,
    Comparison,
    clump_cumulant,
    expected_at_nearest,
    paid_by_b,
)
from canary_release.core.noise import DEFAULT_NOISE
from canary_release.core.record import BoolArray, FloatArray

FEW_EVENTS = 1.0  # expected without harm; with more, most windows have some anyhow
_FEWEST = 1e-9  # events, so that nothing is divided by nought


def any_log_evidence(null: Comparison, factors: FloatArray, phi: FloatArray) -> FloatArray:
    """l of the module docstring for harm by these factors (W, C, J); phi: (C,) or (W, C), an upper bound.

    -inf where side b has too little traffic to take k m back.
    """
    expected, of_a = expected_at_nearest(null, factors)
    usual, harm = np.maximum(expected, _FEWEST), np.maximum(of_a, 1.0)
    log_any, log_none = _of_single(usual, harm)
    slope = -np.expm1(log_none - log_any) * np.exp(log_any - usual)
    paid, possible = paid_by_b(null, slope, (2.0 / (phi + 1.0))[..., None])
    evidence = np.where(null.a_events[..., None] > 0, log_any, log_none) + paid
    evidence += slope * (usual - null.a_of[..., None] * null.delta[..., None])
    return np.where(possible, evidence, -np.inf)


def _of_single(usual: FloatArray, harm: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ln g of any and of none."""
    return np.log(np.expm1(-harm * usual) / np.expm1(-usual)), (1.0 - harm) * usual


def ask_for_any(
    single: FloatArray,
    null: Comparison,
    factors: FloatArray,
    tilt: FloatArray,
    phi: FloatArray,
    asked: BoolArray,
) -> None:
    """Where it is expected to say more, harm is read from any or none, in place; (W, C, 1 + J, nodes).

    Never once stable has shown larger clumps than the default's. single:
    evidence from how many there are; factors, tilt: of the null, in front, and of each harm, in the shape of
    ``single``; asked: (W, C).
    """
    expected = null.a_of * (null.theta * null.rate + null.delta)
    may = asked & (expected < FEW_EVENTS) & (phi > 1.0) & (phi <= DEFAULT_NOISE.phi)
    if not may.any():
        return
    better = _says_more(expected, HARM_FACTORS, tilt[:, :, 1:].mean(axis=-1), phi) & may[..., None]
    flat = factors[:, :, 1:].reshape(*expected.shape, -1)
    found = any_log_evidence(null, flat, phi).reshape(*better.shape, -1)
    better &= np.isfinite(found).all(axis=-1)
    single[:, :, 1:] = np.where(better[..., None], found, single[:, :, 1:])


def _says_more(expected: FloatArray, harms: FloatArray, tilt: FloatArray, phi: FloatArray) -> BoolArray:
    """Any or none, than how many there are, tilted by these (W, C, J).

    Reckoned between clumps as large as guessed and none at all: the more has been seen of stable, the lower is phi if
    there are none.
    """
    usual, stickiness = np.maximum(expected, _FEWEST)[..., None], ((phi - 1.0) / (phi + 1.0))[..., None]
    log_any, log_none = _of_single(usual, harms)
    single = ((DEFAULT_NOISE.phi - phi) / (DEFAULT_NOISE.phi - 1.0))[..., None]
    none = single * np.exp(-harms * usual) + (1.0 - single) * np.exp(-harms * usual * (1.0 - stickiness))
    of_any = (1.0 - none) * log_any + none * log_none
    return np.asarray(of_any > usual * (harms * tilt - clump_cumulant(np.exp(tilt), stickiness)))

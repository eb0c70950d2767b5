"""Evidence from counts of events: errors out of requests, conversions, requests slower than an edge.

Everything here is a log e-value a window: under its null the mean of exp(value) is at most 1, whatever the rate of
the window was, so daily waves and incidents that hit both sides cancel. Events may come in geometric clumps of Fano
factor phi. Shapes: W windows, C columns (checks), J alternatives.

For the null "rate a <= theta * rate b + delta" with tilt s, and r the stickiness of the clumps:
    rho = n_a/(n_a + n_b),  rho0 = rho theta/(1 - rho + rho theta),  u = exp(s)
    lambda = (b + sqrt(b^2 - 4 r u))/2  with  b = r(1 + u) + (1 - r)(1 - rho0 + rho0 u)
    l = s x_a - (x_a + x_b) ln(lambda) - n_a delta K(u/lambda),   K(v) = (1 - r)(v - 1)/(1 - r v)
K(v) is the log moment generating function of clumped Poisson events per expected event, at v = exp(tilt), and lambda
solves rho0 K(u/lambda) + (1 - rho0) K(1/lambda) = 0. So l is exactly normalised on the boundary for every rate; with
phi = 1 and delta = 0 it is the conditional binomial of Lindon & Malek (arXiv 2011.03567).
A negative s turns the null round: rate a >= theta * rate b + delta.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from canary_release.core.observations import Arms
from canary_release.core.record import BoolArray, FloatArray

CAP = 5.0  # no single window decides
CACHED = 1 << 15  # array elements of which some arrays fit into a processor's own cache
HARM_FACTORS = np.geomspace(1.3, 32.0, 6)  # alternatives, as multiples of what is tolerated


@dataclass(frozen=True)
class Comparison:
    """The null ``rate a <= theta * rate b + delta`` with the arms already on their sides; (W, C), theta and delta
    perhaps (C,).

    rate: what stable's rate (of the oriented events) was before each window, used for power only, never for validity.
    """

    a_events: FloatArray
    a_of: FloatArray
    b_events: FloatArray
    b_of: FloatArray
    theta: FloatArray
    delta: FloatArray
    rate: FloatArray

    def __getitem__(self, rows: slice) -> "Comparison":
        theta, delta = (values[rows] if values.ndim > 1 else values for values in (self.theta, self.delta))
        a_events, a_of, b_events, b_of = self.a_events[rows], self.a_of[rows], self.b_events[rows], self.b_of[rows]
        return Comparison(a_events, a_of, b_events, b_of, theta, delta, self.rate[rows])

    @cached_property
    def rho(self) -> FloatArray:
        return self.a_of / np.maximum(self.a_of + self.b_of, 1.0)

    @cached_property
    def shifted(self) -> bool:
        """Whether delta is anything but nought for any column."""
        return bool(self.delta.any())

    @property
    def informative(self) -> BoolArray:
        return (self.a_of > 0) & (self.b_of > 0)


def orient(
    arms: Arms, theta: FloatArray, delta: FloatArray, rate: FloatArray, higher_is_better: BoolArray
) -> Comparison:
    """Turn "the canary is no worse than tolerated" into ``rate a <= theta * rate b + delta``.

    theta, delta: (C,) or (W, C), the tolerated worsening: canary <= theta * stable + delta, or with higher_is_better
    (C,) stable <= theta * canary + delta. Where stable's rate before the window was above one half the events that
    did not happen are counted instead, because Poisson bounds are sharp for rare events only.
    """
    turn = rate > 0.5
    if not turn.any() and not higher_is_better.any():
        return Comparison(arms.canary_events, arms.canary_of, arms.stable_events, arms.stable_of, theta, delta, rate)
    a_events, b_events = _swap(higher_is_better, arms.canary_events, arms.stable_events)
    a_of, b_of = _swap(higher_is_better, arms.canary_of, arms.stable_of)
    other_a, other_b = b_of - b_events, a_of - a_events
    return Comparison(
        a_events=np.where(turn, other_a, a_events),
        a_of=np.where(turn, b_of, a_of),
        b_events=np.where(turn, other_b, b_events),
        b_of=np.where(turn, a_of, b_of),
        theta=np.where(turn, 1.0 / theta, theta),
        delta=np.where(turn, (theta + delta - 1.0) / theta, delta),
        rate=np.where(turn, 1.0 - rate, rate),
    )


def _swap(flip: BoolArray, canary: FloatArray, stable: FloatArray) -> tuple[FloatArray, FloatArray]:
    return np.where(flip, stable, canary), np.where(flip, canary, stable)


def clump_cumulant(v: FloatArray, stickiness: FloatArray) -> FloatArray:
    """K(v) = (1 - r)(v - 1)/(1 - r v), the log moment generating function per expected event."""
    return (1.0 - stickiness) * (v - 1.0) / (1.0 - stickiness * v)


def normaliser(u: FloatArray, rho0: FloatArray, stickiness: FloatArray, sticky: FloatArray) -> FloatArray:
    """lambda: what one event costs, given that it falls to side a with chance rho0 and sticks with chance r.

    sticky: r u.
    """
    loose = 1.0 - stickiness
    half = u * (0.5 * (stickiness + loose * rho0))  # b/2
    half += 0.5 * (stickiness + loose * (1.0 - rho0))
    root = half * half
    root -= sticky
    np.maximum(root, 0.0, out=root)
    np.sqrt(root, out=root)
    root += half
    return root


def best_tilt(ratio: FloatArray, stickiness: FloatArray) -> FloatArray:
    """The tilt of one side's count under which its mean becomes ``ratio`` times what it was: K'(s) = ratio.

    With q = (1 - r) + sqrt((1 - r)^2 + 4 r ratio) it is 2 ln(2 sqrt(ratio)/q): ln(ratio) for independent events, and
    always inside the range where clumps have a moment generating function.
    """
    loose = 1.0 - stickiness
    root = np.sqrt(loose * loose + 4.0 * stickiness * ratio)
    return np.log(4.0 * ratio / (loose + root) ** 2)


def tilts(null: Comparison, factors: FloatArray, phi: FloatArray) -> FloatArray:
    """ln of ``tilted``, (W, C, J)."""
    return np.log(tilted(null, factors, phi))


def tilted(null: Comparison, factors: FloatArray, phi: FloatArray) -> FloatArray:
    """exp(s), the tilt s for each alternative "rate a = factor * (theta * rate b + delta)", shape (W, C, J).

    The one with which evidence grows fastest under the alternative, up to its normalisation: the difference of the
    sides' own best tilts against the nearest null rate p*, which solves
    rho theta (q_a/(theta p + delta) - 1) + (1 - rho)(q_b/p - 1) = 0. It steers power, never validity.
    """
    stickiness = ((phi - 1.0) / (phi + 1.0))[..., None]
    of_a, of_b = against_nearest(null, factors)
    found = of_a / of_b
    if not stickiness.any():
        return found
    # The difference of two best_tilt, with one logarithm less, and both q in parts of 1 - r.
    clumped = 4.0 * stickiness / (1.0 - stickiness) ** 2
    for of in (of_a, of_b):
        of *= clumped
        of += 1.0
        np.sqrt(of, out=of)
        of += 1.0
    of_b /= of_a
    of_b *= of_b
    found *= of_b
    return found


def against_nearest(null: Comparison, factors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both sides' rates under each alternative, in parts of what they are under the nearest null, (W, C, J)."""
    rho, theta, delta = null.rho[..., None], null.theta[..., None], null.delta[..., None]
    if not null.shifted:
        rho0 = rho * theta / (1.0 - rho + rho * theta)
        of_b = 1.0 / (1.0 - rho0 + rho0 * factors)
        return factors * of_b, of_b
    q_b = null.rate[..., None]
    least, total = theta * q_b + delta, 2.0 * (rho * theta + 1.0 - rho)
    linear = factors * (rho * theta * least)
    linear += (1.0 - rho) * q_b * theta - 0.5 * total * delta
    nearest = linear * linear  # total theta p*, in the end
    nearest += 2.0 * total * theta * (1.0 - rho) * q_b * delta
    np.sqrt(nearest, out=nearest)
    nearest += linear
    np.maximum(nearest, 1e-12 * total * theta, out=nearest)
    of_b = (total * theta * q_b) / nearest
    nearest += total * delta
    of_a = np.multiply(factors, total * least, out=linear)
    of_a /= nearest
    return of_a, of_b


def comparison_log_evidence(
    null: Comparison, tilt: FloatArray, phi: FloatArray, u: FloatArray | None = None
) -> FloatArray:
    """l of the module docstring, shape (W, C, J); zero where a side had no traffic.

    phi: (C,) or (W, C).  u: exp(tilt) where it is known already.
    """
    stickiness = ((phi - 1.0) / (phi + 1.0))[..., None]
    rho = null.rho
    rho0 = rho * null.theta / (1.0 - rho + rho * null.theta)
    u = np.exp(tilt) if u is None else u
    sticky = stickiness * u
    each = normaliser(u, rho0[..., None], stickiness, sticky)
    evidence = np.log(each)
    evidence *= -(null.a_events + null.b_events)[..., None]
    evidence += tilt * null.a_events[..., None]
    if null.shifted:  # n_a delta K(u/lambda)
        cost = np.subtract(each, sticky, out=sticky)
        np.divide(u - each, cost, out=cost)
        cost *= (1.0 - stickiness) * (null.a_of * null.delta)[..., None]
        evidence -= cost
    evidence[~null.informative] = 0.0
    return evidence


def tilts_and_evidence(null: Comparison, factors: FloatArray, phi: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The best tilts and the evidence with them, both (W, C, J); as many windows at a time as fit into the cache."""
    tilt, evidence = np.empty(factors.shape), np.empty(factors.shape)
    together = max(1, CACHED // max(1, factors[:1].size))
    for at in range(0, len(factors), together):
        rows = slice(at, at + together)
        part, of_part = null[rows], phi[rows] if phi.ndim > 1 else phi
        u = tilted(part, factors[rows], of_part)
        np.log(u, out=tilt[rows])
        evidence[rows] = comparison_log_evidence(part, tilt[rows], of_part, u)
    return tilt, evidence


def paid_by_b(null: Comparison, slope: FloatArray, loose: FloatArray) -> tuple[FloatArray, BoolArray]:
    """What side b's events take back of a bet on side a that gains ``slope`` for each event expected there, whatever
    the rate: x_b ln v with n_b K(v) = -slope n_a theta. And where b has enough traffic for that; both (W, C, J).

    loose: 1 - r of side b's largest clumps, (W or 1, C, 1).
    """
    taken = slope * null.theta[..., None] * null.rho[..., None] / np.maximum(1.0 - null.rho[..., None], 1e-12)
    possible = (taken < 0.9 * loose) & null.informative[..., None]
    taken = np.where(possible, taken, 0.0)
    log_v = np.log((loose - taken) / (loose - taken * (1.0 - loose)))
    return null.b_events[..., None] * log_v, possible


def expected_at_nearest(null: Comparison, factors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Side a's events expected at the nearest null rate, and what each alternative multiplies them by, (W, C, J)."""
    of_a, _ = against_nearest(null, factors)
    return null.a_of[..., None] * (null.theta * null.rate + null.delta)[..., None] * factors / of_a, of_a


def limit_log_evidence(
    events: FloatArray, of: FloatArray, limit: FloatArray, tilt: FloatArray, phi: FloatArray
) -> FloatArray:
    """Evidence that one side's rate is above ``limit`` (tilt > 0) or below it (tilt < 0), shape (W, C, J).

    l = s x - n limit K(exp(s)), valid for independent and for clumped events. events, of: (W, C); limit: (C,) or
    (W, C); phi: (C,); tilt: (C, J).
    """
    stickiness = ((phi - 1.0) / (phi + 1.0))[:, None]
    cost = limit[..., None] * clump_cumulant(np.exp(tilt), stickiness)
    return events[..., None] * tilt - of[..., None] * cost


def limit_tilts(factors: FloatArray, phi: FloatArray) -> FloatArray:
    """Tilts for the alternatives "rate = factor * limit", shape (C, J)."""
    return best_tilt(factors, ((phi - 1.0) / (phi + 1.0))[:, None])


def tempered(evidence: FloatArray, arms: Arms, rate: FloatArray, instance_variance: FloatArray) -> FloatArray:
    """Allow for the slow noise of single instances, then cap; (W, C, J).

    l/(1 + V tau2/k) with V = N p (1 - p) rho (1 - rho). p is stable's rate before the window, so that the factor is
    known in advance; where the window itself shows more events, positive evidence is divided by the larger V as
    well, which can only lower it. instance_variance: tau2/k, (W, C).
    """
    total = np.maximum(arms.canary_of + arms.stable_of, 1.0)
    share = arms.canary_of / total
    seen_rate = (arms.canary_events + arms.stable_events) / total
    spread = total * share * (1.0 - share) * instance_variance
    before = 1.0 / (1.0 + spread * rate * (1.0 - rate))
    during = np.minimum(before, 1.0 / (1.0 + spread * seen_rate * (1.0 - seen_rate)))
    factor = np.where(evidence > 0, during[..., None], before[..., None])
    return np.minimum(evidence * factor, CAP)

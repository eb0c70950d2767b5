"""What the canary is held against: stable with a tolerance, or an absolute limit; evidence for harm and for safety.

Everything is a log e-value a window, (W, C, J). Noise of single instances is met in two ways at once, and the mixture
bets on both: evidence is tempered by the noise's variance as it adds up over time (found again in any harm, given
time), and the null is widened by as far as a side's instances wander (large harm is found at once).
"""

from dataclasses import dataclass

import numpy as np

from canary_release.core.error_evidence import (
    CAP,
    HARM_FACTORS,
    Comparison,
    comparison_log_evidence,
    limit_log_evidence,
    limit_tilts,
    orient,
    tempered,
    tilts,
)
from canary_release.core.latency_evidence import ODDS_FACTORS, odds_log_evidence
from canary_release.core.mixture import PASS_WINDOWS
from canary_release.core.noise import Noise
from canary_release.core.observations import Arms, Timeline
from canary_release.core.record import BoolArray, FloatArray, IntArray
from canary_release.core.running_sums import StepTotal

WIDE_FACTORS = np.geomspace(1.3, 10.0, 4)  # alternatives to a null that is widened already
WIDE_ODDS_FACTORS = np.geomspace(1.15, 8.0, 4)
# Standard deviations that the null is widened by for what instances do together. Evidence only grows some way beyond
# the null, and noise seldom stays so far out; 2 gave 1 % false rollbacks on the noisiest services, 2.3 a tenth of that.
WANDER = 2.3
PASS_WANDER = 1.6  # the same for a promotion, which may be wrong in one case of twenty
SAFE_ALTERNATIVES = np.linspace(0.0, 1.0, 6)
SAFE_WIDE_ALTERNATIVES = np.linspace(0.25, 0.9, 3)
SAFE_LIMIT_FACTORS = np.geomspace(0.1, 0.98, 6)


@dataclass(frozen=True)
class Scene:
    """What every check is weighed in: time, restart weights (W,), and the harm that a promotion may do."""

    time: Timeline
    weights: FloatArray
    harm_budget: float

    @property
    def safe_ratio(self) -> FloatArray:
        """theta1 = 1 + h/w: the rise on the canary that raises the whole service by h once its weight is w; (W,)."""
        return 1.0 + self.harm_budget / self.time.next_weight


@dataclass(frozen=True)
class Parameters:
    """Per column: what is tolerated (theta, delta), which direction is bad, and the noise; (C,) or (W, C).

    drift: tau2 for windows of one second, of one instance.  wander: a standard deviation, of one instance.
    """

    theta: FloatArray
    delta: FloatArray
    higher: BoolArray
    phi: FloatArray
    drift: FloatArray
    wander: FloatArray

    def __getitem__(self, columns: IntArray) -> "Parameters":
        return Parameters(*(getattr(self, name)[..., columns] for name in self.__dataclass_fields__))

    @property
    def plain(self) -> "Parameters":
        """The same without any tolerance."""
        ones = np.ones_like(self.theta)
        return Parameters(ones, 0.0 * ones, self.higher, self.phi, self.drift, self.wander)

    @property
    def noisy(self) -> bool:
        return bool(self.drift.any())

    def variance(self, time: Timeline) -> FloatArray:
        """tau2/k of both sides in windows as long as these, (W, C)."""
        return (time.instance_noise / time.seconds)[:, None] * self.drift

    def widening(self, time: Timeline, wander: float = WANDER) -> FloatArray:
        """How much worse the canary may look because of its instances, as a factor (W, C)."""
        return np.exp(np.minimum(wander * np.sqrt(time.instance_noise)[:, None] * self.wander, 20.0))


def noise_columns(noises: list[Noise]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """phi, drift and wander, each (C,)."""
    return (
        np.array([noise.phi for noise in noises]),
        np.array([noise.drift for noise in noises]),
        np.array([noise.wander for noise in noises]),
    )


def harm_of_change(arms: Arms, rate: FloatArray, par: Parameters, scene: Scene) -> FloatArray:
    """Evidence against "no worse than tolerated", (W, C, J)."""
    null = orient(arms, par.theta, par.delta, rate, par.higher)
    single = comparison_log_evidence(null, tilts(null, HARM_FACTORS, par.phi), par.phi)
    single = tempered(single, arms, rate, par.variance(scene.time))
    if par.noisy:
        wide = par.widening(scene.time)
        null = orient(arms, par.theta * wide, par.delta * wide, rate, par.higher)
        beyond = comparison_log_evidence(null, tilts(null, WIDE_FACTORS, par.phi), par.phi)
        single = np.concatenate((single, np.minimum(beyond, CAP)), axis=-1)
    return _masked(single, arms.seen)


def harm_of_odds(arms: Arms, rate: FloatArray, odds_ratio: FloatArray, par: Parameters, scene: Scene) -> FloatArray:
    """Evidence against "no slower than tolerated", (W, C, J); rate is nan where nothing is known yet."""
    phi = par.phi[..., None]
    known = np.nan_to_num(rate, nan=0.5)
    single = odds_log_evidence(arms, rate, odds_ratio, ODDS_FACTORS) / phi
    single = tempered(single, arms, known, par.variance(scene.time))
    if par.noisy:
        wide = odds_ratio * par.widening(scene.time)
        beyond = odds_log_evidence(arms, rate, wide, WIDE_ODDS_FACTORS) / phi
        single = np.concatenate((single, np.minimum(beyond, CAP)), axis=-1)
    return single


def safe_change(arms: Arms, rate: FloatArray, par: Parameters, scene: Scene) -> FloatArray:
    """Evidence against "worse than may be promoted", (W, C, J).

    What may be promoted is the larger of the check's own tolerance and the harm budget at the next weight.
    """
    own = orient(arms, par.theta, par.delta, rate, par.higher)
    ratio = np.broadcast_to(scene.safe_ratio[:, None], rate.shape)
    larger = own.theta * own.rate + own.delta >= ratio * own.rate
    theta, delta = np.where(larger, own.theta, ratio), np.where(larger, own.delta, 0.0)
    single = tempered(_safe(own, theta, delta, par, SAFE_ALTERNATIVES), arms, rate, par.variance(scene.time))
    if par.noisy:
        wide = par.widening(scene.time, PASS_WANDER)
        within = _safe(own, theta / wide, delta / wide, par, SAFE_WIDE_ALTERNATIVES)
        single = np.concatenate((single, np.minimum(within, CAP)), axis=-1)
    return _masked(single, arms.seen)


def safe_alternatives(par: Parameters) -> int:
    """J of ``safe_change``."""
    return len(SAFE_ALTERNATIVES) + (len(SAFE_WIDE_ALTERNATIVES) if par.noisy else 0)


def _safe(own: Comparison, theta: FloatArray, delta: FloatArray, par: Parameters, places: FloatArray) -> FloatArray:
    """Alternatives from a quarter of stable's rate up to almost as bad as the null allows."""
    null = Comparison(own.a_events, own.a_of, own.b_events, own.b_of, theta, delta, own.rate)
    lowest = np.minimum(np.log(0.25 * null.rate / (theta * null.rate + delta)), np.log(0.5))
    factors = np.exp(lowest[..., None] + (np.log(0.98) - lowest)[..., None] * places)
    return comparison_log_evidence(null, tilts(null, factors, par.phi), par.phi)


def beyond_limit(arms: Arms, par: Parameters, limit: FloatArray) -> FloatArray:
    """Evidence that the canary is beyond its limit (C,), (W, C, J)."""
    return _limit_evidence(arms, par, limit, HARM_FACTORS)


def within_limit(arms: Arms, par: Parameters, limit: FloatArray) -> FloatArray:
    """Evidence that the canary keeps its limit (C,), (W, C, J)."""
    return _limit_evidence(arms, par, limit, SAFE_LIMIT_FACTORS)


def _limit_evidence(arms: Arms, par: Parameters, limit: FloatArray, factors: FloatArray) -> FloatArray:
    rare = limit <= 0.5  # otherwise count what did not happen: the bounds are sharp for rare events only
    events = np.where(rare, arms.canary_events, arms.canary_of - arms.canary_events)
    sign = np.where(par.higher, -1.0, 1.0) * np.where(rare, 1.0, -1.0)
    tilt = limit_tilts(factors[None, :] ** sign[:, None], par.phi)
    single = limit_log_evidence(events, arms.canary_of, np.where(rare, limit, 1.0 - limit), tilt, par.phi)
    return _masked(np.minimum(single, CAP), arms.canary_known)


def _masked(single: FloatArray, seen: BoolArray) -> FloatArray:
    return np.where(seen[..., None], single, 0.0)


class Promotable:
    """Nothing passes on one window alone."""

    def __init__(self) -> None:
        self._counted = StepTotal()

    def extend(self, log_pass: FloatArray, counted: BoolArray, began: IntArray) -> FloatArray:
        """log_pass (W, C) where enough windows of the step counted, else -inf."""
        return np.where(self._counted.extend(counted.astype(float), began) >= PASS_WINDOWS, log_pass, -np.inf)

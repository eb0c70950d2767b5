"""What the canary is held against: stable with a tolerance, or an absolute limit; evidence for harm and for safety.

Comparisons with stable are log likelihoods at several places of the instances' noise, (W, C, 1 + J, nodes), the null
in front, for the filter that follows that noise (`noise_filter.py`). Absolute limits are log e-values a window,
(W, C, J); the comparison that goes with them meets the noise of instances in two ways at once, and the mixture bets on
both: evidence is tempered by the noise's variance as it adds up over time, and the null is widened by as far as a
side's instances wander.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from canary_release.core.any_events import ask_for_any
from canary_release.core.clump_evidence import clump_log_evidence
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
    tilts_and_evidence,
)
from canary_release.core.latency_evidence import ODDS_FACTORS, odds_log_likelihood
from canary_release.core.mixture import PASS_WINDOWS
from canary_release.core.noise import Noise
from canary_release.core.noise_filter import NODES, SPACING
from canary_release.core.observations import Arms, Timeline
from canary_release.core.record import BoolArray, FloatArray, IntArray
from canary_release.core.running_sums import StepTotal

WIDE_FACTORS = np.geomspace(1.3, 10.0, 4)  # alternatives to a null that is widened already
# Standard deviations that the null is widened by for what instances do together. Evidence only grows some way beyond
# the null, and noise seldom stays so far out; 2 gave 1 % false rollbacks on the noisiest services, 2.3 a tenth of that.
WANDER = 2.3
FEWEST_CLUMPED = 2.0  # phi from which clumps are worth telling from events
# Expected in a window. With more of them a tilt does as well, and need not know how fast the service was.
FEW_CLUMPS = 0.5
LONGEST_CLUMP = 10.0  # seconds
SAFE_PARTS = np.array([0.5, 0.8, 1.0])  # of the way from what may not be promoted to stable, on logarithms
SAFER = 0.5  # and one alternative beyond
SAFE_ALTERNATIVES = len(SAFE_PARTS) + 1
# How far beyond stable's recorded rate errors must be once there is no stable traffic to compare with: another time of
# day and incidents of the whole service stay within it.
ALONE_FACTOR = 2.0
ALONE_DEVIATIONS = 3.0  # of the recorded rate itself
SAFE_LIMIT_FACTORS = np.geomspace(0.1, 0.98, 6)
_LOG_HARMS, _LOG_ODDS = np.log(HARM_FACTORS), np.log(ODDS_FACTORS)


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
    least_phi: FloatArray

    def __getitem__(self, columns: IntArray) -> "Parameters":
        return Parameters(*(getattr(self, name)[..., columns] for name in self.__dataclass_fields__))

    @property
    def plain(self) -> "Parameters":
        """The same without any tolerance."""
        ones = np.ones_like(self.theta)
        return Parameters(ones, 0.0 * ones, self.higher, self.phi, self.drift, self.wander, self.least_phi)

    def spread(self, time: Timeline) -> FloatArray:
        """Standard deviation of how much worse instances make the canary look in a window, (W, C)."""
        within = np.minimum(self.wander**2, self.drift / time.seconds[:, None])
        return np.sqrt(time.instance_noise[:, None] * within)

    def persistence(self, time: Timeline) -> FloatArray:
        """How much of the instances' noise is left a window later, (W, C)."""
        return np.exp(-time.seconds[:, None] / np.maximum(self.lasting, 1e-9))

    @property
    def lasting(self) -> FloatArray:
        """Seconds until the noise of instances is forgotten to 1/e."""
        return np.asarray(self.drift / np.maximum(2.0 * self.wander**2, 1e-300))

    @property
    def calm(self) -> "Parameters":
        """The same if instances made no noise."""
        none = np.zeros_like(self.drift)
        return Parameters(self.theta, self.delta, self.higher, self.phi, none, none, self.least_phi)

    @property
    def noisy(self) -> bool:
        return bool(self.drift.any())

    def variance(self, time: Timeline) -> FloatArray:
        """tau2/k of both sides in windows as long as these, (W, C)."""
        return (time.instance_noise / time.seconds)[:, None] * self.drift

    def widening(self, time: Timeline, wander: float = WANDER) -> FloatArray:
        """How much worse the canary may look because of its instances, as a factor (W, C)."""
        return np.exp(np.minimum(wander * np.sqrt(time.instance_noise)[:, None] * self.wander, 20.0))


def noise_columns(noises: list[Noise]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """phi, drift, wander and least_phi, each (C,)."""
    return (
        np.array([noise.phi for noise in noises]),
        np.array([noise.drift for noise in noises]),
        np.array([noise.wander for noise in noises]),
        np.array([noise.least_phi for noise in noises]),
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


def harm_likelihoods(
    arms: Arms, rate: FloatArray, par: Parameters, scene: Scene, guessed: BoolArray | None = None
) -> FloatArray:
    """Log likelihoods of "as bad as tolerated" and of each harm, given instances' noise, (W, C, 1 + J, nodes).

    guessed: (C,), where it is only guessed how large clumps may be.
    """
    null = orient(arms, par.theta, par.delta, rate, par.higher)
    spread = par.spread(scene.time)
    logs, shape = _with_instances(_LOG_HARMS, spread)
    factors = np.exp(logs)
    tilt, single = tilts_and_evidence(null, factors, par.phi)
    single = single.reshape(shape)
    if (par.least_phi > FEWEST_CLUMPED).any():
        _count_clumps(single, null, factors, par, scene)
    if guessed is not None:
        asked = guessed & (scene.time.seconds >= LONGEST_CLUMP)[:, None]
        ask_for_any(single, null, factors.reshape(shape), tilt.reshape(shape), par.phi, asked)
    return _softened(single, arms, par, spread)


def _count_clumps(single: FloatArray, null: Comparison, factors: FloatArray, par: Parameters, scene: Scene) -> None:
    """Where windows surely have few clumps, harm is read from those, in place; (W, C, 1 + J, nodes).

    Only in windows so long that a clump of retries seldom lasts for several.
    """
    expected = null.a_of * (null.theta * null.rate + null.delta) * 2.0 / (par.phi + 1.0)
    sure = (par.least_phi > FEWEST_CLUMPED) & (expected < FEW_CLUMPS)
    sure &= (scene.time.seconds >= LONGEST_CLUMP)[:, None]
    if not sure.any():
        return
    phi, least = (np.maximum(values, FEWEST_CLUMPED) for values in (par.phi, par.least_phi))
    clumps = clump_log_evidence(null, factors, phi, least).reshape(single.shape)
    sure &= np.isfinite(clumps).all(axis=(2, 3))
    single[:] = np.where(sure[..., None, None], clumps, single)


def odds_likelihoods(arms: Arms, odds_ratio: FloatArray, known: BoolArray, par: Parameters, scene: Scene) -> FloatArray:
    """The same for "as slow as tolerated", odds_c = odds_ratio odds_b; zero where stable's past is not known (W, 1)."""
    spread = par.spread(scene.time)
    logs, shape = _with_instances(_LOG_ODDS, spread)
    single = odds_log_likelihood(arms, odds_ratio, logs) / par.phi[..., None]
    return np.where(known[..., None, None], _softened(single.reshape(shape), arms, par, spread), 0.0)


def _with_instances(harms: FloatArray, spread: FloatArray) -> tuple[FloatArray, tuple[int, ...]]:
    """Logarithms of the tolerated and of each harm with what instances make of it, and the shape with nodes apart.

    harms: logarithms, (J,) or (W, C, J).  The first result is (W, C, (1 + J) nodes).
    """
    kinds, spread = 1 + harms.shape[-1], np.minimum(spread, 2.0)[..., None]
    logs = spread * _nodes_of(kinds)
    logs[..., len(NODES) :] += _whole_places(harms, SPACING * spread).repeat(len(NODES), axis=-1)
    return logs, (*spread.shape[:-1], kinds, len(NODES))


def _whole_places(harms: FloatArray, spacing: FloatArray) -> FloatArray:
    """Harms as far from none as one place of the filter is from another, (W, C, J); spacing: on logarithms, (W, C, 1).

    Else a canary that does not change, and is different from stable by what lies between two places, would be likelier
    under some harm than under none in every window, and a long bake would roll it back.
    """
    places = np.maximum(np.rint(np.abs(harms) / np.maximum(spacing, 1e-12)), 1.0)
    return np.where(spacing > 0.0, np.copysign(places * spacing, harms), harms)


@cache
def _nodes_of(kinds: int) -> FloatArray:
    """All nodes once for each."""
    return np.tile(NODES, kinds)


def _softened(single: FloatArray, arms: Arms, par: Parameters, spread: FloatArray) -> FloatArray:
    """Counts so many that they tell places of the filter apart are made less of; unknown windows say nothing.

    In place, flat or not.
    """
    factor = 1.0 / (1.0 + information(arms, par) * (SPACING * spread) ** 2)
    of_columns = single.reshape(*factor.shape, -1)
    of_columns *= factor[..., None]
    of_columns[~arms.comparable] = 0.0
    return single


def information(arms: Arms, par: Parameters) -> FloatArray:
    """What a window's counts tell of the logarithm of the ratio of the sides' odds, (W, C)."""
    total = np.maximum(arms.canary_of + arms.stable_of, 1.0)
    share = arms.canary_of / total
    rate = (arms.canary_events + arms.stable_events) / total
    return np.asarray(total * share * (1.0 - share) * rate * (1.0 - rate) / par.phi)


def safe_likelihoods(arms: Arms, rate: FloatArray, par: Parameters, scene: Scene) -> FloatArray:
    """Log likelihoods of "as bad as may be promoted" and of each smaller harm, (W, C, 1 + J, nodes).

    What may be promoted is the larger of the check's own tolerance and the harm budget at the next weight. Alternatives
    lie around stable's own rate.
    """
    own = orient(arms, par.theta, par.delta, rate, par.higher)
    ratio = scene.safe_ratio[:, None]
    larger = own.theta * own.rate + own.delta >= ratio * own.rate
    theta, delta = np.where(larger, own.theta, ratio), np.where(larger, own.delta, 0.0)
    null = Comparison(own.a_events, own.a_of, own.b_events, own.b_of, theta, delta, own.rate)
    alike = np.minimum(np.log(null.rate / (theta * null.rate + delta)), np.log(0.95))[..., None]
    harms = np.concatenate((SAFE_PARTS * alike, alike - SAFER), axis=-1)
    spread = par.spread(scene.time)
    logs, shape = _with_instances(harms, spread)
    _, single = tilts_and_evidence(null, np.exp(logs), par.phi)
    return _softened(single.reshape(shape), arms, par, spread)


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


class Recorded:
    """Evidence against the rate that stable had when it last had traffic, while the canary has all of it.

    Weaker than a comparison of the same seconds, so nothing counts before the canary is beyond its tolerance on top of
    twice the upper end of what stable had. Only for events that are bad and rare; others are left alone.
    """

    def __init__(self) -> None:
        self._base: FloatArray | None = None
        self._alone = False

    def extend(self, single: FloatArray, arms: Arms, past: FloatArray, par: Parameters, time: Timeline) -> FloatArray:
        """``single`` (W, C, J) with the windows exchanged in which the canary was alone.

        past: stable's events and requests before each window, (W, C, 2).
        """
        came = time.alone & ~np.concatenate(([self._alone], time.alone[:-1]))
        rows = np.maximum.accumulate(np.where(came, np.arange(len(came)) + 1, 0))
        carried = np.zeros_like(past[:1]) if self._base is None else self._base
        base = np.concatenate((carried, past))[rows]
        self._base, self._alone = base[-1:], bool(time.alone[-1])
        if not time.alone.any():
            return single
        events, of = base[..., 0], base[..., 1]
        highest = (events + ALONE_DEVIATIONS * np.sqrt(par.phi * (events + 1.0))) / np.maximum(of, 1.0)
        limit = par.widening(time) * par.theta * ALONE_FACTOR * highest + par.delta
        usable = time.alone[:, None] & (of > 0) & (limit < 0.5) & ~par.higher & arms.canary_known
        tilt = limit_tilts(np.broadcast_to(HARM_FACTORS, (len(par.phi), len(HARM_FACTORS))), par.phi)
        found = limit_log_evidence(arms.canary_events, arms.canary_of, limit, tilt, par.phi)
        exchanged = np.full(single.shape, -50.0)
        exchanged[..., : found.shape[-1]] = np.minimum(found, CAP)
        return np.where(usable[..., None], exchanged, single)


class Promotable:
    """Nothing passes on one window alone."""

    def __init__(self) -> None:
        self._counted = StepTotal()

    def regroup(self, parents: IntArray) -> None:
        self._counted.regroup(parents)

    def extend(self, log_pass: FloatArray, counted: BoolArray, began: IntArray) -> FloatArray:
        """log_pass (W, C) where enough windows of the step counted, else -inf."""
        return np.where(self._counted.extend(counted.astype(float), began) >= PASS_WINDOWS, log_pass, -np.inf)

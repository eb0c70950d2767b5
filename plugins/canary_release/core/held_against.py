"""What the canary is held against: stable with a tolerance, or an absolute limit; evidence for harm and for safety."""

from collections.abc import Sequence
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
from canary_release.core.mixture import PASS_WINDOWS, in_step, log_sum, mixture_log_evidence, step_log_evidence
from canary_release.core.observations import (
    Arms,
    BoolArray,
    FloatArray,
    Histograms,
    IntArray,
    Timeline,
    decayed_before,
)

SAFE_ALTERNATIVES = np.linspace(0.0, 1.0, 12)
SAFE_LIMIT_FACTORS = np.geomspace(0.1, 0.98, 12)


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
class Weighed:
    """One check over all windows.

    log_e: ln of the evidence for harm (W,).  log_pass: ln of the evidence that it may be promoted (W,).
    single: log e-values of the leading limit (W, J), from which the beginning of the harm is read.
    arms: the counts to show, one column; for values the windows in which the canary was worse.
    histograms, edge: for latency, and the bucket edge that the counts refer to.  values: canary's and stable's.
    never: why the check cannot be judged in any window, else empty.
    """

    log_e: FloatArray
    log_pass: FloatArray
    single: FloatArray
    arms: Arms
    histograms: Histograms | None = None
    edge: IntArray | None = None
    values: tuple[FloatArray, FloatArray] | None = None
    never: str = ""


@dataclass(frozen=True)
class Parameters:
    """Per column: what is tolerated (theta, delta), which direction is bad, and the noise; (C,)."""

    theta: FloatArray
    delta: FloatArray
    higher: BoolArray
    phi: FloatArray
    tau2: FloatArray

    def __getitem__(self, columns: slice | IntArray) -> "Parameters":
        return Parameters(*(getattr(self, name)[columns] for name in self.__dataclass_fields__))


Part = tuple[FloatArray, FloatArray, FloatArray]
"""One limit of a check: log e-values a window (W, J), ln E (W,), ln of the evidence that it is kept (W,)."""


def together(parts: Sequence[Part]) -> Part:
    """Several limits of one check: the evidence is their mean, and it passes when every one passes."""
    log_e = log_sum(np.stack([part[1] for part in parts], axis=-1)) - np.log(len(parts))
    leading = max(parts, key=lambda part: float(np.max(part[1])))
    return leading[0], log_e, np.min([part[2] for part in parts], axis=0)


def rate_before(arms: Arms, scene: Scene, prior: FloatArray) -> FloatArray:
    """Stable's rate before each window, (W, C); ``prior`` (C,) until it has been seen."""
    events = decayed_before(arms.stable_events, scene.time.start)
    of = decayed_before(arms.stable_of, scene.time.start)
    return np.clip((events + 0.5) / (of + 0.5 / prior), 1e-9, 1.0 - 1e-9)


def variance(par: Parameters, scene: Scene) -> FloatArray:
    return scene.time.instance_noise[:, None] * par.tau2


def harm_of_change(arms: Arms, rate: FloatArray, par: Parameters, scene: Scene) -> tuple[FloatArray, FloatArray]:
    """Evidence against "no worse than tolerated": log e-values (W, C, J) and the whole rollout's ln E (W, C)."""
    null = orient(arms, par.theta, par.delta, rate, par.higher)
    single = comparison_log_evidence(null, tilts(null, HARM_FACTORS, par.phi), par.phi)
    single = tempered(_masked(single, arms.seen), arms, rate, variance(par, scene))
    return single, mixture_log_evidence(single, scene.weights)


def safe_change(arms: Arms, rate: FloatArray, par: Parameters, scene: Scene) -> FloatArray:
    """ln of the evidence since the step began against "worse than may be promoted", (W, C).

    What may be promoted is the larger of the check's own tolerance and the harm budget at the next weight.
    """
    own = orient(arms, par.theta, par.delta, rate, par.higher)
    ratio = np.broadcast_to(scene.safe_ratio[:, None], rate.shape)
    wide = own.theta * own.rate + own.delta >= ratio * own.rate
    theta, delta = np.where(wide, own.theta, ratio), np.where(wide, own.delta, 0.0)
    null = Comparison(own.a_events, own.a_of, own.b_events, own.b_of, theta, delta, own.rate)
    lowest = np.log(0.25 * null.rate / (theta * null.rate + delta))
    factors = np.exp(lowest[..., None] + (np.log(0.98) - lowest)[..., None] * SAFE_ALTERNATIVES)
    single = comparison_log_evidence(null, tilts(null, factors, par.phi), par.phi)
    single = tempered(_masked(single, arms.seen), arms, rate, variance(par, scene))
    return promotable(step_log_evidence(single, scene.time.first), arms.comparable, scene)


def promotable(log_pass: FloatArray, counted: BoolArray, scene: Scene) -> FloatArray:
    """Nothing passes on one window alone."""
    return np.where(in_step(counted.astype(float), scene.time.first) >= PASS_WINDOWS, log_pass, -np.inf)


def _masked(single: FloatArray, seen: BoolArray) -> FloatArray:
    return np.where(seen[..., None], single, 0.0)


def harm_of_limit(
    arms: Arms, rate: FloatArray, par: Parameters, limit: FloatArray, scene: Scene
) -> tuple[FloatArray, FloatArray]:
    """Evidence that the canary is beyond its limit *and* worse than stable: (W, J) and ln E (W,), for one column.

    The smaller of two e-processes, so that a limit which both versions break is not blamed on the canary. Once all
    traffic is on the canary there is no stable to compare with, and the limit counts alone.
    """
    factors = HARM_FACTORS[None, :] ** np.where(par.higher, -1.0, 1.0)[:, None]
    beyond = np.minimum(_limit_evidence(arms, par, limit, factors), CAP)
    plain = Parameters(np.ones(1), np.zeros(1), par.higher, par.phi, par.tau2)
    worse, _ = harm_of_change(arms, rate, plain, scene)
    worse = np.where(scene.time.alone[:, None, None], beyond, worse)
    both = [mixture_log_evidence(single, scene.weights)[:, 0] for single in (beyond, worse)]
    return beyond[:, 0], np.minimum(*both)


def safe_limit(arms: Arms, par: Parameters, limit: FloatArray, scene: Scene) -> FloatArray:
    """ln of the evidence since the step began that the canary keeps its limit, (W,), for one column."""
    factors = SAFE_LIMIT_FACTORS[None, :] ** np.where(par.higher, -1.0, 1.0)[:, None]
    single = np.minimum(_limit_evidence(arms, par, limit, factors), CAP)
    log_pass = step_log_evidence(single, scene.time.first)
    return promotable(log_pass, arms.canary_known & (arms.canary_of > 0), scene)[:, 0]


def _limit_evidence(arms: Arms, par: Parameters, limit: FloatArray, factors: FloatArray) -> FloatArray:
    events, of = arms.canary_events, arms.canary_of
    if limit[0] > 0.5:  # count what did not happen: the bounds are sharp for rare events only
        events, limit, factors = of - events, 1.0 - limit, 1.0 / factors
    single = limit_log_evidence(events, of, limit, limit_tilts(factors, par.phi), par.phi)
    return _masked(single, arms.canary_known)

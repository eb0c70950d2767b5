"""How far a check's evidence climbs in some rollouts that might come, and when it is over the line.

The judge's own mixture follows windows drawn from what they may bring (`expected_growth.py`), with the stakes that it
has, and with clumps as it will have learned them by then. The seed is fixed, so a plan always says the same.
Of instances that are only guessed to wander, the forecast takes it that they are alike: then only chance differs from
one rollout to the next. What was learned that they do differs as well.
Long stretches are followed in strides of several windows; beyond the last one evidence goes on as it did before it.
Shapes: N strides, K rollouts, D effects, J alternatives.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from canary_release.core.error_evidence import CAP
from canary_release.core.expected_window import Growth
from canary_release.core.noise_filter import FilteredMixture
from canary_release.core.record import FloatArray
from canary_release.core.running_sums import HALF_LIFE

ROLLOUTS = 40
POWER = 0.9
CHANCES = (0.5, POWER)
STRIDES = 240
FINEST = 2000  # strides of a plan with several steps
_LONGER = 10  # times as long as the strides before
_AT_A_TIME = 40  # strides, after which it is asked whether everything has been seen
_SEED = 1
# The quantiles of the normal distribution, one for each rollout, in no order.
_NORMAL = np.random.default_rng(_SEED).permutation(
    [NormalDist().inv_cdf((place + 0.5) / ROLLOUTS) for place in range(ROLLOUTS)]
)


@dataclass(frozen=True)
class Leg:
    """Windows that bring the same.  windows: how many, or infinite.  stake: on harm that begins with the first."""

    growth: Growth
    windows: float
    stake: float


def windows_to_see(legs: Sequence[Leg], seconds: float, needed: float, each: float) -> FloatArray:
    """After how many windows of ``seconds`` the evidence is over ``needed``, a logarithm, (K, D).

    each: the stake on harm that begins with any one window. Infinite when the windows are not enough.
    """
    total = sum(leg.windows for leg in legs)
    longest = _longest_stride(legs, seconds, total)
    found = np.full((ROLLOUTS, legs[0].growth.effects), np.inf)
    stride = longest if len(legs) == 1 and math.isfinite(total) else 1  # of one step only whether it is asked
    while True:
        climb = _Climb(legs, seconds, stride, each)
        most = STRIDES if len(legs) == 1 or stride == 1 else FINEST
        found = np.minimum(found, climb.crossings(needed, most))
        if np.isfinite(found).all() or climb.windows >= total:
            break
        if stride >= longest:
            found = np.minimum(found, climb.crossings_later(needed))
            break
        stride = min(stride * _LONGER, longest) if len(legs) == 1 else longest
    return np.where(found <= total, found, np.inf)


def share_of(rollouts: FloatArray, chance: float) -> FloatArray:
    """By when so many of the rollouts (K, D) are over the line, (D,)."""
    return np.asarray(np.sort(rollouts, axis=0)[math.ceil(chance * len(rollouts)) - 1])


def _longest_stride(legs: Sequence[Leg], seconds: float, total: float) -> int:
    """Within a stride instances' noise stands still, so that it should not last for much of it."""
    if len(legs) > 1:
        return max(1, math.ceil(total / FINEST))
    lasting = legs[0].growth.lasting
    bearable = max(lasting / (2.0 * seconds), 1.0) if lasting > 0 else 1e5
    return max(1, math.ceil(min(total / STRIDES, bearable)))


@dataclass
class _Climb:
    """log_e: after each stride, (N, K, D)."""

    legs: Sequence[Leg]
    seconds: float
    stride: int
    each: float
    log_e: list[FloatArray] = field(default_factory=list)
    windows: float = 0.0

    def crossings(self, needed: float, most: int) -> FloatArray:
        """After how many windows each rollout is over the line, within so many strides (K, D)."""
        found = np.full((ROLLOUTS, self.legs[0].growth.effects), np.inf)
        mixture, differs = FilteredMixture(), _Differences(self.legs[0].stake)
        for growth, likelihood, stays, stakes in self._pieces(most):
            columns = likelihood.reshape(len(likelihood), -1, *likelihood.shape[3:])
            shape = likelihood.shape[:3]
            log_e = mixture.extend(columns, np.broadcast_to(stays[:, None], columns.shape[:2]), stakes).reshape(shape)
            ends = self.windows + self.stride * np.arange(1.0, len(log_e) + 1.0)
            over = log_e + differs.after(growth, self.stride, log_e) >= needed
            found = np.minimum(found, np.where(over.any(axis=0), ends[over.argmax(axis=0)], np.inf))
            self.log_e.append(log_e)
            self.windows = float(ends[-1])
            if np.isfinite(found).all():
                break
        return found

    def crossings_later(self, needed: float) -> FloatArray:
        """The same beyond the last stride, if it goes on as it did in the second half, in all rollouts alike."""
        log_e = np.concatenate(self.log_e)
        half = len(log_e) // 2
        climb = np.mean(log_e[-1] - log_e[half], axis=0) / (self.stride * (len(log_e) - 1 - half))
        later = (needed - log_e[-1]) / np.maximum(climb, 1e-9)
        return np.asarray(np.where(climb > 0, self.windows + np.maximum(np.ceil(later), 1.0), np.inf))

    def _pieces(self, most: int) -> Iterator[tuple[Growth, FloatArray, FloatArray, FloatArray]]:
        """What the windows bring, and drawn from it: likelihoods (N, K, D, 1 + J, nodes), how much of instances' noise
        stays (N,), stakes (N,).
        """
        at, lucks = _chances(most, 0.5 ** (self.stride * self.seconds / HALF_LIFE))
        known, staked, taken = 0.0, 0.0, 0
        for leg in self.legs:
            number = min(math.ceil(min(leg.windows / self.stride, 1e6)), most - taken)
            if not number:
                return
            seen = _known(leg, number, self.stride, self.seconds, known)
            known = float(seen[-1])
            stakes = np.full(number, self.each * self.stride)
            stakes[0] += leg.stake
            stakes *= staked + np.cumsum(stakes) <= 1.0
            staked += float(stakes.sum())
            stays = np.full(number, leg.growth.persistence(self.seconds * self.stride))
            for first in range(0, number, _AT_A_TIME):
                rows = slice(first, min(first + _AT_A_TIME, number))
                of_all = slice(taken + rows.start, taken + rows.stop)
                drawn = self._drawn(leg.growth, seen[rows], lucks[of_all], at[of_all])
                yield leg.growth, drawn, stays[rows], stakes[rows]
            taken += number

    def _drawn(self, growth: Growth, known: FloatArray, lucks: FloatArray, at: FloatArray) -> FloatArray:
        """Of each stride: as many average windows as it has, and what chance makes of their sum."""
        phi = np.broadcast_to(growth.phis[-1], lucks.shape)
        if growth.learning is not None:
            phi = growth.learning.values(np.broadcast_to(known[:, None], lucks.shape), lucks)
        drawn = growth.drawn(phi, at)
        if self.stride == 1:
            return drawn
        average = growth.mean_of(phi)
        return np.asarray(self.stride * average + math.sqrt(self.stride) * (drawn - average))


@lru_cache(maxsize=8)
def _chances(strides: int, kept: float) -> tuple[FloatArray, FloatArray]:
    """Between 0 and 1, which of its counts each window has, and normal values for what is learned; both (N, K).

    In each window every part of the chances falls to the same number of rollouts, so that few of them are enough. What
    is learned changes as slowly as it is forgotten, ``kept`` from one to the next.
    """
    rng = np.random.default_rng(_SEED)
    parts = rng.permuted(np.tile(np.arange(ROLLOUTS), (strides, 1)), axis=1)
    at = (parts + rng.random(parts.shape)) / ROLLOUTS
    lucks = rng.normal(size=parts.shape)
    for row in range(1, strides):
        lucks[row] = kept * lucks[row - 1] + math.sqrt(1.0 - kept * kept) * lucks[row]
    return at, lucks


def _known(leg: Leg, number: int, stride: int, seconds: float, before: float) -> FloatArray:
    """How much has been seen of clumps in the middle of each stride, and after the last, (N + 1,)."""
    middles = np.append((np.arange(number) + 0.5) * stride, number * stride)
    learning = leg.growth.learning
    return np.full(number + 1, before) if learning is None else learning.known(middles, seconds, before)


class _Differences:
    """What instances that were seen to wander make of the evidence, beyond what chance makes of it.

    Of evidence m for the best alternative if they were alike, a part f is left; as in any normal likelihood ratio its
    variance goes down no more than its mean, so that f - f^2 of the sum's own variance is added.
    """

    def __init__(self, stake: float) -> None:
        """stake: on the first window."""
        self._stake = max(stake, 1e-9)
        self._mean, self._variance = np.zeros(1), np.zeros(1)

    def after(self, growth: Growth, stride: int, log_e: FloatArray) -> FloatArray:
        """After each of the next strides, with evidence log_e (N, K, D) from draws alone; the same shape."""
        if growth.calm is None:
            return np.zeros_like(log_e[:, :, :1])
        best = growth.calm[0].argmax(axis=-1)[:, None]
        each, spread = (np.take_along_axis(of, best, axis=-1)[:, 0] for of in growth.calm)
        kept = np.minimum(1.0, CAP / np.maximum(each, 1e-300))
        passed = stride * np.arange(1.0, len(log_e) + 1.0)[:, None]
        mean, variance = self._mean + passed * each * kept, self._variance + passed * spread * kept * kept
        self._mean, self._variance = mean[-1], variance[-1]
        start = 0.5 * math.log(growth.calm[0].shape[-1]) - math.log(self._stake)
        left = np.clip((np.median(log_e, axis=1) + start) / np.maximum(mean, 1e-300), 0.0, 1.0)
        return np.asarray(np.sqrt(variance * left * (1.0 - left))[:, None] * _NORMAL[:, None])

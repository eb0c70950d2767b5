"""What one window brings for a check when the canary is worse by some effect: the judge's own log likelihoods.

They are tabulated over the counts that may come (`expected_counts.py`), and over the clumps that the judge may take
there to be: where those are only guessed it learns them from stable during the rollout (`expected_clumps.py`).
Shapes: D effects, Q pairs of counts, P sizes of clumps, J alternatives and in front of them the null.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from canary_release.core.expected_clumps import Learning
from canary_release.core.expected_counts import counts, few_counts
from canary_release.core.held_against import Parameters, Scene
from canary_release.core.noise import DEFAULT_LATENCY_NOISE, DEFAULT_NOISE, Noise
from canary_release.core.noise_filter import NODES, of_harm
from canary_release.core.observations import Arms, Timeline
from canary_release.core.record import FloatArray, IntArray
from canary_release.core.service_traffic import ServiceTraffic
from canary_release.core.weigh import assumed_wander

_FURTHEST = 2.5  # standard deviations
_SIZES = 6  # of clumps for which evidence is worked out

Likelihoods = Callable[[Arms, FloatArray, Parameters, Scene], FloatArray]


@dataclass(frozen=True)
class Growth:
    """What one window brings.

    phis: Fano factors that the judge may take clumps for (P,), rising.  likelihood: by these and by the counts that
    come (P, D, Q, 1 + J, nodes).  chances: of the counts up to each, adding up to 1 (D, Q).  lasting: seconds of
    instances' noise.  calm: mean and variance of each alternative's log e-value if instances made no noise, before the
    cap, both (D, J); None where instances are taken to be alike, as their noise is only allowed for.  learning: of
    clumps, None where the judge learns nothing.
    """

    phis: FloatArray
    likelihood: FloatArray
    chances: FloatArray
    lasting: float
    calm: tuple[FloatArray, FloatArray] | None
    learning: Learning | None

    @property
    def effects(self) -> int:
        return int(self.likelihood.shape[1])

    def persistence(self, seconds: float) -> float:
        """How much of instances' noise is left after so long."""
        return math.exp(-seconds / max(self.lasting, 1e-9))

    def drawn(self, phi: FloatArray, at: FloatArray) -> FloatArray:
        """Log likelihoods (N, K, D, 1 + J, nodes) of windows with clumps of ``phi`` (N, K), and with the counts that
        ``at`` (N, K), between 0 and 1, falls on.
        """
        chosen = np.minimum((self.chances < at[..., None, None]).sum(axis=-1), self.chances.shape[-1] - 1)
        effects = np.arange(self.effects)
        return self._between(phi, lambda places: self.likelihood[places[..., None], effects, chosen])

    def mean_of(self, phi: FloatArray) -> FloatArray:
        """The same on average over the counts."""
        average = np.einsum("dq,pdqjk->pdjk", np.diff(self.chances, prepend=0.0), self.likelihood)
        return self._between(phi, lambda places: average[places])

    def _between(self, phi: FloatArray, at: Callable[[IntArray], FloatArray]) -> FloatArray:
        """From what is known at places of ``phis``."""
        place = np.interp(np.log(phi), np.log(self.phis), np.arange(len(self.phis)))
        lower = np.minimum(place.astype(np.int64), max(len(self.phis) - 2, 0))
        found = at(lower)
        if len(self.phis) > 1:
            found = found + (place - lower)[..., None, None, None] * (at(lower + 1) - found)
        return found


@dataclass(frozen=True)
class Place:
    """weight: the canary's share, 0 to 1.  seconds: length of a window.  clump: how many errors come together on
    average, where the judge has to learn that.
    """

    traffic: ServiceTraffic
    weight: float
    seconds: float
    clump: float = 1.0

    @property
    def alone(self) -> bool:
        return self.weight >= 1.0 - 1e-9

    @property
    def requests(self) -> float:
        """Of both sides in one window."""
        return self.traffic.rate * self.seconds


@dataclass(frozen=True)
class Window:
    """of: requests of both sides, or what else events are out of.  share: stable's of events; worse: the canary's (D,).

    noise: what the judge begins with.  phi: of the clumps that there are.
    """

    place: Place
    of: float
    share: float
    worse: FloatArray
    noise: Noise
    phi: float

    def growth(self, par: Parameters, likelihoods: Likelihoods, *, learns: bool) -> Growth:
        """Of a comparison with stable; ``likelihoods`` gives them with the null in front, (W, 1, 1 + J, nodes)."""
        phis = self._phis if learns else np.array([self.noise.phi])
        arms, chances = self._arms(len(phis))
        rows = len(chances)
        clumped = replace(par, phi=np.repeat(phis, rows // len(phis))[:, None])
        rate, scene = np.full((rows, 1), self.share), Scene(timeline(self.place, rows), np.zeros(rows), 0.0)
        found = likelihoods(arms, rate, clumped, scene)[:, 0]
        made = self._made(phis, found, chances, float(par.lasting[0]), learns=learns)
        if _guessed(self.noise):
            return made
        calm = of_harm(likelihoods(arms, rate, clumped.calm, scene), math.inf)[:, 0]
        calm = calm.reshape(len(phis), *made.chances.shape, -1)[-1]
        share = np.diff(made.chances, prepend=0.0)
        mean = np.einsum("dq,dqj->dj", share, calm)
        return replace(made, calm=(mean, np.einsum("dq,dqj->dj", share, (calm - mean[:, None]) ** 2)))

    def sums(self, evidence: Callable[[Arms, FloatArray, Scene], FloatArray]) -> Growth:
        """Of log e-values (W, 1, J) in which instances' noise is allowed for already."""
        arms, chances = self._arms(1)
        rows = len(chances)
        found = evidence(arms, np.full((rows, 1), self.share), Scene(timeline(self.place, rows), np.zeros(rows), 0.0))
        likelihood = np.concatenate((np.zeros_like(found[:, 0, :1]), found[:, 0]), axis=1)
        likelihood = np.repeat(likelihood[..., None], len(NODES), axis=-1)
        return self._made(np.array([self.noise.phi]), likelihood, chances, 0.0, learns=False)

    @property
    def _phis(self) -> FloatArray:
        """From the smallest that can be learned, or the largest, to what the judge begins with."""
        # Steps with more or less on the canary have to share them.
        learning = Learning(self.noise.phi, self.phi, self.of * self.share)
        known = learning.known(np.geomspace(1.0, 1e4, 9), self.place.seconds)[:, None]
        found = learning.values(*np.broadcast_arrays(known, np.array([-_FURTHEST, _FURTHEST])))
        return np.geomspace(min(found.min(), self.noise.phi), max(found.max(), self.noise.phi), _SIZES)

    def _arms(self, sizes: int) -> tuple[Arms, FloatArray]:
        """Counts at every pair of values, (P D Q, 1), and their chances (P D Q,)."""
        weight = self.place.weight
        n_c, n_b = self.of * weight, self.of * (1.0 - weight) if not self.place.alone else 0.0
        x_c, chance = counts(n_c * self.worse, self.worse, self.phi)
        x_b, of_stable = few_counts(n_b * self.share, self.share, self.phi)
        canary, stable = (np.tile(of.ravel(), sizes)[:, None] for of in np.broadcast_arrays(x_c[..., None], x_b))
        chances = np.tile((chance[..., None] * of_stable).ravel(), sizes)
        ones = np.ones_like(canary)
        return Arms(canary, n_c * ones, stable, n_b * ones, ones > 0, ones > 0), chances

    def _made(
        self, phis: FloatArray, likelihood: FloatArray, chances: FloatArray, lasting: float, *, learns: bool
    ) -> Growth:
        shape = (len(phis), len(self.worse), len(chances) // len(phis) // len(self.worse))
        of_stable = 0.0 if self.place.alone else self.of * (1.0 - self.place.weight) * self.share
        return Growth(
            phis=phis,
            likelihood=likelihood.reshape(*shape, *likelihood.shape[1:]),
            chances=np.cumsum(chances.reshape(shape)[-1], axis=1),
            lasting=lasting,
            calm=None,
            learning=Learning(self.noise.phi, self.phi, of_stable) if learns else None,
        )


def _guessed(noise: Noise) -> bool:
    """Whether it is only allowed for that instances wander."""
    return any(assumed_wander(noise, default) is not None for default in (DEFAULT_NOISE, DEFAULT_LATENCY_NOISE))


def timeline(place: Place, rows: int) -> Timeline:
    """Nothing of it but the length of the windows and the number of instances is asked for."""
    ones, numbers = np.ones(rows), np.zeros(rows, dtype=np.int64)
    of_canary, of_stable = place.traffic.canary_instances or 1, place.traffic.instances
    return Timeline(
        start=0.0 * ones,
        seconds=place.seconds * ones,
        first=numbers,
        began=numbers,
        weight=place.weight * ones,
        next_weight=ones,
        alone=np.full(rows, place.alone),
        instance_noise=(1.0 / of_canary + (1.0 / of_stable if of_stable else 0.0)) * ones,
        broken=np.zeros(rows, dtype=bool),
    )

"""How fast a check's evidence is expected to grow when the canary is worse by some effect; nothing is simulated.

Mean and variance of the judge's own log e-value of one window if instances made no noise, taken over the counts of
that window: normal nodes with the counts' mean n q and variance phi n q (1 - q), nine for the canary and three for
stable. The log e-values are almost linear in the counts, so that few nodes are enough. What instances take
away from n windows together is known for normal noise of variance s^2 that lasts T: of evidence m n for an effect d on
logarithms, which is V n d^2/2, 1/(1 + V n s^2/(1 + n seconds/(2 T))) is left.
Shapes: D effects, Q pairs of nodes, J alternatives.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from canary_release.core.error_evidence import CAP
from canary_release.core.held_against import (
    Parameters,
    Scene,
    beyond_limit,
    harm_likelihoods,
    harm_of_change,
    noise_columns,
    odds_likelihoods,
)
from canary_release.core.latency_evidence import DEFAULT_SHARES, nearest_edge, tolerated_exceedance
from canary_release.core.noise import Noise
from canary_release.core.noise_filter import of_harm
from canary_release.core.noise_report import NoiseReport
from canary_release.core.observations import Arms, Timeline
from canary_release.core.release import Check, CheckKind, Direction, LimitKind
from canary_release.core.service_traffic import ERROR_RATE, ServiceTraffic
from canary_release.core.weigh import NoiseOf, noise_of, tolerated

FloatArray = npt.NDArray[np.float64]

# Ninths of the normal distribution by their middles, and the three-point rule; both of mean 0 and variance 1.
_OF_CANARY = np.array([-1.5932, -0.9674, -0.5895, -0.2822, 0.0, 0.2822, 0.5895, 0.9674, 1.5932])
_OF_CANARY = _OF_CANARY / _OF_CANARY.std()
_OF_STABLE = np.array([-1.0, 0.0, 1.0]) * math.sqrt(1.5)


@dataclass(frozen=True)
class Growth:
    """Mean and variance of the log e-value of one window before its cap, (D, J).

    hidden: V s^2 = 2 m s^2/d^2 of one window, (D, 1): how much larger instances' noise is than chance.
    fading: seconds/(2 T).
    """

    mean: FloatArray
    variance: FloatArray
    hidden: FloatArray
    fading: float = 0.0

    def after(self, windows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and variance after so many windows (N,), with instances' noise and the cap; both (D, J, N)."""
        left = 1.0 / (1.0 + self.hidden * windows / (1.0 + self.fading * windows))
        return capped(self.mean[..., None] * left[:, None], self.variance[..., None] * left[:, None], windows)


def capped(mean: FloatArray, variance: FloatArray, windows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sums over windows of which none gives more than the cap, from their averages."""
    kept = np.minimum(1.0, CAP / np.maximum(mean, 1e-300))
    return mean * kept * windows, variance * kept * kept * windows


@dataclass(frozen=True)
class Situation:
    """One step of a plan as a check meets it.

    bad: extra bad requests on the canary in one window, (D,).  ways: the check is certain as soon as all e-processes
    of any one of these have crossed its line.
    """

    bad: FloatArray
    ways: tuple[tuple[Growth, ...], ...]


@dataclass(frozen=True)
class Place:
    """weight: the canary's share, 0 to 1.  seconds: length of a window."""

    traffic: ServiceTraffic
    weight: float
    seconds: float

    @property
    def alone(self) -> bool:
        return self.weight >= 1.0 - 1e-9

    @property
    def requests(self) -> float:
        """Of both sides in one window."""
        return self.traffic.rate * self.seconds


def situation(check: Check, place: Place, noise: NoiseOf, effects: FloatArray) -> Situation:
    """What a window brings when the canary is worse by each of ``effects``, (D,).

    Effects of proportions are differences of shares; of latency they are relative (0.1 is 10 % slower), or seconds
    when the check's limit is in seconds. The check must be known to the traffic (see ``unknown``).
    """
    if check.kind is CheckKind.LATENCY:
        return _of_latency(check, place, noise, effects)
    per_request, share = place.traffic.proportions[check.metric]
    sign = -1.0 if check.direction is Direction.HIGHER_IS_BETTER else 1.0
    worse = np.clip(share + sign * effects, 0.0, 1.0)
    own = noise_of(check, noise)
    of = place.requests * per_request
    arms = _arms(place, of, worse, share, own.phi)
    par = _parameters(check, own)
    ways: list[tuple[Growth, ...]] = []
    if check.max_change is not None or check.absolute is None:
        calm, (theta, delta) = par.calm, tolerated(check)
        allowed = share / theta if check.direction is Direction.HIGHER_IS_BETTER else theta * share + delta
        grown = _grown(
            arms, share, place, lambda some, rate, scene: of_harm(harm_likelihoods(some, rate, calm, scene), math.inf)
        )
        ways.append((_with_noise(grown, worse, allowed, par, place),))
    if check.absolute is not None:
        limit = min(max(check.absolute.amount, 1e-9), 1.0 - 1e-9)
        ways.append(_limit(arms, share, limit, par, place))
    return Situation(of * place.weight * np.abs(worse - share), tuple(ways))


def unknown(check: Check, traffic: ServiceTraffic) -> str:
    """Why nothing can be said about a check, or an empty text."""
    if check.kind is CheckKind.VALUE:
        return "its source gives no counts"
    if check.kind is CheckKind.LATENCY:
        return "" if traffic.slower else "needs latency buckets from a history"
    if check.metric in traffic.proportions:
        return ""
    return "needs the service's error rate" if check.metric == ERROR_RATE else f"no history of {check.metric}"


def quantile_of(traffic: ServiceTraffic, share: float) -> float:
    """The latency in seconds that ``share`` of the requests are slower than, on doubly logarithmic axes."""
    edges, slower = np.log(traffic.edges), np.log(traffic.slower)
    return float(np.exp(np.interp(-math.log(share), -slower, edges)))


# --- counts -----------------------------------------------------------------------------------------------------------


def _arms(place: Place, of: float, canary: FloatArray, stable: float, phi: float) -> Arms:
    """Counts of one window at every pair of nodes, (D Q, 1)."""
    n_c, n_b = of * place.weight, of * (1.0 - place.weight) if not place.alone else 0.0
    of_canary, of_stable = np.meshgrid(_OF_CANARY, _OF_STABLE, indexing="ij")
    x_c = n_c * canary[:, None] + np.sqrt(phi * n_c * canary * (1.0 - canary))[:, None] * of_canary.ravel()
    x_b = n_b * stable + math.sqrt(phi * n_b * stable * (1.0 - stable)) * of_stable.ravel()
    x_b = np.broadcast_to(x_b, x_c.shape)
    ones = np.ones((x_c.size, 1))
    known = ones > 0
    return Arms(x_c.reshape(-1, 1), n_c * ones, x_b.reshape(-1, 1), n_b * ones, known, known)


def _grown(arms: Arms, share: float, place: Place, evidence: Callable[[Arms, FloatArray, Scene], FloatArray]) -> Growth:
    rows = len(arms.canary_of)
    values = evidence(arms, np.full((rows, 1), share), Scene(timeline(place, rows), np.zeros(rows), 0.0))
    nodes = len(_OF_CANARY) * len(_OF_STABLE)
    values = values[:, 0].reshape(rows // nodes, nodes, -1)
    return Growth(values.mean(axis=1), values.var(axis=1), np.zeros((rows // nodes, 1)))


def _with_noise(growth: Growth, canary: FloatArray, allowed: float, par: Parameters, place: Place) -> Growth:
    """The same with what instances take away; canary: its share of bad requests (D,), allowed: what is tolerated."""
    effect = _log_odds(canary) - _log_odds(np.array(min(max(allowed, 1e-9), 1.0 - 1e-9)))
    spread = float(par.spread(timeline(place, 1))[0, 0])
    known = 2.0 * np.maximum(growth.mean.max(axis=1), 0.0) / np.maximum(effect**2, 1e-12)
    lasting = float(par.lasting[0])
    fading = place.seconds / (2.0 * lasting) if lasting > 0 else math.inf
    return replace(growth, hidden=(known * spread**2)[:, None], fading=fading)


def _log_odds(share: FloatArray) -> FloatArray:
    inside = np.clip(share, 1e-9, 1.0 - 1e-9)
    return np.asarray(np.log(inside / (1.0 - inside)))


def timeline(place: Place, rows: int) -> Timeline:
    """Nothing of it but the length of the windows and the number of instances is asked for."""
    ones, numbers = np.ones(rows), np.zeros(rows, dtype=np.int64)
    instances = place.traffic.instances
    return Timeline(
        start=0.0 * ones,
        seconds=place.seconds * ones,
        first=numbers,
        began=numbers,
        weight=place.weight * ones,
        next_weight=ones,
        alone=np.full(rows, place.alone),
        instance_noise=(1.0 + (1.0 / instances if instances else 0.0)) * ones,
        broken=np.zeros(rows, dtype=bool),
    )


def _parameters(check: Check, noise: Noise) -> Parameters:
    theta, delta = tolerated(check)
    higher = np.array([check.direction is Direction.HIGHER_IS_BETTER], dtype=bool)
    return Parameters(np.array([theta]), np.array([delta]), higher, *noise_columns([noise]))


def _limit(arms: Arms, share: float, limit: float, par: Parameters, place: Place) -> tuple[Growth, ...]:
    """Beyond the limit, and worse than stable while there is one: both must be certain."""
    bound = np.array([limit])
    beyond = _grown(arms, share, place, lambda some, rate, scene: beyond_limit(some, par, bound))
    if place.alone:
        return (beyond,)
    return beyond, _grown(arms, share, place, lambda some, rate, scene: harm_of_change(some, rate, par.plain, scene))


# --- latency ----------------------------------------------------------------------------------------------------------


def _of_latency(check: Check, place: Place, noise: NoiseOf, effects: FloatArray) -> Situation:
    edges, exceedance = np.array(place.traffic.edges), np.clip(np.array(place.traffic.slower), 1e-9, 1.0 - 1e-9)
    tolerated = tolerated_exceedance(edges, exceedance[None, :], check.max_change)
    wanted = DEFAULT_SHARES if check.quantile is None else (1.0 - check.quantile,)
    watched = [int(nearest_edge(tolerated, share)[0]) for share in wanted]
    ways: list[tuple[Growth, ...]] = []
    if check.max_change is not None or check.absolute is None:
        for edge in watched:
            allowed = float(tolerated[0, edge])
            ways.append((_slower(check, place, _noise_at(check, edge, edges, noise), edge, allowed, effects),))
    if check.absolute is not None and check.absolute.amount <= edges[-1]:
        above = int(np.searchsorted(edges, check.absolute.amount))
        own = _noise_at(check, above, edges, noise)
        canary, share = _slowed(check, edges, exceedance, above, effects), float(exceedance[above])
        par = _parameters(replace(check, max_change=None), own)
        bound = 1.0 - (check.quantile or 0.5)
        ways.append(_limit(_arms(place, place.requests, canary, share, own.phi), share, bound, par, place))
    shown = watched[len(watched) // 2]
    slowed = _slowed(check, edges, exceedance, shown, effects) - exceedance[shown]
    return Situation(place.requests * place.weight * slowed, tuple(ways))


def _noise_at(check: Check, edge: int, edges: FloatArray, noise: NoiseOf) -> Noise:
    """What was learned at this very edge, else for the check."""
    if isinstance(noise, NoiseReport) and noise.baseline.edges == tuple(edges) and len(noise.at_edges) == len(edges):
        return noise.at_edges[edge]
    return noise_of(check, noise)


def _slower(check: Check, place: Place, noise: Noise, edge: int, allowed: float, effects: FloatArray) -> Growth:
    edges, exceedance = np.array(place.traffic.edges), np.clip(np.array(place.traffic.slower), 1e-9, 1.0 - 1e-9)
    share = float(exceedance[edge])
    arms = _arms(place, place.requests, _slowed(check, edges, exceedance, edge, effects), share, noise.phi)
    odds_ratio = max(1.0, (allowed / (1.0 - allowed)) / (share / (1.0 - share)))
    par = _parameters(Check(check.metric, CheckKind.PROPORTION), noise)
    calm = par.calm

    def evidence(some: Arms, rate: FloatArray, scene: Scene) -> FloatArray:
        ratio = np.full_like(rate, odds_ratio)
        return of_harm(odds_likelihoods(some, ratio, some.canary_known, calm, scene), math.inf)

    slowed = _slowed(check, edges, exceedance, edge, effects)
    return _with_noise(_grown(arms, share, place, evidence), slowed, allowed, par, place)


def _slowed(check: Check, edges: FloatArray, exceedance: FloatArray, edge: int, effects: FloatArray) -> FloatArray:
    """The canary's share slower than an edge when its latencies are made longer, log-log between stable's edges."""
    in_seconds = check.max_change is not None and check.max_change.kind is LimitKind.SECONDS
    point = np.maximum(edges[edge] - effects if in_seconds else edges[edge] / (1.0 + effects), 1e-12)
    between = np.exp(np.interp(np.log(point), np.log(edges), np.log(exceedance)))
    return np.asarray(np.where(point < edges[0], 1.0 + (exceedance[0] - 1.0) * point / edges[0], between))

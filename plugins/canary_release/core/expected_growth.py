"""How a check meets one step of a plan, for a canary that is worse by some effect: what its windows bring.

Where clumps are only guessed, stable is taken to show those of ``Place.clump``: single errors unless somebody asks.
Shapes: D effects.
"""

from dataclasses import dataclass, replace

import numpy as np

from canary_release.core.expected_window import Growth, Place, Window
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
from canary_release.core.noise import DEFAULT_LATENCY_NOISE, DEFAULT_NOISE, Noise
from canary_release.core.noise_report import NoiseReport
from canary_release.core.observations import Arms
from canary_release.core.record import FloatArray
from canary_release.core.release import Check, CheckKind, Direction, LimitKind
from canary_release.core.service_traffic import ERROR_RATE, ServiceTraffic
from canary_release.core.weigh import NoiseOf, noise_of, tolerated


@dataclass(frozen=True)
class Situation:
    """One step of a plan as a check meets it.

    bad: extra bad requests on the canary in one window, (D,).  ways: the check is certain as soon as all e-processes
    of any one of these have crossed its line.
    """

    bad: FloatArray
    ways: tuple[tuple[Growth, ...], ...]


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
    guessed = guesses(check, noise)
    of = place.requests * per_request
    window = Window(place, of, share, worse, own, 2.0 * place.clump - 1.0 if guessed else own.phi)
    par = _parameters(check, own)
    ways: list[tuple[Growth, ...]] = []
    if check.max_change is not None or check.absolute is None:

        def likelihoods(arms: Arms, rate: FloatArray, some: Parameters, scene: Scene) -> FloatArray:
            return harm_likelihoods(arms, rate, some, scene, np.array([guessed]))

        ways.append((window.growth(par, likelihoods, learns=guessed),))
    if check.absolute is not None:
        ways.append(_limit(window, par, min(max(check.absolute.amount, 1e-9), 1.0 - 1e-9)))
    return Situation(of * place.weight * np.abs(worse - share), tuple(ways))


def guesses(check: Check, noise: NoiseOf) -> bool:
    """Whether the judge has to learn during the rollout how large clumps of the check's events are."""
    return noise_of(check, noise) is DEFAULT_NOISE


def unknown(check: Check, traffic: ServiceTraffic) -> str:
    """Why nothing can be said about a check, or an empty text."""
    if check.kind is CheckKind.VALUE:
        return "its source gives no counts"
    if check.kind is CheckKind.LATENCY:
        return "" if traffic.slower else "needs latency buckets from a history"
    if check.metric in traffic.proportions:
        return ""
    return "needs the service's error rate" if check.metric == ERROR_RATE else f"no history of {check.metric}"


def _parameters(check: Check, noise: Noise) -> Parameters:
    theta, delta = tolerated(check)
    higher = np.array([check.direction is Direction.HIGHER_IS_BETTER], dtype=bool)
    return Parameters(np.array([theta]), np.array([delta]), higher, *noise_columns([noise]))


def _limit(window: Window, par: Parameters, limit: float) -> tuple[Growth, ...]:
    """Beyond the limit, and worse than stable while there is one: both must be certain."""
    bound = np.array([limit])
    beyond = window.sums(lambda arms, rate, scene: beyond_limit(arms, par, bound))
    if window.place.alone:
        return (beyond,)
    return beyond, window.sums(lambda arms, rate, scene: harm_of_change(arms, rate, par.plain, scene))


# --- latency ----------------------------------------------------------------------------------------------------------


def quantile_of(traffic: ServiceTraffic, share: float) -> float:
    """The latency in seconds that ``share`` of the requests are slower than, on the logarithms of latency and odds."""
    return float(np.exp(np.interp(-_log_odds(share), -_log_odds(np.array(traffic.slower)), np.log(traffic.edges))))


def _log_odds(share: FloatArray | float) -> FloatArray:
    return np.asarray(np.log(share / (1.0 - share)))


def _of_latency(check: Check, place: Place, noise: NoiseOf, effects: FloatArray) -> Situation:
    edges, exceedance = _histogram(place)
    tolerated = tolerated_exceedance(edges, exceedance[None, :], check.max_change)
    wanted = DEFAULT_SHARES if check.quantile is None else (1.0 - check.quantile,)
    watched = [int(nearest_edge(tolerated, share)[0]) for share in wanted]
    ways: list[tuple[Growth, ...]] = []
    if check.max_change is not None or check.absolute is None:
        for edge in watched:
            window = _at_edge(check, place, noise, edge, effects)
            ways.append((_slower(check, window, float(tolerated[0, edge])),))
    if check.absolute is not None and check.absolute.amount <= edges[-1]:
        above = int(np.searchsorted(edges, check.absolute.amount))
        window = _at_edge(check, place, noise, above, effects)
        par = _parameters(replace(check, max_change=None), window.noise)
        ways.append(_limit(window, par, 1.0 - (check.quantile or 0.5)))
    shown = watched[len(watched) // 2]
    slowed = _slowed(check, edges, exceedance, shown, effects) - exceedance[shown]
    return Situation(place.requests * place.weight * slowed, tuple(ways))


def _histogram(place: Place) -> tuple[FloatArray, FloatArray]:
    return np.array(place.traffic.edges), np.clip(np.array(place.traffic.slower), 1e-9, 1.0 - 1e-9)


def _at_edge(check: Check, place: Place, noise: NoiseOf, edge: int, effects: FloatArray) -> Window:
    """Requests slower than an edge; they come in no clumps."""
    edges, exceedance = _histogram(place)
    own = _noise_at(check, edge, edges, noise)
    slowed = _slowed(check, edges, exceedance, edge, effects)
    phi = 1.0 if own is DEFAULT_LATENCY_NOISE else own.phi
    return Window(place, place.requests, float(exceedance[edge]), slowed, own, phi)


def _noise_at(check: Check, edge: int, edges: FloatArray, noise: NoiseOf) -> Noise:
    """What was learned at this very edge, else for the check."""
    if isinstance(noise, NoiseReport) and noise.baseline.edges == tuple(edges) and len(noise.at_edges) == len(edges):
        return noise.at_edges[edge]
    return noise_of(check, noise)


def _slower(check: Check, window: Window, allowed: float) -> Growth:
    share = window.share
    odds_ratio = max(1.0, (allowed / (1.0 - allowed)) / (share / (1.0 - share)))
    par = _parameters(Check(check.metric, CheckKind.PROPORTION), window.noise)

    def likelihoods(arms: Arms, rate: FloatArray, some: Parameters, scene: Scene) -> FloatArray:
        return odds_likelihoods(arms, np.full_like(rate, odds_ratio), arms.canary_known, some, scene)

    return window.growth(par, likelihoods, learns=window.noise is DEFAULT_LATENCY_NOISE)


def _slowed(check: Check, edges: FloatArray, exceedance: FloatArray, edge: int, effects: FloatArray) -> FloatArray:
    """The canary's share slower than an edge when its latencies are made longer.

    Between stable's edges on the logarithms of latency and odds, where log-logistic distributions are straight and
    log-normal ones nearly.
    """
    in_seconds = check.max_change is not None and check.max_change.kind is LimitKind.SECONDS
    point = np.maximum(edges[edge] - effects if in_seconds else edges[edge] / (1.0 + effects), 1e-12)
    between = 1.0 / (1.0 + np.exp(-np.interp(np.log(point), np.log(edges), _log_odds(exceedance))))
    return np.asarray(np.where(point < edges[0], 1.0 + (exceedance[0] - 1.0) * point / edges[0], between))

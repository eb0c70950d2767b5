"""A test that is told how noisy the service is, and has only to find the harm.

Like the judge it compares both sides window by window and knows no rates; half of what it may risk is on errors and
half on latency, each spread over the same sizes of harm and over when it begins; it rolls back at evidence of 1/alpha.
Its likelihoods are the true ones. Counts are compared given their sum; Poisson clumps of geometric size with the rate
integrated out; where instances wander, by a filter that knows the deviation and the duration of that noise. One window
may say no more to it than to the judge, so that none decides alone. What the judge takes longer is the price of not
knowing the noise. Only other stakes could be faster, and what they gain for one harm they take from another.
"""

from dataclasses import dataclass

import numpy as np

from bench.oracle import ALPHA, first_crossing
from bench.traffic import CANARY, STABLE, FloatArray, IntArray, NoiseKind, Plan, Rollouts, Service
from canary_release.core.clump_counts import log_chance
from canary_release.core.error_evidence import CAP, HARM_FACTORS
from canary_release.core.latency_evidence import ODDS_FACTORS, odds_log_likelihood
from canary_release.core.mixture import restart_weights
from canary_release.core.noise_filter import REACH
from canary_release.core.observations import Arms
from canary_release.core.release import Limit, LimitKind

PLACES = np.linspace(-3.5, 3.5, 21)  # of instances' noise, in standard deviations
RATES = np.exp(np.linspace(-2.5, 2.5, 51))  # in parts of both sides' rate together
TOLD = "told"
AT_ONCE = 50  # rollouts, for the memory's sake
_CERTAIN = 1e9
_CAPPED = float(np.exp(CAP))


@dataclass(frozen=True)
class Told:
    """error_limit, latency_limit: what is tolerated; latency only by a share."""

    error_limit: Limit | None = None
    latency_limit: Limit | None = None
    alpha: float = ALPHA
    name: str = TOLD

    def rollback_seconds(self, seen: Rollouts) -> FloatArray:
        """End of the window after which each rollout went back, in seconds; infinite where it did not."""
        parts = [slice(at, at + AT_ONCE) for at in range(0, len(seen), AT_ONCE)]
        evidence = np.concatenate([0.5 * (self.of_errors(seen, part) + self.of_latency(seen, part)) for part in parts])
        return first_crossing(evidence >= 1.0 / self.alpha, seen.plan.ends)

    def of_errors(self, seen: Rollouts, part: slice) -> FloatArray:
        """Evidence that the canary has more errors than is tolerated, after each window; (rollout, window)."""
        tolerated = np.ones(seen.requests[CANARY, part].shape)
        if self.error_limit is not None:
            relative = self.error_limit.kind is LimitKind.RELATIVE
            tolerated += self.error_limit.amount / (1.0 if relative else seen.environment.errors[part])
        arms = _arms(seen.errors[:, part], seen.requests[:, part])
        times = _times(HARM_FACTORS, seen.service)
        clump = seen.service.noise.clump
        if clump > 1.0:
            return _mixture(_clumped(arms, tolerated[..., None] * times.ravel(), clump), times, seen)
        return _mixture(odds_log_likelihood(arms, tolerated, np.log(times.ravel())[None, None]), times, seen)

    def of_latency(self, seen: Rollouts, part: slice) -> FloatArray:
        """Evidence that more of the canary's requests are slow than is tolerated, at the edge nearest p95."""
        service, stretch = seen.service, seen.environment.stretch[part]
        tolerance = 1.0 + (self.latency_limit.amount if self.latency_limit else 0.0)
        usual, tolerated = service.slow_share(stretch), service.slow_share(stretch * tolerance)
        odds_ratio = tolerated / (1.0 - tolerated) / (usual / (1.0 - usual))
        arms = _arms(seen.buckets[:, part, :, service.slow_bucket :].sum(axis=-1), seen.requests[:, part])
        times = _times(ODDS_FACTORS, service)
        return _mixture(odds_log_likelihood(arms, odds_ratio, np.log(times.ravel())[None, None]), times, seen)


def _arms(events: IntArray, of: IntArray) -> Arms:
    some, all_of, known = events.astype(float), of.astype(float), np.ones(of.shape[1:], dtype=bool)
    return Arms(some[CANARY], all_of[CANARY], some[STABLE], all_of[STABLE], known, known)


@np.errstate(divide="ignore", invalid="ignore")  # of a canary without requests, which says nothing
def _clumped(arms: Arms, times: FloatArray, clump: float) -> FloatArray:
    """ln of the chance of both sides' counts, every rate as likely as any other on a logarithmic scale.

    times: of the canary's rate, (rollout, window, number); so is the result.
    """
    pooled = (arms.canary_events + arms.stable_events + 1.0) / np.maximum(arms.canary_of + arms.stable_of, 1.0)
    rates = pooled[..., None] * RATES / clump  # of clumps
    loose = np.array(1.0 / clump)
    stable = log_chance(arms.stable_events[..., None], arms.stable_of[..., None] * rates, loose)
    canary_of = (arms.canary_of[..., None] * times)[..., None]
    both = (
        log_chance(arms.canary_events[..., None, None], canary_of * rates[..., None, :], loose) + stable[..., None, :]
    )
    return np.asarray(np.logaddexp.reduce(both, axis=-1))


def _wanders(service: Service) -> float:
    """Standard deviation of how much worse instances make the canary look, on logarithms."""
    if service.noise.kind is not NoiseKind.INSTANCES:
        return 0.0
    variance = np.expm1(service.noise.deviation**2)  # of one instance's factor; their mean is nearly log-normal again
    return float(np.sqrt(sum(np.log1p(variance / size) for size in (service.instances, service.canary_instances))))


def _times(harms: FloatArray, service: Service) -> FloatArray:
    """By how much the canary's rate may differ: no harm and each harm, with what instances make of it, (1 + J, Z)."""
    deviation = _wanders(service)
    return np.concatenate(([1.0], harms))[:, None] * np.exp(deviation * (PLACES if deviation else np.zeros(1)))


def _moves(places: int, plan: Plan, service: Service) -> tuple[FloatArray, FloatArray]:
    """How likely each place of instances' noise is, (Z,), and how it changes from window to window, (Z, Z)."""
    if places == 1:
        return np.ones(1), np.ones((1, 1))
    stays = np.exp(-plan.window / service.noise.lasting)
    usual = np.exp(-0.5 * PLACES**2)
    moves = np.exp(-0.5 * (PLACES - stays * PLACES[:, None]) ** 2 / (1.0 - stays * stays)) + 1e-300
    return usual / usual.sum(), moves / moves.sum(axis=1, keepdims=True)


def _mixture(log_likelihood: FloatArray, times: FloatArray, seen: Rollouts) -> FloatArray:
    """Sum over harms and onsets of stake times likelihood, in parts of the likelihood without harm; (rollout, window).

    log_likelihood: (rollout, window, (1 + J) Z).
    """
    plan, harms = seen.plan, len(times) - 1
    chances = log_likelihood.reshape(*log_likelihood.shape[:2], *times.shape)
    chances = chances - chances[:, :, :1].max(axis=-1, keepdims=True)
    usual, moves = _moves(times.shape[1], plan, seen.service)
    bake = round(plan.bake / plan.window)
    first = np.minimum(np.arange(plan.windows) // bake, len(plan.ladder) - 1) * bake
    stakes, to_come = restart_weights(first, len(plan.ladder), plan.windows), 1.0
    state = np.zeros((len(chances), *times.shape))
    state[:, 0] = usual
    found, ratio = np.empty(chances.shape[:2]), np.zeros(len(chances))
    for at, stake in enumerate(stakes.tolist()):
        state[:, 1:] += stake / harms * state[:, :1]
        state = (state @ moves) * np.exp(np.clip(chances[:, at], -200.0, 200.0))
        state /= state[:, 0].sum(axis=-1)[:, None, None]
        most = np.clip(_CAPPED * (ratio + stake), REACH, _CERTAIN)
        ratio = state[:, 1:].sum(axis=(1, 2))
        state[:, 1:] *= np.minimum(most / np.maximum(ratio, 1e-300), 1.0)[:, None, None]
        ratio = np.minimum(ratio, most)
        to_come -= stake
        found[:, at] = ratio + to_come
    return found

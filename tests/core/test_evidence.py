"""The formulas: computed a second time by hand, and never above one on average under their null."""

import itertools
import math

import numpy as np
import pytest

from canary_release.core import error_evidence, latency_evidence, mixture
from canary_release.core.noise import Noise
from canary_release.core.release import Limit, LimitKind
from canary_release.core.value_evidence import STAKES, sign_log_evidence
from core.counts import arms, clumped, one


def error_log_evidence(
    canary: tuple[int, int], stable: tuple[int, int], theta: float, delta: float, phi: float
) -> np.ndarray:
    null = error_evidence.orient(
        arms(canary, stable), np.array([theta]), np.array([delta]), one(0.02), np.array([False])
    )
    spread = np.array([phi])
    tilt = error_evidence.tilts(null, error_evidence.HARM_FACTORS, spread)
    return error_evidence.comparison_log_evidence(null, tilt, spread)[0, 0]


def by_hand(x_c: int, n_c: int, x_b: int, n_b: int, theta: float, phi: float) -> list[float]:
    """The conditional e-value once more, a number at a time."""
    found = []
    for factor in [1.3 * (32 / 1.3) ** (j / 5) for j in range(6)]:
        rho = n_c / (n_c + n_b)
        r = (phi - 1) / (phi + 1)
        rho0 = rho * theta / (1 - rho + rho * theta)
        of_stable = 1 / (1 - rho0 + rho0 * factor)
        s = tilt_by_bisection(factor * of_stable, r) - tilt_by_bisection(of_stable, r)
        u = math.exp(s)
        b = r * (1 + u) + (1 - r) * (1 - rho0 + rho0 * u)
        found.append(s * x_c + (x_c + x_b) * math.log(2 / (b + math.sqrt(b * b - 4 * r * u))))
    return found


def tilt_by_bisection(ratio: float, r: float) -> float:
    """Where the mean of clumped events, K'(s) = (1 - r)^2 e^s/(1 - r e^s)^2, is ``ratio``."""
    low, high = -40.0, -math.log(r) - 1e-12 if r > 0 else 40.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        mean = (1 - r) ** 2 * math.exp(middle) / (1 - r * math.exp(middle)) ** 2
        low, high = (middle, high) if mean < ratio else (low, middle)
    return low


@pytest.mark.parametrize("phi", [1.0, 3.0, 7.0])
@pytest.mark.parametrize("theta", [1.0, 1.1, 2.0])
@pytest.mark.parametrize(
    "counts", [((3, 40), (9, 900)), ((0, 10), (7, 70)), ((55, 600), (300, 59000)), ((5, 500), (0, 500))]
)
def test_error_evidence_agrees_with_a_second_computation(
    counts: tuple[tuple[int, int], tuple[int, int]], theta: float, phi: float
) -> None:
    (x_c, n_c), (x_b, n_b) = counts
    assert error_log_evidence(*counts, theta, 0.0, phi) == pytest.approx(
        by_hand(x_c, n_c, x_b, n_b, theta, phi), abs=1e-9
    )


@pytest.mark.parametrize("stable_rate", [0.01, 0.2, 0.45])
@pytest.mark.parametrize(("theta", "delta"), [(1.0, 0.0), (1.1, 0.0), (1.0, 0.05), (1.2, 0.02)])
def test_error_evidence_is_at_most_one_on_average_for_every_outcome_of_a_small_window(
    theta: float, delta: float, stable_rate: float
) -> None:
    n_c, n_b = 6, 14
    canary_rate = theta * stable_rate + delta
    mean = np.zeros(len(error_evidence.HARM_FACTORS))
    for x_c, x_b in itertools.product(range(n_c + 1), range(n_b + 1)):
        chance = binomial(x_c, n_c, canary_rate) * binomial(x_b, n_b, stable_rate)
        mean += chance * np.exp(error_log_evidence((x_c, n_c), (x_b, n_b), theta, delta, 1.0))
    assert (mean <= 1.0 + 1e-9).all()
    assert mean.max() > 0.3, "a test that never gains is no test"


@pytest.mark.parametrize("wander", [-0.4, 0.0, 0.3, 0.6])
def test_evidence_against_a_widened_null_is_at_most_one_on_average_as_long_as_instances_stay_inside(
    wander: float,
) -> None:
    """Instances may make the canary look worse by exp(0.6); whatever they do below that is no evidence."""
    n_c, n_b, rate = 6, 14, 0.1
    canary_rate = rate * math.exp(wander)
    mean = np.zeros(len(error_evidence.HARM_FACTORS))
    for x_c, x_b in itertools.product(range(n_c + 1), range(n_b + 1)):
        chance = binomial(x_c, n_c, canary_rate) * binomial(x_b, n_b, rate)
        mean += chance * np.exp(error_log_evidence((x_c, n_c), (x_b, n_b), math.exp(0.6), 0.0, 1.0))
    assert (mean <= 1.0 + 1e-9).all()


@pytest.mark.parametrize("delta", [0.0, 0.004])
def test_error_evidence_is_exactly_one_on_average_when_errors_come_in_geometric_clumps(delta: float) -> None:
    """Clumped Poisson counts, summed over all outcomes that matter: mean clump 2, so phi is 3."""
    n_c, n_b, rate = 300, 700, 0.006
    canary = clumped(n_c * (rate + delta), 2.0, 160)
    stable = clumped(n_b * rate, 2.0, 160)
    mean = np.zeros(len(error_evidence.HARM_FACTORS))
    for x_c, x_b in itertools.product(range(120), range(160)):
        chance = canary[x_c] * stable[x_b]
        if chance > 1e-16:
            mean += chance * np.exp(error_log_evidence((x_c, n_c), (x_b, n_b), 1.0, delta, 3.0))
    assert (mean <= 1.0 + 1e-6).all()
    assert mean[0] == pytest.approx(1.0, abs=1e-4)


def odds_log_evidence(canary: tuple[int, int], stable: tuple[int, int], ratio: float) -> np.ndarray:
    logs = np.log(np.concatenate(([1.0], latency_evidence.ODDS_FACTORS)))[None, None]
    found = latency_evidence.odds_log_likelihood(arms(canary, stable), one(ratio), logs)[0, 0]
    return found[1:] - found[0]


@pytest.mark.parametrize(("ratio", "stable_share"), [(1.0, 0.05), (1.0, 0.5), (1.7, 0.1), (3.0, 0.3)])
def test_latency_evidence_is_one_on_average_whatever_the_past_was(ratio: float, stable_share: float) -> None:
    """A double saddlepoint is right to a per cent even in a window of twenty requests."""
    n_c, n_b = 7, 13
    canary_odds = ratio * stable_share / (1 - stable_share)
    canary_share = canary_odds / (1 + canary_odds)
    mean = np.zeros(len(latency_evidence.ODDS_FACTORS))
    for x_c, x_b in itertools.product(range(n_c + 1), range(n_b + 1)):
        chance = binomial(x_c, n_c, canary_share) * binomial(x_b, n_b, stable_share)
        mean += chance * np.exp(odds_log_evidence((x_c, n_c), (x_b, n_b), ratio))
    assert mean == pytest.approx(np.ones(len(mean)), abs=0.02)


@pytest.mark.parametrize("ratio", [1.0, 1.6])
def test_latency_evidence_agrees_with_the_exact_hypergeometric_likelihood(ratio: float) -> None:
    x_c, n_c, x_b, n_b = 30, 200, 90, 1800

    def log_chance(odds: float) -> float:
        """ln P(x_c | x_c + x_b) of Fisher's noncentral hypergeometric distribution."""
        x = x_c + x_b
        terms = [
            math.log(math.comb(n_c, k)) + math.log(math.comb(n_b, x - k)) + k * math.log(odds)
            for k in range(min(x, n_c) + 1)
        ]
        top = max(terms)
        return terms[x_c] - top - math.log(math.fsum(math.exp(term - top) for term in terms))

    expected = [log_chance(ratio * factor) - log_chance(ratio) for factor in latency_evidence.ODDS_FACTORS]
    assert odds_log_evidence((x_c, n_c), (x_b, n_b), ratio) == pytest.approx(expected, abs=0.01)


def test_a_stretched_latency_is_tolerated_at_least_as_far_as_it_was_promised() -> None:
    """Log-normal and exponential survival at x/1.1 from coarse buckets: never read below the truth."""
    edges = np.array([0.05, 0.1, 0.25, 0.5, 1.0, 2.5])
    limit = Limit(LimitKind.RELATIVE, 0.10, "10%")

    def log_normal(x: np.ndarray) -> np.ndarray:
        return np.array([0.5 * math.erfc((math.log(e) - math.log(0.12)) / 0.6 / math.sqrt(2)) for e in x])

    for survival in (log_normal, lambda x: np.exp(-x / 0.3)):
        told = latency_evidence.tolerated_exceedance(edges, survival(edges)[None, :], limit)[0]
        true = survival(edges / 1.1)
        assert (told[1:] >= true[1:] * (1 - 1e-9)).all()
        assert (told <= survival(edges / 1.6) + 1e-9).all(), "but not so far that half as slow again would hide"


def test_a_limit_is_judged_on_the_canary_alone_and_at_most_one_on_average() -> None:
    limit, n = np.array([0.1]), 12
    tilt = error_evidence.limit_tilts(error_evidence.HARM_FACTORS[None, :], np.array([1.0]))
    for sign, true in ((1, 0.1), (1, 0.04), (-1, 0.1), (-1, 0.3)):
        mean = sum(
            binomial(x, n, true)
            * np.exp(error_evidence.limit_log_evidence(one(x), one(n), limit, sign * tilt, np.array([1.0]))[0, 0])
            for x in range(n + 1)
        )
        assert (mean <= 1.0 + 1e-9).all()


@pytest.mark.parametrize(("theta", "delta"), [(1.25, 0.0), (6.0, 0.0), (1.0, 0.05)])
@pytest.mark.parametrize("excess", [1.0, 1.3])
def test_evidence_for_safety_is_at_most_one_on_average_when_the_canary_is_unsafe(
    theta: float, delta: float, excess: float
) -> None:
    n_c, n_b, stable_rate = 9, 11, 0.1
    unsafe = excess * (theta * stable_rate + delta)
    phi, factors = np.array([1.0]), np.geomspace(0.2, 0.98, 12)
    mean = np.zeros(12)
    for x_c, x_b in itertools.product(range(n_c + 1), range(n_b + 1)):
        pair = arms((x_c, n_c), (x_b, n_b))
        null = error_evidence.orient(pair, np.array([theta]), np.array([delta]), one(0.1), np.array([False]))
        found = error_evidence.comparison_log_evidence(null, error_evidence.tilts(null, factors, phi), phi)
        mean += binomial(x_c, n_c, unsafe) * binomial(x_b, n_b, stable_rate) * np.exp(found[0, 0])
    assert (mean <= 1.0 + 1e-9).all()


def test_a_window_in_which_one_side_had_no_traffic_says_nothing() -> None:
    assert (error_log_evidence((0, 0), (5, 100), 1.0, 0.0, 3.0) == 0).all()
    assert (error_log_evidence((5, 100), (0, 0), 1.0, 0.005, 3.0) == 0).all()
    assert odds_log_evidence((0, 0), (5, 100), 1.0) == pytest.approx(0.0, abs=1e-9)


def test_more_noise_never_makes_evidence_stronger() -> None:
    evidence = error_log_evidence((40, 500), (100, 9500), 1.0, 0.0, 1.0)[None, None]
    pair, rate = arms((40, 500), (100, 9500)), one(0.01)
    calm = error_evidence.tempered(evidence, pair, rate, one(0.0))
    noisy = error_evidence.tempered(evidence, pair, rate, one(0.3))
    assert (np.abs(noisy) <= np.abs(calm) + 1e-12).all()
    assert calm.max() == error_evidence.CAP, "no single window decides"


def test_bets_on_single_values_are_fair() -> None:
    both = np.exp(sign_log_evidence(np.array([1.0, -1.0])))
    assert both.mean(axis=0) == pytest.approx(np.ones(len(STAKES)))


def test_mixture_agrees_with_the_recursion_it_stands_for() -> None:
    rng = np.random.default_rng(1)
    evidence = rng.normal(0.0, 1.5, (40, 3, 5))
    first = np.repeat([0, 10, 20, 30], 10)
    weights = mixture.restart_weights(first, 4, 40)
    found = mixture.mixture_log_evidence(evidence, weights)
    state = np.zeros((3, 5))
    for t in range(40):
        state = (state + weights[t] / 5) * np.exp(evidence[t])
        expected = state.sum(axis=1) + 1.0 - weights[: t + 1].sum()
        assert np.exp(found[t]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("windows", [1, 79, 80, 5000])
def test_stakes_add_up_to_at_most_one_and_do_not_depend_on_the_future(windows: int) -> None:
    first = np.arange(windows) // 20 * 20
    weights = mixture.restart_weights(first, 4, 80)
    assert 0.5 <= weights[0] < math.exp(-error_evidence.CAP) / mixture.ALPHA, "no single window decides"
    assert windows < 80 or weights[1:80].min() > 1 / 300, "harm may begin at any time"
    assert (weights > 0).all()
    assert weights.sum() <= 1.0 + 1e-12
    assert (mixture.restart_weights(first[:10], 4, 80) == weights[:10]).all()


def test_evidence_of_a_million_requests_a_window_stays_a_number() -> None:
    evidence = np.full((200, 1, 2), -1e9)
    evidence[100:] = 5.0
    found = mixture.mixture_log_evidence(evidence, mixture.restart_weights(np.zeros(200, dtype=int), 1, 200))
    assert np.isfinite(found[:, 0]).all()
    assert found[-1, 0] > 400


def test_noise_that_cannot_be_is_refused() -> None:
    for phi, tau2 in ((0.5, 0.1), (3.0, -1.0), (math.nan, 0.1), (math.inf, 0.1)):
        with pytest.raises(ValueError, match="phi must be at least 1"):
            Noise(phi, tau2)


def binomial(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)

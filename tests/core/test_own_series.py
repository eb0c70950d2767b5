"""What a service's own series teaches: its clumps, and not what the service as a whole goes through."""

from dataclasses import replace

import numpy as np
import pytest

from bench.grid import own_series
from bench.traffic import Noise, NoiseKind, Service, history
from canary_release.core.noise import DEFAULT_LATENCY_NOISE
from canary_release.core.noise_learning import learn
from canary_release.core.own_series import clumps_of_series
from core.simulated import ERRORS, LATENCY, release_of

RELEASE = release_of(ERRORS, LATENCY)
SHARED = Service(noise=Noise(NoiseKind.SHARED))


def phis(service: Service, label: str = "error_rate") -> list[float]:
    return [learn(RELEASE, own_series(history(service, 6.0, 60.0, seed))).checks[label].phi for seed in range(8)]


def test_what_all_of_a_busy_service_goes_through_is_mostly_not_taken_for_clumps() -> None:
    assert np.median(phis(SHARED)) <= 2.5


@pytest.mark.parametrize(("rate", "clump", "phi"), [(50.0, 3.0, 5.0), (50.0, 6.0, 11.0), (1000.0, 6.0, 11.0)])
def test_clumps_are_found_beside_it(rate: float, clump: float, phi: float) -> None:
    found = phis(replace(SHARED, rate=rate, noise=Noise(NoiseKind.CLUMPS, clump=clump)))
    assert phi <= np.median(found) <= 1.6 * phi
    assert min(found) >= 0.8 * phi


@pytest.mark.parametrize("minutes", [10.0, 20.0, 60.0])
def test_a_smooth_wave_hides_no_clumps(minutes: float) -> None:
    rng, at = np.random.default_rng(6), np.arange(360)
    rate = 0.005 * (1.0 + 0.3 * np.sin(2.0 * np.pi * at / minutes))
    clumps = rng.poisson(60_000 * rate / 3.0)
    events = clumps + rng.negative_binomial(np.maximum(clumps, 1), 1.0 / 3.0)
    phi, _ = clumps_of_series(events.astype(float), np.full(360, 60_000.0))
    assert 4.0 <= phi <= 9.0


def test_latency_keeps_its_own_defaults_and_is_never_taken_for_clumped() -> None:
    (label,) = [
        name for name in learn(RELEASE, own_series(history(SHARED, 1.0, 60.0, 1))).checks if name != "error_rate"
    ]
    assert max(phis(SHARED, label)) <= DEFAULT_LATENCY_NOISE.phi
    found = learn(RELEASE, own_series(history(SHARED, 6.0, 60.0, 1))).checks[label]
    assert replace(found, phi=DEFAULT_LATENCY_NOISE.phi) == DEFAULT_LATENCY_NOISE

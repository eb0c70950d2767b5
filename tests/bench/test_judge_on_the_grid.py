"""Guarantee: an identical canary is rolled back in at most one of a hundred rollouts, in every kind of noise."""

import numpy as np
import pytest

from bench.grid import Cell, Ours, Past
from bench.profiles import NOISES
from bench.traffic import Plan, Service, simulate
from core.simulated import most_by_chance

ROLLOUTS = 150
CELLS = [
    *(Cell("good", Service(noise=noise), Plan()) for noise in NOISES),
    *(Cell("good", Service(rate=50.0, noise=noise), Plan()) for noise in (NOISES[2], NOISES[5])),
    *(Cell("good", Service(instances=4, noise=noise), Plan(), latency_limit="none") for noise in NOISES[6:]),
]


@pytest.mark.slow
@pytest.mark.parametrize("past", list(Past))
def test_good_canaries_are_rolled_back_in_at_most_one_of_a_hundred_rollouts(past: Past) -> None:
    false = {}
    for cell in CELLS:
        seed = cell.seed(51)
        seen = simulate(cell.service, cell.plan, cell.regression, ROLLOUTS, seed)
        false[cell.name] = int(np.isfinite(Ours(cell, past, seed).rollback_seconds(seen)).sum())
    assert sum(false.values()) <= most_by_chance(ROLLOUTS * len(CELLS), 0.01), false
    assert max(false.values()) <= most_by_chance(ROLLOUTS, 0.01, doubt=1e-3 / len(CELLS)), false

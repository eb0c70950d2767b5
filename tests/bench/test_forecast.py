"""What `canary plan` foretells, beside the bench's judge on its traffic; `python -m bench.forecast` has all of it."""

import numpy as np
import pytest

from bench.forecast import CLUMPS, NEAR, Compared, bad_cell, cells, compared
from bench.grid import Past
from bench.traffic import Noise, Regression, Service

ERRORS, SLOWER = Regression(errors=5.0), Regression(latency=1.5)
LADDER = (0.01, 0.05, 0.25, 0.5)


@pytest.mark.parametrize(
    ("past", "rate", "noise", "regression"),
    [
        (Past.NONE, 50.0, Noise(), ERRORS),
        (Past.NONE, 1000.0, CLUMPS, ERRORS),
        (Past.NONE, 50.0, Noise(), SLOWER),
        (Past.SERIES, 50.0, Noise(), ERRORS),
        (Past.SERIES, 50.0, Noise(), SLOWER),
        (Past.INSTANCES, 50.0, Noise(), ERRORS),
        (Past.INSTANCES, 50.0, CLUMPS, ERRORS),
        (Past.INSTANCES, 50.0, Noise(), SLOWER),
    ],
)
def test_half_of_the_rollouts_are_over_about_when_the_plan_said(
    past: Past, rate: float, noise: Noise, regression: Regression
) -> None:
    found = compared(bad_cell(Service(rate, noise=noise), LADDER, regression), past, 20)
    assert np.isfinite(found.took[0])
    assert 1.0 / NEAR <= found.ratio(0) <= NEAR, found.line


def test_what_is_never_seen_agrees_only_with_what_is_never_foretold() -> None:
    cell = next(iter(cells()))
    never, some = (np.inf, np.inf), (60.0, 120.0)
    assert Compared(cell, Past.NONE, never, never).ratio(0) == 1.0
    assert np.isnan(Compared(cell, Past.NONE, some, never).ratio(1))
    assert Compared(cell, Past.NONE, some, (90.0, 90.0)).ratio(1) == 0.75

"""The cells that a profile of the bench has, and how many rollouts each."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

from bench.grid import HARM_BUDGET, LIMITS, Cell
from bench.traffic import Noise, NoiseKind, Plan, Regression, Service

NOISES = (
    Noise(),
    Noise(NoiseKind.SHARED),
    Noise(NoiseKind.CLUMPS, clump=3.0),
    Noise(NoiseKind.CLUMPS, clump=6.0),
    *(Noise(NoiseKind.INSTANCES, deviation=sd, lasting=last) for last, sd in product((120.0, 600.0), (0.2, 0.3))),
)
LADDERS = ((0.01, 0.05, 0.25, 0.5), (0.1, 0.5))
EFFECTS = {
    "errors x20": Regression(errors=20.0),
    "errors x5 from 900 s": Regression(errors=5.0, onset=900.0),
    "errors x3": Regression(errors=3.0),
    "errors x2": Regression(errors=2.0),
    "errors leak to x5 in 20 min": Regression(errors=5.0, grows=1200.0),
    "latency +50 %": Regression(latency=1.5),
    "latency +25 %": Regression(latency=1.25),
    "latency +10 %": Regression(latency=1.1),
}


def quick_cells() -> Iterator[tuple[Cell, int]]:
    """Representative cells and how many rollouts each, for a few minutes on one core."""
    for noise in NOISES:
        yield Cell("good", Service(noise=noise), Plan()), 300
    for noise in NOISES[1:4]:
        yield Cell("good", Service(rate=50.0, noise=noise), Plan()), 300
    for noise, (effect, regression) in product((NOISES[0], NOISES[1], NOISES[2], NOISES[6]), EFFECTS.items()):
        yield bad(effect, regression, Service(noise=noise)), 40
    for cell, number in early_cells((NOISES[1],)):
        yield cell, number // 2


def full_cells() -> Iterator[tuple[Cell, int]]:
    """Good canaries over noise x rate x error rate, with everything else in turn; regressions over noise x rate."""
    windows, sizes, tolerances = (10.0, 15.0, 30.0, 60.0), (4, 12, 40, 200), tuple(LIMITS)
    for place, (noise, rate, errors) in enumerate(product(NOISES, (50.0, 1000.0), (0.001, 0.005, 0.02))):
        turn = place + place // 6  # so that no dimension keeps step with another
        service = Service(rate=rate, errors=errors, instances=sizes[turn % 4], noise=noise)
        plan = Plan(LADDERS[(turn // 2) % 2], windows[(turn + turn // 4) % 4])
        yield Cell("good", service, plan, error_limit=tolerances[turn % 3]), 500
    yield from intolerant_cells()
    noises = (*NOISES[:4], NOISES[6])
    for noise, rate, (effect, regression) in product(noises, (1000.0, 50.0), EFFECTS.items()):
        yield bad(effect, regression, Service(rate=rate, noise=noise)), 60
    for effect, regression in EFFECTS.items():
        yield bad(effect, regression, Service(instances=4, noise=NOISES[7])), 60
        yield replace(bad(effect, regression, Service(noise=NOISES[1])), plan=Plan(window=10.0)), 60
    yield from early_cells((NOISES[0], NOISES[1], NOISES[2], NOISES[6]))


def intolerant_cells() -> Iterator[tuple[Cell, int]]:
    """Good canaries where nothing is tolerated and few instances wander slowly: two of the canary, four of stable.

    What was learned of such noise comes from few repetitions, which must not be taken for certainty.
    """
    for noise, window in product(NOISES[6:], (10.0, 30.0)):
        yield Cell("good", Service(instances=4, noise=noise), Plan(window=window), latency_limit="none"), 500
    for noise in (NOISES[2], NOISES[3]):
        yield Cell("good", Service(instances=4, noise=noise), Plan(), latency_limit="none"), 500


def bad(effect: str, regression: Regression, service: Service) -> Cell:
    """Without tolerance for what is worse, as for the oracle."""
    return Cell("bad", service, Plan(), effect, regression, latency_limit="none")


def early_cells(noises: Sequence[Noise]) -> Iterator[tuple[Cell, int]]:
    """A good canary, and ones that are just unsafe at the next weight of each step."""
    for noise in noises:
        service = Service(noise=noise)
        yield Cell("early", service, Plan()), 60
        for step, onward in enumerate((*LADDERS[0][1:], 1.0)):
            times = 1.0 + HARM_BUDGET / onward
            effect = f"errors x{times:g}, just unsafe after step {step + 1}"
            yield Cell("early", service, Plan(), effect, Regression(errors=times)), 60


PROFILES = {"quick": quick_cells, "full": full_cells}

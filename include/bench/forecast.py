"""What `canary plan` foretells beside what the judge then does. ``python -m bench.forecast [rollouts]``.

Seconds until the rollback of a bad canary: of half of the rollouts, and of nine of ten. Noise and clumps are known to
the forecast only as far as they are to the judge; where that has to learn clumps, those that there are are assumed.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.grid import Cell, Ours, Past
from bench.traffic import EDGES, Noise, NoiseKind, Plan, Regression, Service, simulate
from canary_release.core.detection import seen_in_plan
from canary_release.core.noise_learning import learn
from canary_release.core.plan import make_plan
from canary_release.core.service_traffic import ServiceTraffic

SEED = 77
NEAR = 1.5
CLUMPS = Noise(NoiseKind.CLUMPS, clump=3.0)
LADDERS = ((0.01,), (0.05,), (0.25,), (0.01, 0.05, 0.25, 0.5))


@dataclass(frozen=True)
class Compared:
    """Of one cell: seconds that half, and nine of ten, of the rollouts took, and were foretold; infinite when never."""

    cell: Cell
    past: Past
    took: tuple[float, float]
    foretold: tuple[float, float]

    def ratio(self, place: int) -> float:
        """Foretold to taken; 1 where both are never, nan where one of them is."""
        took, foretold = self.took[place], self.foretold[place]
        return 1.0 if took == foretold else foretold / took if np.isfinite([took, foretold]).all() else np.nan

    @property
    def line(self) -> str:
        figures = (f"{self.took[at]:6.0f} {self.foretold[at]:6.0f} {self.ratio(at):5.2f}" for at in (0, 1))
        return f"{' | '.join(figures)} | {self.past.value}; {self.cell.name}"


def cells() -> Iterator[Cell]:
    """Errors and latency, single errors and clumps of three, few requests and many, small weights and large."""
    for rate in (50.0, 1000.0):
        for ladder in LADDERS:
            for noise in (Noise(), CLUMPS):
                for times in (3.0, 5.0, 20.0):
                    yield bad_cell(Service(rate, noise=noise), ladder, Regression(errors=times))
            for slower in (1.25, 1.5):
                yield bad_cell(Service(rate), ladder, Regression(latency=slower))


def bad_cell(service: Service, ladder: tuple[float, ...], regression: Regression) -> Cell:
    worse = f"errors x{regression.errors:g}, latency x{regression.latency:g}"
    return Cell("bad", service, Plan(ladder=ladder), worse, regression)


def compared(cell: Cell, past: Past, rollouts: int) -> Compared:
    seed = cell.seed(SEED)
    ours = Ours(cell, past, seed)
    taken = ours.rollback_seconds(simulate(cell.service, cell.plan, cell.regression, rollouts, seed))
    release, history = cell.release(early_promotion=False), ours.history_of(0)
    noise = None if history is None else learn(release, history)
    errors = cell.regression.errors > 1.0
    effect = cell.service.errors * (cell.regression.errors - 1.0) if errors else cell.regression.latency - 1.0
    plan, clump = make_plan(release), cell.service.noise.clump
    said = seen_in_plan(release, plan, traffic_of(cell.service), effect, noise, clump)[0 if errors else 1]
    half, most = (float(np.quantile(taken, share, method="inverted_cdf")) for share in (0.5, 0.9))
    return Compared(cell, past, (half, most), (said.usual_seconds, said.seconds))


def traffic_of(service: Service) -> ServiceTraffic:
    slower = 1.0 - np.cumsum(service.bucket_shares(np.array(1.0)))[:-1]
    return ServiceTraffic(
        service.rate,
        {"error_rate": (1.0, service.errors)},
        EDGES,
        tuple(slower.tolist()),
        service.instances,
        canary_instances=service.canary_instances,
    )


def main(rollouts: int = 60) -> None:
    print("half: took, foretold, ratio | nine of ten: the same | cell")
    for past in (Past.NONE, Past.SERIES, Past.INSTANCES):
        found = []
        for cell in cells():
            found.append(compared(cell, past, rollouts))
            print(found[-1].line, flush=True)
        for place, name in enumerate(("half", "nine of ten")):
            ratios = np.array([one.ratio(place) for one in found])
            known = ratios[np.isfinite(ratios)]
            near = np.mean((known <= NEAR) & (known >= 1.0 / NEAR))
            low, middle, high = np.quantile(known, (0.05, 0.5, 0.95))
            print(
                f"{past.value}, {name}: {100 * near:.0f} % of {len(known)} within {NEAR:g}; 5 % / median / 95 %: "
                f"{low:.2f} / {middle:.2f} / {high:.2f}; in {len(ratios) - len(known)} one of both is never"
            )


if __name__ == "__main__":
    main(*(int(one) for one in sys.argv[1:2]))

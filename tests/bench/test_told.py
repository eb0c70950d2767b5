"""The test that is told the noise keeps the promise about good canaries, and is hardly to be beaten."""

import numpy as np
import pytest

from bench.chance import chance_of_as_many
from bench.grid import Cell, Ours, Past, measured
from bench.told import Told
from bench.traffic import Noise, NoiseKind, Plan, Regression, Service, simulate
from canary_release.core.release import Limit, LimitKind

NOISES = {
    "iid": Noise(),
    "shared": Noise(NoiseKind.SHARED),
    "clumps": Noise(NoiseKind.CLUMPS, clump=6.0),
    "instances": Noise(NoiseKind.INSTANCES, deviation=0.3),
}
TENTH = Limit(LimitKind.RELATIVE, 0.1, "10%")


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
@pytest.mark.parametrize("limit", [None, TENTH], ids=["no tolerance", "10 %"])
def test_good_canaries_are_rolled_back_once_in_a_hundred_at_most(noise: Noise, limit: Limit | None) -> None:
    seen = simulate(Service(instances=4, noise=noise), Plan(window=60.0), Regression(), 600, 71)
    false = int(np.isfinite(Told(limit, limit).rollback_seconds(seen)).sum())
    assert chance_of_as_many(false, 600, 0.01) > 1e-3, f"{false} of 600"


@pytest.mark.parametrize("noise", NOISES.values(), ids=NOISES)
def test_its_evidence_is_no_more_than_1_on_average_where_nothing_is_wrong(noise: Noise) -> None:
    plan = Plan(ladder=(0.2,), window=60.0, seconds=120.0)
    seen = simulate(Service(rate=20.0, errors=0.01, instances=4, noise=noise), plan, Regression(), 20_000, 72)
    told, everything = Told(), slice(None)
    for evidence in (told.of_errors(seen, everything)[:, -1], told.of_latency(seen, everything)[:, -1]):
        assert 0.2 < evidence.mean() < 1.02 + 3.0 * evidence.std() / np.sqrt(len(evidence))


@pytest.mark.parametrize("noise", [NOISES["clumps"], NOISES["instances"]], ids=["clumps", "instances"])
def test_judge_with_a_history_takes_little_longer_and_is_not_faster(noise: Noise) -> None:
    cell = Cell("bad", Service(noise=noise), Plan(), "errors x3", Regression(errors=3.0), latency_limit="none")
    seen = simulate(cell.service, cell.plan, cell.regression, 40, 73)
    told, ours = (measured(cell, judge.name, judge.rollback_seconds(seen), seen) for judge in (Told(), judge_of(cell)))
    assert told.missed == ours.missed == 0.0
    assert 0.97 * told.mean <= ours.mean <= 1.6 * told.mean


def judge_of(cell: Cell) -> Ours:
    return Ours(cell, Past.INSTANCES, 74)


def test_a_larger_harm_is_found_sooner_and_a_late_one_not_before_it_begins() -> None:
    def seconds(regression: Regression) -> float:
        return float(Told().rollback_seconds(simulate(Service(), Plan(), regression, 30, 75)).mean())

    small, large = (seconds(Regression(errors=times)) for times in (3.0, 20.0))
    assert 30.0 <= large < small
    assert seconds(Regression(errors=20.0, onset=900.0)) > 900.0

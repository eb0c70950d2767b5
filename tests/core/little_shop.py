"""The demo's shop as numbers: 400 requests a second, windows of a second, log-normal pages, and seconds of overload.

In a burst the machine is overloaded: every page of both sides takes many times as long for some seconds. Which of the
two it hits harder in a second is chance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from canary_release.core.decide import decide
from canary_release.core.judge_state import JudgeState
from canary_release.core.release import Release, Step
from canary_release.core.release_file import load_release
from canary_release.core.values import Counts, Decision, Window
from canary_release.core.weigh import NoiseOf
from core.small_world import WORLD
from demo.versions import INSTANCES, RELEASES
from demo.versions import Release as Version

EDGES = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
MEDIAN, SPREAD, RATE = 0.0125, 0.42, 400.0
FILE = Path(__file__).parents[2] / "include" / "releases" / "shop.yaml"


def shop_release() -> Release:
    return load_release(FILE, backends=WORLD)


@dataclass(frozen=True)
class Burst:
    """From ``start`` on, for ``seconds``, pages take ``times`` as long, give or take ``uneven`` on each side."""

    start: float
    seconds: float = 4.0
    times: float = 15.0
    uneven: float = 0.5


GOOD, FAILING, SLOW = RELEASES
Stretch = Callable[[float], tuple[float, float]]


def stretched(rng: np.random.Generator, bursts: Sequence[Burst]) -> Stretch:
    """How many times as slow stable and canary are in the second that begins at some time."""

    def of(start: float) -> tuple[float, float]:
        both = np.ones(2)
        for burst in bursts:
            if burst.start <= start < burst.start + burst.seconds:
                both = both * burst.times * np.exp(rng.normal(0.0, burst.uneven, 2))
        return float(both[0]), float(both[1])

    return of


def second(
    rng: np.random.Generator, at: int, step: int, weight: float, stretch: tuple[float, float], version: Version
) -> Window:
    sides = []
    for share, slower, one in ((1.0 - weight, stretch[0], GOOD), (weight, stretch[1], version)):
        came = int(rng.poisson(RATE * share))
        z = [(math.log(edge / (MEDIAN * slower * (1.0 + one.slow_by)))) / SPREAD for edge in EDGES]
        below = [0.5 * (1.0 + math.erf(value / math.sqrt(2.0))) for value in z]
        buckets = rng.multinomial(came, np.diff([0.0, *below, 1.0]))
        sides.append(Counts(came, int(rng.binomial(came, one.error_rate)), tuple(map(int, buckets)), INSTANCES))
    return Window(float(at), at + 1.0, sides[0], sides[1], EDGES, None, at, step, weight)


def released(
    rng: np.random.Generator,
    version: Version,
    bursts: Sequence[Burst] = (),
    noise: NoiseOf = None,
    most: int = 160,
) -> tuple[str, list[Window]]:
    """How a release ends (``promote``, ``roll_back`` or ``hold``), and its windows."""
    release = shop_release()
    steps = [step for step in release.steps if isinstance(step, Step)]
    state, windows, step = JudgeState(release, noise), list[Window](), 0
    of = stretched(rng, bursts)
    for at in range(most):
        windows.append(second(rng, at, step, float(steps[step].weight) / 100.0, of(float(at)), version))
        said = state.fold(windows[-1:])
        ruling = decide(release, steps, step, windows, said)
        if ruling.decision in (Decision.PROMOTE, Decision.ROLL_BACK):
            return str(ruling.decision), windows
        step += ruling.decision is Decision.ADVANCE
    return "hold", windows


def past_rollout(bursts: Sequence[Burst] = (), seed: int = 77) -> list[Window]:
    """Stable's windows of an earlier, good rollout, as the ledger has them."""
    _, windows = released(np.random.default_rng(seed), GOOD, bursts)
    return [window for window in windows if window.stable is not None and window.stable.requests > 0]

"""The demo's shop as numbers: 400 requests a second, windows of a second, log-normal pages, and seconds of overload.

In a burst the machine is overloaded: every page of both sides takes many times as long for some seconds. Which of the
two it hits harder in a second is chance, since each side is one process.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from canary_release.core.decide import decide
from canary_release.core.judge_state import JudgeState
from canary_release.core.release import Check, CheckKind, Limit, LimitKind, Release, Step, Target
from canary_release.core.values import Counts, Decision, Window
from canary_release.core.weigh import NoiseOf

EDGES = (0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
MEDIAN, SPREAD, RATE = 0.0125, 0.42, 400.0
NOWHERE = Target("nowhere", "none")


def shop_release() -> Release:
    """What include/releases/shop.yaml says."""
    return Release(
        service="shop",
        load_balancer=NOWHERE,
        backends=("blue", "green"),
        metrics=NOWHERE,
        steps=tuple(Step(Decimal(weight), 10.0) for weight in (1, 5, 25, 100)),
        checks=(
            Check("error_rate", CheckKind.PROPORTION, max_change=Limit(LimitKind.POINTS, 0.005, "0.5pp")),
            Check("page_load_time", CheckKind.LATENCY, 0.95, Limit(LimitKind.RELATIVE, 0.1, "10%")),
        ),
        poll=1.0,
    )


@dataclass(frozen=True)
class Burst:
    """From ``start`` on, for ``seconds``, pages take ``times`` as long, give or take ``uneven`` on each side."""

    start: float
    seconds: float = 4.0
    times: float = 15.0
    uneven: float = 0.5


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
    rng: np.random.Generator, at: int, step: int, weight: float, stretch: tuple[float, float], slow_by: float
) -> Window:
    sides = []
    for share, slower in ((1.0 - weight, stretch[0]), (weight, stretch[1] * (1.0 + slow_by))):
        came = int(rng.poisson(RATE * share))
        z = [(math.log(edge / (MEDIAN * slower))) / SPREAD for edge in EDGES]
        below = [0.5 * (1.0 + math.erf(value / math.sqrt(2.0))) for value in z]
        buckets = rng.multinomial(came, np.diff([0.0, *below, 1.0]))
        sides.append(Counts(came, 0, tuple(map(int, buckets)), None))
    return Window(float(at), at + 1.0, sides[0], sides[1], EDGES, None, at, step, weight)


def released(
    rng: np.random.Generator, slow_by: float, bursts: Sequence[Burst] = (), noise: NoiseOf = None, most: int = 120
) -> tuple[str, int, list[Window]]:
    """How a release ends (``promote``, ``roll_back`` or ``hold``), after how many windows, and the windows."""
    release = shop_release()
    steps = [step for step in release.steps if isinstance(step, Step)]
    state, windows, step = JudgeState(release, noise), list[Window](), 0
    of = stretched(rng, bursts)
    for at in range(most):
        windows.append(second(rng, at, step, float(steps[step].weight) / 100.0, of(float(at)), slow_by))
        said = state.fold(windows[-1:])
        ruling = decide(release, steps, step, windows, said)
        if ruling.decision in (Decision.PROMOTE, Decision.ROLL_BACK):
            return str(ruling.decision), at + 1, windows
        step += ruling.decision is Decision.ADVANCE
    return "hold", most, windows

"""Random faults for a story, drawn from its seed: what, when, how long, and whether a good version must survive it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from faults.actors import Story
from faults.faults import BalancerFault, Kind, LedgerFault, MetricFault
from faults.simulator import START, Trap, crash, freeze

# Where a process can be killed or frozen: (phase, point).
POINTS = (
    ("start", "ledger.begin:before"),
    ("start", "ledger.begin:after"),
    ("start", "balancer.set_weights:after"),
    ("shift", "ledger.intend_raise:before"),
    ("shift", "ledger.intend_raise:after"),
    ("shift", "balancer.set_weights:before"),
    ("shift", "balancer.set_weights:after"),
    ("shift", "ledger.observe_weights:after"),
    ("shift", "ledger.begin_step:before"),
    ("shift", "ledger.begin_step:after"),
    ("bake", "metrics.read:after"),
    ("bake", "ledger.store_windows:before"),
    ("bake", "ledger.store_windows:after"),
    ("bake", "ledger.record_decision:before"),
    ("bake", "ledger.record_decision:after"),
    ("bake", "ledger.intend_lower:after"),
    ("bake", "balancer.set_weights:after"),
    ("decide", "ledger.decisions:after"),
    ("promote", "ledger.commit_promotion:before"),
    ("promote", "ledger.commit_promotion:after"),
    ("promote", "balancer.set_weights:after"),
    ("promote", "ledger.end:before"),
    ("roll_back", "ledger.intend_lower:after"),
    ("roll_back", "balancer.set_weights:after"),
    ("roll_back", "ledger.end:before"),
    ("settle", "ledger.rollout:after"),
    ("guardian", "ledger.unfinished:after"),
)
# Shorter than every allowance of the release: lease, blind time, the patience of a write.
BLIP = 5.0
_METRIC_BLIP = 25.0
# A person's or a stranger's act ends a rollout on purpose, so it is never a blip.
_DELIBERATE = ("abort", "mark failed", "mark success", "clear", "stranger", "balancer restarts", "pause", "clock")


@dataclass(frozen=True)
class Trouble:
    """name: for the message of a failing seed.  blip: a good version must survive it."""

    name: str
    blip: bool
    arm: Callable[[Story], None]


def random_troubles(rng: random.Random) -> list[Trouble]:
    """One to three."""
    makers = (_outage, _outage, _crash, _crash, _freeze, _airflow_dies, _deliberate)
    return [rng.choice(makers)(rng) for _ in range(rng.randint(1, 3))]


def _outage(rng: random.Random) -> Trouble:
    family = rng.choice((BalancerFault, MetricFault, LedgerFault))
    kind: Any = rng.choice(list(family))
    blip = rng.random() < 0.5
    shortest = _METRIC_BLIP if family is MetricFault else BLIP
    seconds = rng.uniform(0.5, shortest) if blip else rng.uniform(30.0, 400.0)
    if rng.random() < 0.5:
        at = rng.uniform(0.0, 60.0)
        name = f"{kind.name} at +{at:.1f} s for {seconds:.1f} s"
        return Trouble(name, blip, lambda story: story.outages.add(kind, seconds, start=START + at))
    phase, point = rng.choice(POINTS)
    name = f"{kind.name} from {phase} at {point} on for {seconds:.1f} s"
    return Trouble(name, blip, lambda story: _add_at(story, kind, seconds, phase, point))


def _add_at(story: Story, kind: Kind, seconds: float, phase: str, point: str) -> None:
    story.hub.traps.append(Trap(phase, point, lambda _: story.outages.add(kind, seconds)))


def _crash(rng: random.Random) -> Trouble:
    phase, point = rng.choice(POINTS)
    nth = rng.randint(1, 2)
    recovery = rng.choice((2.0, 10.0, 200.0))
    return Trouble(
        f"crash in {phase} at {point} ({nth}), run again after {recovery:.0f} s",
        recovery <= 10.0,
        lambda story: _set_trap(story, Trap(phase, point, crash, nth), recovery),
    )


def _set_trap(story: Story, trap: Trap, recovery: float) -> None:
    story.hub.traps.append(trap)
    for run in story.runs:
        run.recovery = max(run.recovery, recovery)


def _freeze(rng: random.Random) -> Trouble:
    phase, point = rng.choice(POINTS)
    seconds = rng.choice((5.0, 30.0, 180.0))
    return Trouble(
        f"freeze in {phase} at {point} for {seconds:.0f} s",
        seconds <= BLIP,
        lambda story: story.hub.traps.append(Trap(phase, point, freeze(story.hub, seconds))),
    )


def _airflow_dies(rng: random.Random) -> Trouble:
    at, seconds = rng.uniform(1.0, 60.0), rng.choice((5.0, 30.0, 300.0))
    return Trouble(
        f"Airflow dies at +{at:.1f} s for {seconds:.0f} s",
        seconds <= BLIP,
        lambda story: story.at(at, partial(story.airflow_dies, seconds), name="operating system"),
    )


def _deliberate(rng: random.Random) -> Trouble:
    act, at = rng.choice(_DELIBERATE), rng.uniform(0.5, 60.0)
    return Trouble(f"{act} at +{at:.1f} s", False, lambda story: _do(story, act, at, rng))


def _do(story: Story, act: str, at: float, rng: random.Random) -> None:
    run = story.runs[0]
    share = rng.choice((0, 3, 50, 100))
    acts: dict[str, tuple[str, Callable[[], object]]] = {
        "abort": ("person", story.abort),
        "mark failed": ("person", run.mark_failed),
        "mark success": ("person", run.mark_success),
        "clear": ("person", lambda: story.begin(run.run_id)),
        "stranger": ("stranger", partial(story.stranger_sets, share)),
        "balancer restarts": ("stranger", partial(story.stranger_sets, 0)),
        "pause": ("person", lambda: setattr(run, "paused_until", story.hub.time + 600.0)),
        "clock": ("operating system", lambda: setattr(story.clock, "offset", rng.choice((-3600.0, 3600.0)))),
    }
    name, body = acts[act]
    story.at(at, body, name=name)

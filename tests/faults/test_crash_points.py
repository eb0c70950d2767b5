"""Every point where a process can die, times whatever the load balancer, the metrics and the ledger do then."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from faults.actors import Story
from faults.faults import BalancerFault, Kind, LedgerFault, MetricFault
from faults.oracle import BOUND
from faults.rows import Results
from faults.simulator import CrashError, Process, Trap


@dataclass(frozen=True)
class CrashPoint:
    """moment: T0 before the lease to T7 after the end.  bad: the version that comes by here."""

    moment: str
    phase: str
    point: str
    bad: bool = False

    def __str__(self) -> str:
        return f"{self.moment} {self.phase} {self.point}".replace(":", " ")


POINTS = [
    CrashPoint("T0", "start", "ledger.begin:before"),
    CrashPoint("T0", "start", "ledger.begin:after"),
    CrashPoint("T0", "start", "balancer.set_weights:after"),
    CrashPoint("T1", "shift 0", "ledger.intend_raise:before"),
    CrashPoint("T1", "shift 0", "ledger.intend_raise:after"),
    CrashPoint("T1", "shift 1", "ledger.intend_raise:after"),
    CrashPoint("T2", "shift 0", "balancer.set_weights:after"),
    CrashPoint("T2", "shift 1", "balancer.set_weights:after"),
    CrashPoint("T2", "shift 0", "ledger.observe_weights:after"),
    CrashPoint("T2", "shift 0", "ledger.begin_step:before"),
    CrashPoint("T2", "shift 0", "ledger.begin_step:after"),
    CrashPoint("T3", "bake 0", "metrics.read:after"),
    CrashPoint("T3", "bake 0", "ledger.store_windows:after"),
    CrashPoint("T3", "bake 1", "metrics.read:after"),
    CrashPoint("T4", "bake 0", "ledger.store_windows:after", bad=True),
    CrashPoint("T4", "bake 0", "ledger.intend_lower:before", bad=True),
    CrashPoint("T4", "bake 0", "ledger.record_decision:before"),
    CrashPoint("T4", "decide 0", "ledger.decisions:after"),
    CrashPoint("T5", "promote", "ledger.commit_promotion:before"),
    CrashPoint("T5", "promote", "ledger.commit_promotion:after"),
    CrashPoint("T5", "promote", "balancer.set_weights:after"),
    CrashPoint("T5", "promote", "ledger.end:before"),
    CrashPoint("T6", "bake 0", "ledger.intend_lower:after", bad=True),
    CrashPoint("T6", "bake 0", "balancer.set_weights:after", bad=True),
    CrashPoint("T6", "roll_back", "ledger.intend_lower:after", bad=True),
    CrashPoint("T6", "roll_back", "balancer.set_weights:after", bad=True),
    CrashPoint("T6", "roll_back", "ledger.end:before", bad=True),
    CrashPoint("T7", "roll_back", "ledger.end:after", bad=True),
    CrashPoint("T7", "promote", "ledger.end:after"),
]
OUTCOMES: list[Kind] = [*BalancerFault, *MetricFault, *LedgerFault]
SHORT, LONG = 20.0, 150.0
RETRY, NEVER = 5.0, 900.0

Tell = Callable[..., Story]


def crash_with(story: Story, outcome: Kind | None, seconds: float) -> Callable[[Process], None]:
    """The process dies, and at the same moment the world around it goes wrong."""

    def act(process: Process) -> None:
        if outcome is not None:
            story.outages.add(outcome, seconds)
        raise CrashError(process.name)

    return act


def play(tell: Tell, place: CrashPoint, outcome: Kind | None, seconds: float = 0.0, recovery: float = RETRY) -> Story:
    story = tell(11, bad=place.bad)
    story.begin(recovery=recovery)
    story.guard()
    trap = Trap(place.phase, place.point, crash_with(story, outcome, seconds))
    story.hub.traps.append(trap)
    story.play()
    assert trap.sprung, "nothing came by the crash point, so this would have shown nothing"
    return story


def broken_in(story: Story, outage: float = 0.0) -> list[str]:
    """What a story that must have ended safely did not hold. outage: seconds for which nothing could be done."""
    broken = list(story.oracle.violations)
    if story.state not in ("none", "promoted", "rolled_back"):
        broken.append(f"ended as {story.state}")
    if story.bad and story.state == "promoted":
        broken.append("WRONG PROMOTION")
    longest = max((span.seconds for span in story.oracle.spans), default=0.0)
    if longest > BOUND + outage:
        broken.append(f"{longest:.0f} s until safe: {story.oracle.spans}")
    return broken


def require_safe_end(story: Story) -> None:
    assert broken_in(story) == []


def cell(tell: Tell, place: CrashPoint, outcome: Kind, seconds: float) -> list[str]:
    """What one cell of the matrix broke, each with the cell's name."""
    name = f"{place} x {outcome.name.lower()} for {seconds:.0f} s"
    # What a load balancer was late to apply it applies after its outage.
    late = 100.0 if outcome is BalancerFault.APPLIES_LATE else 0.0
    try:
        story = play(tell, place, outcome, seconds)
    except Exception as error:  # noqa: BLE001  the other cells are played all the same
        return [f"{name}: {type(error).__name__}: {error}"]
    broken = broken_in(story, outage=seconds + late)
    story.close()
    return [f"{name}: {what}" for what in broken]


@pytest.mark.parametrize("seconds", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("place", POINTS, ids=str)
def test_crash_amid_an_outage_ends_safely(tell: Tell, results: Results, place: CrashPoint, seconds: float) -> None:
    broken = [what for outcome in OUTCOMES for what in cell(tell, place, outcome, seconds)]
    results.cell(len(OUTCOMES), broken)
    assert broken == [], "\n".join(broken)


@pytest.mark.parametrize("place", POINTS, ids=str)
def test_crash_that_is_soon_run_again_costs_nothing(tell: Tell, place: CrashPoint) -> None:
    story = play(tell, place, None)
    require_safe_end(story)
    if place.moment == "T0" or place.bad:
        # A start is never run again by Airflow; nobody was exposed, and the service is free again.
        assert story.state in ("none", "rolled_back")
    else:
        assert story.state == "promoted", story.reason


@pytest.mark.parametrize("place", POINTS, ids=str)
def test_crash_that_nobody_runs_again_is_ended_by_the_guardian(tell: Tell, place: CrashPoint) -> None:
    story = play(tell, place, None, recovery=NEVER)
    require_safe_end(story)


@pytest.mark.parametrize("place", [place for place in POINTS if place.phase.startswith("shift")], ids=str)
def test_shift_that_crashed_is_written_at_most_once_more(tell: Tell, place: CrashPoint) -> None:
    story = play(tell, place, None)
    index = int(place.phase.removeprefix("shift "))
    share = story.release.steps[index].weight  # type: ignore[union-attr]
    raises = [weights for _, weights in story.balancer.writes if weights[story.release.backends[1]] == share]
    # The promotion writes the last step's weights once more.
    assert 1 <= len(raises) <= (2 if index == 0 else 3)

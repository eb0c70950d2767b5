"""A promotion at a load balancer that keeps a lease of its own, which until then names the old side."""

from collections.abc import Callable

import pytest

from faults.actors import Story
from faults.faults import BLUE, HUNDRED, LedgerFault
from faults.oracle import GUARDIAN_PERIOD
from faults.simulator import Process, Trap, crash, freeze

Tell = Callable[..., Story]
NEVER = 900.0  # the guardian is long done by then
AFTER_COMMIT = "ledger.commit_promotion:after"


def promoting(tell: Tell, point: str, act: Callable[[Story, Process], None], *, recovery: float = 5.0) -> Story:
    """A good version, and what happens when its promotion passes a point."""
    story = tell(31, leasing=True)
    story.begin(recovery=recovery)
    story.guard()
    trap = Trap("promote", point, lambda process: act(story, process))
    story.hub.traps.append(trap)
    story.play()
    assert trap.sprung, f"nothing came by {point}"
    assert story.oracle.violations == []
    return story


def on_the_old_side(story: Story) -> float:
    """Seconds for which clients were served by the old side after the promotion had been committed."""
    ends = [at for at, _ in story.oracle.exposures[1:]] + [story.hub.time]
    spans = zip(story.oracle.exposures, ends, strict=True)
    since = story.oracle.promoted_at
    return sum(max(0.0, end - max(begin, since)) for (begin, shares), end in spans if shares[BLUE] > 0)


def points_of_a_promotion(tell: Tell) -> list[str]:
    story = tell(31, leasing=True)
    story.begin()
    story.play()
    assert story.state == "promoted"
    return sorted(point for phase, point in story.hub.seen_points if phase == "promote")


def test_promotion_killed_anywhere_and_run_again_sends_nobody_back(tell: Tell) -> None:
    points = points_of_a_promotion(tell)
    assert len(points) > 15
    for point in points:
        story = promoting(tell, point, lambda _, process: crash(process))
        assert (story.state, story.canary) == ("promoted", HUNDRED), point
        assert on_the_old_side(story) == 0.0, point


def test_promotion_killed_anywhere_and_never_run_again_is_finished_or_rolled_back_by_the_guardian(tell: Tell) -> None:
    for point in points_of_a_promotion(tell):
        story = promoting(tell, point, lambda _, process: crash(process), recovery=NEVER)
        assert story.canary == (HUNDRED if story.state == "promoted" else 0), point
        if story.state == "promoted":
            assert on_the_old_side(story) <= GUARDIAN_PERIOD, point


@pytest.mark.parametrize("kind", [LedgerFault.UNREACHABLE, LedgerFault.LOCKED], ids=["unreachable", "locked"])
def test_ledger_that_goes_away_behind_the_commit_sends_nobody_back(tell: Tell, kind: LedgerFault) -> None:
    story = promoting(tell, AFTER_COMMIT, lambda story, _: story.outages.add(kind, 300.0))
    assert (story.state, story.canary) == ("promoted", HUNDRED)
    assert on_the_old_side(story) == 0.0


def test_commit_whose_answer_is_lost_is_a_commit(tell: Tell) -> None:
    story = promoting(
        tell, "ledger.commit_promotion:before", lambda story, _: story.outages.add(LedgerFault.LOST_ANSWER, 3.0)
    )
    assert (story.state, story.canary) == ("promoted", HUNDRED)
    assert on_the_old_side(story) == 0.0


def test_lease_is_whole_when_the_promotion_is_committed(tell: Tell) -> None:
    left: list[float] = []

    def look(story: Story, _: Process) -> None:
        left.append(story.balancer.lease[0] - story.hub.time)  # type: ignore[attr-defined]

    story = promoting(tell, AFTER_COMMIT, look)
    assert left[0] >= story.release.lease - 2.0


def test_abort_before_the_commit_of_a_frozen_promotion_stays_an_abort(tell: Tell) -> None:
    def abort_while_frozen(story: Story, process: Process) -> None:
        story.hub.spawn("person", story.abort)
        freeze(story.hub, 30.0)(process)

    for point in ("ledger.may_stand:after", "balancer.renew_lease:before", "ledger.commit_promotion:before"):
        story = promoting(tell, point, abort_while_frozen)
        assert (story.state, story.canary) == ("rolled_back", 0), point

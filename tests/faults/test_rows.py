"""The rows of the fault matrix that a simulation can show, one test a row; the others need real processes."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from faults.actors import GOOD_RATE, Story, shop_release
from faults.faults import BLUE, GREEN, BalancerFault, Kind, LedgerFault, MetricFault
from faults.matrix import ROWS, How, Row, row
from faults.oracle import BOUND, GUARDIAN_PERIOD
from faults.rows import Results, ended, seconds_to_safe
from faults.simulator import START, CrashError, Process, Trap, crash, freeze
from faults.test_crash_points import POINTS

Tell = Callable[..., Story]
Change = Callable[[Story], object]
# (phase, point, bad version): before the write, after it, while baking, while promoting, while rolling back.
INTENT = ("shift 0", "ledger.intend_raise:after", False)
WRITTEN = ("shift 0", "balancer.set_weights:after", False)
BAKING = ("bake 0", "metrics.read:after", False)
PROMOTING = ("promote", "ledger.commit_promotion:after", False)
LOWERING = ("bake 0", "ledger.intend_lower:after", True)
ROLLING_BACK = ("roll_back", "ledger.intend_lower:after", True)
EVERYWHERE = (INTENT, WRITTEN, BAKING, PROMOTING, LOWERING, ROLLING_BACK)
Moment = tuple[str, str, bool]


class Told:
    """A story and the instant of its fault."""

    def __init__(self, story: Story, since: float) -> None:
        self.story, self.since = story, since

    @property
    def seconds(self) -> float:
        return seconds_to_safe(self.story, self.since)


def strike(tell: Tell, moment: Moment, act: Callable[[Story, Process], None], **changes: object) -> Told:
    """Play a story in which ``act`` happens when a process passes the moment."""
    phase, point, bad = moment
    recovery = changes.pop("recovery", 5.0)
    guarded = changes.pop("guarded", True)
    story = tell(29, bad=bad, **changes)
    story.begin(recovery=recovery)  # type: ignore[arg-type]
    if guarded:
        story.guard()
    at: list[float] = []

    def note(process: Process) -> None:
        at.append(story.hub.time)
        act(story, process)

    story.hub.traps.append(Trap(phase, point, note))
    story.play()
    assert at, f"nothing came by {phase} {point}"
    return Told(story, at[0])


def happens(tell: Tell, seconds: float, change: Change, *, name: str = "person", **changes: object) -> Told:
    """Play a story in which something happens so many seconds after its beginning."""
    story = tell(29, **changes)
    story.begin()
    story.guard()
    story.at(seconds, lambda: change(story), name=name)
    story.play()
    return Told(story, START + seconds)


def outage(kind: Kind, seconds: float) -> Callable[[Story, Process], None]:
    return lambda story, process: story.outages.add(kind, seconds)


def require_invariants(stories: Sequence[Told], results: Results | None = None, number: int = 0) -> None:
    """No story broke an invariant; what was seen is written down before."""
    broken = [violation for told in stories for violation in told.story.oracle.violations]
    if results is not None:
        note(results, number, stories, f"FAILED: {len(broken)} violations" if broken else "FAILED")
    assert broken == [], "\n".join(broken)


def note(results: Results, number: int, stories: Sequence[Told], words: str = "") -> None:
    unpermitted = max((span.seconds for told in stories for span in told.story.oracle.spans), default=0.0)
    sentence = ended([told.story for told in stories]) + (f"; {words}" if words else "")
    results.record(number, sentence, unpermitted)


def test_row_01_killed_task_is_run_again_with_the_same_weight(tell: Tell, results: Results) -> None:
    stories = [strike(tell, moment, lambda story, process: crash(process)) for moment in EVERYWHERE]
    require_invariants(stories, results, 1)
    for told, (_, _, bad) in zip(stories, EVERYWHERE, strict=True):
        assert told.story.state == ("rolled_back" if bad else "promoted"), told.story.reason
        raised = [shares[GREEN] for _, shares in told.story.balancer.writes]
        assert raised.count(told.story.release.steps[0].weight) <= 2, raised  # type: ignore[union-attr]
    note(results, 1, stories)


def test_row_02_task_whose_supervisor_died_too_is_ended_by_the_guardian(tell: Tell, results: Results) -> None:
    stories = [strike(tell, moment, lambda _, process: crash(process), recovery=900.0) for moment in EVERYWHERE]
    require_invariants(stories, results, 2)
    for told in stories:
        assert told.story.state in ("rolled_back", "promoted")
        if told.story.state == "rolled_back":
            assert told.seconds <= told.story.release.lease + GUARDIAN_PERIOD + 10.0
    note(results, 2, stories)


def dies(seconds: float) -> Callable[[Story, Process], None]:
    def act(story: Story, process: Process) -> None:
        story.airflow_dies(seconds)
        raise CrashError(process.name)

    return act


def test_row_03_dead_scheduler_leaves_the_balancers_lease(tell: Tell, results: Results) -> None:
    stories = [strike(tell, moment, dies(300.0), leasing=True) for moment in EVERYWHERE]
    require_invariants(stories, results, 3)
    longest = _ended_by_lease(stories)
    note(results, 3, stories, f"last canary request {longest:.1f} s after the scheduler died, the lease being 60 s")


def test_row_05_with_all_of_airflow_dead_the_balancer_returns_to_stable_alone(tell: Tell, results: Results) -> None:
    moments = (WRITTEN, BAKING, LOWERING, ROLLING_BACK)
    stories = [strike(tell, moment, dies(3 * 3600.0), leasing=True) for moment in moments]
    require_invariants(stories, results, 5)
    longest = _ended_by_lease(stories)
    note(results, 5, stories, f"last canary request {longest:.1f} s after the death, the lease being 60 s")


def _ended_by_lease(stories: list[Told]) -> float:
    longest = 0.0
    for told in stories:
        if told.story.state == "rolled_back":
            assert told.seconds <= told.story.release.lease + 1.0, f"{told.seconds:.1f} s"
            longest = max(longest, told.seconds)
    return longest


def test_row_04_triggerer_dead_for_half_a_minute_or_two_promotes_nothing_bad(tell: Tell, results: Results) -> None:
    stories = [
        strike(tell, (phase, point, bad), lambda _, process: crash(process), recovery=seconds)
        for seconds in (30.0, 120.0)
        for phase, point, bad in (BAKING, ("bake 0", "metrics.read:before", True))
    ]
    require_invariants(stories, results, 4)
    assert stories[0].story.state == "promoted", stories[0].story.reason
    note(results, 4, stories, "the triggerer only")


def test_row_06_zombie_raises_nothing_after_somebody_took_over(tell: Tell, results: Results) -> None:
    places = ("ledger.intend_raise:after", "balancer.set_weights:before", "balancer.set_weights:after")

    def stop(story: Story, process: Process) -> None:
        freeze(story.hub, 180.0)(process)

    stories = [strike(tell, ("shift 0", place, False), stop) for place in places]
    require_invariants(stories, results, 6)
    stale = sum(told.story.oracle.stale_raises for told in stories)
    note(results, 6, stories, f"{stale} raises left a process after somebody had taken over, and were taken back")


BAKE = 20.0
# The trigger's look, the rollback task and the guardian may all be trying.
CALLS_A_MINUTE = 40.0
ROW_7 = (BalancerFault.FAILS_BEFORE, BalancerFault.TIMES_OUT, BalancerFault.RESETS_AFTER)
STRIKES = (("shift 0", "ledger.intend_raise:before", False), INTENT, PROMOTING, LOWERING, ROLLING_BACK)


def test_row_07_balancer_500_timeout_reset_ends_with_a_weight_read_back(tell: Tell, results: Results) -> None:
    stories = [strike(tell, moment, outage(kind, 150.0)) for kind in ROW_7 for moment in STRIKES]
    require_invariants(stories, results, 7)
    late = [told for told in stories if told.seconds > 60.0]
    for told in late:
        assert told.story.pages, "nobody was woken though the canary stood for a minute"
    note(results, 7, stories, f"{len(late)} stood for more than 60 s, somebody was woken in each")


@pytest.mark.parametrize("kind", ROW_7, ids=lambda kind: kind.name.lower())
def test_row_07_one_failed_call_does_not_end_a_good_release(tell: Tell, kind: BalancerFault) -> None:
    told = strike(tell, INTENT, outage(kind, 1.0))
    require_invariants([told])
    assert told.story.state == "promoted", told.story.reason


def test_row_08_balancer_that_throttles_or_forbids_is_asked_sparingly(tell: Tell, results: Results) -> None:
    kinds = (BalancerFault.THROTTLES, BalancerFault.FORBIDS, BalancerFault.RULE_IS_GONE)
    stories = [strike(tell, moment, outage(kind, 300.0)) for kind in kinds for moment in STRIKES[1:]]
    require_invariants(stories, results, 8)
    rates = []
    for told in stories:
        calls = [at for at in told.story.balancer.calls if told.since + 60.0 <= at < told.since + 300.0]
        rates.append(len(calls) / 4.0)
        assert told.story.pages, "nobody was woken in five minutes"
    assert max(rates) <= CALLS_A_MINUTE, f"{max(rates):.0f} calls a minute"
    note(results, 8, stories, f"at most {max(rates):.0f} calls a minute; somebody was woken in each")


def test_row_09_write_that_is_not_or_late_applied_stands_for_nothing(tell: Tell, results: Results) -> None:
    kinds = (BalancerFault.IGNORES, BalancerFault.APPLIES_LATE)
    stories = [
        strike(tell, moment, outage(kind, seconds))
        for kind in kinds
        for seconds in (3.0, 30.0)
        for moment in (INTENT, PROMOTING, LOWERING)
    ]
    require_invariants(stories, results, 9)
    note(results, 9, stories)


def test_row_10_balancer_that_restarts_is_never_raised_again_by_itself(tell: Tell, results: Results) -> None:
    told = happens(tell, 5.0, lambda story: story.stranger_sets(0), name="stranger restart")
    require_invariants([told], results, 10)
    raised = [at for at, shares in told.story.balancer.writes if at > told.since and shares[GREEN] > 0]
    assert raised == []
    assert told.story.state == "rolled_back"
    assert told.story.pages
    note(results, 10, [told], f"noticed after {told.story.pages[0][0] - told.since:.0f} s; not raised again")


def test_row_11_somebody_elses_weights_are_noticed_and_not_fought(tell: Tell, results: Results) -> None:
    stories = [
        happens(tell, at, partial(Story.stranger_sets, canary=share), name="stranger")
        for at in (5.0, 28.0)
        for share in (0, 50, 100)
        if (at, share) != (28.0, 100)
    ]
    require_invariants(stories, results, 11)
    poll, delays = stories[0].story.release.poll, []
    for told in stories:
        assert told.story.state == "rolled_back", told.story.reason
        assert told.story.pages, "nobody was told"
        delays.append(told.story.pages[0][0] - told.since)
        raised = [at for at, shares in told.story.balancer.writes if at > told.since and shares[GREEN] > 0]
        assert raised == [], "two controllers would fight"
    assert max(delays) <= poll + 2.0, delays
    note(results, 11, stories, f"noticed within {max(delays):.0f} s")


def test_row_12_metrics_that_cannot_be_read_never_pass(tell: Tell, results: Results) -> None:
    bad = (BAKING[0], "metrics.read:before", True)
    stories = [
        strike(tell, moment, outage(kind, seconds))
        for kind in (MetricFault.DOWN, MetricFault.TIMES_OUT)
        for seconds in (25.0, 600.0)
        for moment in (BAKING, bad)
    ]
    require_invariants(stories, results, 12)
    assert all(told.story.state == "rolled_back" for told in stories if told.story.bad)
    note(results, 12, stories)


@pytest.mark.parametrize("seconds", [15.0, 25.0, 55.0, 600.0])
@pytest.mark.parametrize("kind", list(MetricFault), ids=lambda kind: kind.name.lower())
def test_row_13_bad_version_is_not_promoted_by_spoilt_metrics(tell: Tell, kind: MetricFault, seconds: float) -> None:
    for at in (1.0, 14.0):
        told = happens(tell, at, lambda story: story.outages.add(kind, seconds), bad=True)
        require_invariants([told])
        assert told.story.state != "promoted"


def test_row_13_spoilt_metrics_in_numbers(tell: Tell, results: Results) -> None:
    stories = [
        happens(tell, 3.0, partial(_spoil, kind, seconds), bad=True)
        for kind in MetricFault
        for seconds in (15.0, 25.0, 55.0, 600.0)
    ]
    require_invariants(stories)
    wrong = sum(told.story.state == "promoted" for told in stories)
    note(results, 13, stories, f"FAILED: {wrong} wrong promotions" if wrong else "0 wrong promotions")
    assert wrong == 0


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_row_13_store_that_gives_nothing_new_does_not_keep_a_canary_alive(tell: Tell, bad: bool) -> None:
    told = happens(tell, 3.0, partial(_spoil, MetricFault.STALE, 1200.0), bad=bad)
    require_invariants([told])
    release = told.story.release
    assert told.seconds <= max(release.lease, release.max_no_data) + GUARDIAN_PERIOD + 10.0, f"{told.seconds:.0f} s"


def _spoil(kind: MetricFault, seconds: float, story: Story) -> None:
    story.outages.add(kind, seconds)


def test_row_14_good_canary_with_every_tenth_poll_blind_is_promoted(tell: Tell, results: Results) -> None:
    stories = []
    for seed in range(40):
        story = tell(seed, release=shop_release(bake=60.0))
        story.begin()
        story.guard()
        for start in range(200):
            if story.hub.rng.random() < 0.1:
                story.outages.add(MetricFault.DOWN, 1.0, start=START + 10.0 + start)
        stories.append(Told(story.play(), START))
    require_invariants(stories, results, 14)
    assert [told.story.reason for told in stories if told.story.state != "promoted"] == []
    note(results, 14, stories)


ACTS: dict[str, Change] = {
    "paused": lambda story: setattr(story.runs[0], "paused_until", story.hub.time + 1800.0),
    "marked failed": lambda story: story.runs[0].mark_failed(),
    "marked success": lambda story: story.runs[0].mark_success(),
    "cleared": lambda story: story.begin(story.runs[0].run_id),
}


def test_row_15_nothing_that_a_person_does_to_the_run_promotes_or_leaves_it(tell: Tell, results: Results) -> None:
    stories = [
        happens(tell, at, act, bad=bad)
        for act in ACTS.values()
        for at in (0.3, 1.5, 5.0, 26.0, 51.0)
        for bad in (False, True)
    ]
    require_invariants(stories, results, 15)
    assert not any(told.story.state == "promoted" for told in stories if told.story.bad)
    note(results, 15, stories)


def test_row_16_old_runs_that_are_run_again_write_nothing(tell: Tell, results: Results) -> None:
    writes = []
    for bad in (False, True):
        story = tell(29, bad=bad)
        story.begin()
        story.guard()
        story.play()
        before = len(story.balancer.writes)
        story.hub.spawn("person", partial(story.begin, story.runs[0].run_id))
        story.play()
        assert story.oracle.violations == []
        writes.append(len(story.balancer.writes) - before)
    assert writes == [0, 0]
    results.record(16, "a promoted and a rolled-back run were cleared: 0 writes", 0.0)


def test_row_18_abort_wins_and_twice_is_as_once(tell: Tell, results: Results) -> None:
    def twice(story: Story) -> None:
        story.abort()
        story.abort()

    stories = [happens(tell, at, twice) for at in (0.8, 2.0, 10.0, 26.0, 51.5, 53.0, 100.0)]
    require_invariants(stories, results, 18)
    by_abort = [told for told in stories if "aborted by grace" in told.story.reason]
    assert all(told.story.state == "rolled_back" for told in by_abort)
    assert max(told.seconds for told in by_abort) <= 2.0
    idle = tell(29)
    idle.at(1.0, idle.abort)
    idle.play()
    assert idle.balancer.writes == []
    note(results, 18, stories, "an abort of an idle service wrote nothing")


def test_row_19_ledger_that_is_gone_raises_nothing_and_goes_on_afterwards(tell: Tell, results: Results) -> None:
    stories = [strike(tell, moment, outage(kind, 60.0)) for kind in LedgerFault for moment in EVERYWHERE]
    require_invariants(stories, results, 19)
    note(results, 19, stories)


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_row_19_ledger_that_is_gone_for_ten_minutes_leaves_no_canary_standing(tell: Tell, bad: bool) -> None:
    told = happens(tell, 4.0, lambda story: story.outages.add(LedgerFault.UNREACHABLE, 600.0), bad=bad)
    require_invariants([told])
    assert told.seconds <= told.story.release.lease + BOUND


def test_row_21_clock_that_jumps_promotes_nothing_early(tell: Tell, results: Results) -> None:
    release = shop_release(early_promotion=False, bake=BAKE)
    stories = [
        happens(tell, at, partial(_jump, hours * 3600.0), bad=bad, release=release)
        for at in (1.5, 5.0, 15.0, 30.0)
        for hours in (-1.0, 1.0)
        for bad in (False, True)
    ]
    require_invariants(stories, results, 21)
    for told in stories:
        if told.story.state == "promoted":
            assert told.story.oracle.promoted_at - START >= len(told.story.release.steps) * BAKE
        else:
            assert told.seconds <= told.story.release.lease + BOUND
    note(results, 21, stories)


def _jump(seconds: float, story: Story) -> None:
    story.clock.offset += seconds


def test_row_24_dying_canary_has_no_traffic_after_one_poll(tell: Tell, results: Results) -> None:
    story = tell(29)
    story.begin()
    story.guard()
    died = 15.0
    story.at(died, lambda: story.error_rates.update({GREEN: 1.0}), name="operating system")
    story.play()
    told = Told(story, START + died)
    require_invariants([told], results, 24)
    assert story.state == "rolled_back"
    assert told.seconds <= story.release.poll + 1.0
    note(results, 24, [told], f"no canary traffic {told.seconds:.1f} s after its death")


def test_row_25_dying_stable_is_not_blamed_on_the_canary_and_nothing_goes_back_to_it(
    tell: Tell, results: Results
) -> None:
    stories = []
    for died in (4.0, 12.0, 30.0):
        story = tell(29)
        story.begin()
        story.guard()
        story.at(died, partial(story.error_rates.update, {BLUE: 1.0}), name="operating system")
        stories.append(Told(story.play(), START + died))
    abandoned, held = _abandoned_with_a_dead_stable(tell)
    require_invariants([*stories, abandoned], results, 25)
    assert [told.story.reason for told in stories if told.story.state != "promoted"] == []
    said = f"nothing went back to the dead side; one that nobody watched was held for {held:.0f} s, somebody was woken"
    note(results, 25, [*stories, abandoned], f"{said}, and it went back when the stable side lived again")


def _abandoned_with_a_dead_stable(tell: Tell) -> tuple[Told, float]:
    """The stable side dies, then the trigger, for good. (the story, seconds from the lease's end to the rollback)"""
    died, mended = 4.0, 400.0
    story = tell(29, release=shop_release(bake=120.0, early_promotion=False))
    story.begin(recovery=3600.0)
    story.guard()
    story.hub.traps.append(Trap("bake 0", "ledger.store_windows:after", crash, nth=3))
    story.at(died, partial(story.error_rates.update, {BLUE: 1.0}), name="operating system")
    story.at(mended, partial(story.error_rates.update, {BLUE: GOOD_RATE}), name="operating system")
    story.oracle.stable_back = START + mended
    story.play()
    back = [at for at, shares in story.oracle.exposures if shares[GREEN] == 0 and at > START + died]
    assert min(back) > START + mended, "it went back to the dead side"
    assert story.state == "rolled_back"
    assert any("failed" in sentence and "left as it is" in sentence for _, sentence in story.pages)
    (span,) = story.oracle.spans
    return Told(story, START + mended), span.seconds


def test_row_26_no_guardian_or_two_are_no_worse(tell: Tell, results: Results) -> None:
    alone = strike(tell, BAKING, dies(3600.0), leasing=True, guarded=False)
    assert alone.seconds <= alone.story.release.lease + 1.0
    story = tell(29, bad=True)
    story.begin(recovery=900.0)
    story.guard(first=7.0)
    story.guard(first=7.01)
    story.hub.traps.append(Trap("shift 0", "balancer.set_weights:after", crash))
    story.play()
    two = Told(story, START + 2.0)
    require_invariants([alone, two], results, 26)
    assert two.story.state == "rolled_back"
    note(results, 26, [alone, two])


@pytest.mark.parametrize("one", ROWS, ids=lambda one: f"row_{one.number:02d}")
def test_every_row_of_the_matrix_stands_in_its_place(one: Row) -> None:
    assert row(one.number) is one


def test_every_row_has_a_test_that_is_called_after_it() -> None:
    text = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    named = {int(number) for number in re.findall(r"^def test_row_(\d\d)_", text, re.MULTILINE)}
    assert named == {one.number for one in ROWS}


def test_every_crash_moment_of_the_matrix_has_a_crash_point() -> None:
    assert {place.moment for place in POINTS} == {f"T{number}" for number in range(8)}
    assert {one.number for one in ROWS if one.how is How.REAL} == {23}
    assert {one.number for one in ROWS if one.how is How.OWN} == {20, 22, 27, 28}

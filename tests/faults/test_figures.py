"""Figures of the control part that the documentation states, each measured by the test that states it."""

import math
from collections.abc import Callable, Sequence

from faults.actors import Story
from faults.faults import GREEN
from faults.results_file import record_figure
from faults.rows import Results
from faults.simulator import Process, Trap

Tell = Callable[..., Story]
STORIES = 100


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is at least as large as ``share`` of all."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def bad_rollback(tell: Tell, seed: int, at_fail: Callable[[Story, Process], object]) -> tuple[Story, float]:
    """A bad version's story, and the instant when it had failed and nothing was done about it yet."""
    story = tell(seed, bad=True)
    story.begin()
    story.guard()
    failed: list[float] = []

    def note(process: Process) -> None:
        failed.append(story.hub.time)
        at_fail(story, process)

    story.hub.traps += [Trap(f"bake {step}", "ledger.intend_lower:before", note) for step in (0, 1)]
    story.play()
    assert story.oracle.violations == []
    assert story.state == "rolled_back"
    return story, failed[0]


def zero_read_back(story: Story) -> float:
    """When the load balancer was first read back with no traffic on the canary."""
    lowered = [write for write in story.ledger.writes("shop-1") if not write.raises and write.read_back is not None]
    return min(write.read_back_at or math.inf for write in lowered)


def last_canary_request(story: Story) -> float:
    return max(at for at, shares in story.oracle.exposures if shares[GREEN] == 0)


def test_failed_version_has_weight_0_read_back_within_two_seconds(tell: Tell) -> None:
    took = []
    for seed in range(STORIES):
        story, failed = bad_rollback(tell, seed, lambda story, process: None)
        took.append(zero_read_back(story) - failed)
        story.close()
    p50, p99 = percentile(took, 0.5), percentile(took, 0.99)
    record_figure("fail simulated", f"p50 {p50:.2f} s, p99 {p99:.2f} s, {STORIES} rollbacks", held=p99 <= 2.0)
    assert p99 <= 2.0


def test_row_07_with_nine_of_ten_calls_failing_every_rollback_comes_and_p95_within_a_minute(
    tell: Tell, results: Results
) -> None:
    def nine_of_ten_fail(story: Story, _: Process) -> None:
        story.balancer.failing = 0.9

    took, off, woken = [], [], 0
    for seed in range(STORIES):
        story, failed = bad_rollback(tell, seed, nine_of_ten_fail)
        assert story.canary == 0
        took.append(zero_read_back(story) - failed)
        off.append(last_canary_request(story) - failed)
        woken += bool(story.pages)
        story.close()
    said = f"p50 {percentile(took, 0.5):.0f} s, p95 {percentile(took, 0.95):.0f} s, longest {max(took):.0f} s"
    print(f"with 90 % of all calls failing, weight 0 read back after: {said}; {woken} of {len(took)} woke somebody")
    held = max(percentile(took, 0.95), percentile(off, 0.95)) <= 60.0
    record_figure("90 % failing", f"{STORIES} of {STORIES} converged, {said}", held=held)
    assert held
    results.add(7, f"90 % of all calls failing: {STORIES} of {STORIES} rolled back, read back after {said}")

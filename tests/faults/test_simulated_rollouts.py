"""A thousand rollouts, each with one to three random faults; races of starts, aborts and promotions."""

import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from canary_release.control.ending import abort, promote
from canary_release.control.starting import StartRequest, start
from canary_release.core.problems import RefusedError
from canary_release.ledger.store import Ledger
from control.world import World
from faults.actors import Story
from faults.faults import HUNDRED
from faults.results_file import record_figure
from faults.rows import Results
from faults.simulator import Trap
from faults.troubles import random_troubles

ROLLOUTS = 1000
FALSE_ROLLBACKS = 0.01
STARTS = 50
RACES = 1000

Tell = Callable[..., Story]


def play_random(tell: Tell, seed: int) -> tuple[Story, str, bool]:
    """The story of a seed, its faults in words, and whether a good version had to survive them."""
    rng = random.Random(seed)
    story = tell(seed, bad=rng.random() < 0.5)
    story.begin()
    story.guard()
    troubles = random_troubles(rng)
    for trouble in troubles:
        trouble.arm(story)
    story.play()
    words = f"seed {seed}: {'bad' if story.bad else 'good'} version, {'; '.join(one.name for one in troubles)}"
    return story, words, all(trouble.blip for trouble in troubles)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of one core, which may be shared
def test_row_29_a_thousand_rollouts_with_random_faults_keep_every_invariant(tell: Tell, results: Results) -> None:
    began = time.process_time()
    broken: list[str] = []
    false: list[str] = []
    states: Counter[str] = Counter()
    survivors, longest = 0, 0.0
    for seed in range(ROLLOUTS):
        story, words, blips = play_random(tell, seed)
        states[f"{'bad' if story.bad else 'good'} {story.state}"] += 1
        broken += [f"{words}: {violation}" for violation in story.oracle.violations]
        longest = max([longest, *(span.seconds for span in story.oracle.spans)])
        if blips and not story.bad and story.state != "none":
            survivors += 1
            if story.state != "promoted":
                false.append(f"{words}: {story.reason}")
        story.close()
    print(f"{dict(states)}, {time.process_time() - began:.0f} s of one core, false rollbacks {len(false)}/{survivors}")
    share = f"{len(false)} of {survivors} good versions rolled back for a blip"
    counted = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(states.items()))
    results.record(29, f"{counted}; {len(broken)} violations; {share}", longest)
    record_figure("soak", f"{ROLLOUTS:,} rollouts, {len(broken)} violations", held=not broken)
    few = len(false) <= FALSE_ROLLBACKS * survivors
    record_figure("false rollbacks", f"{len(false)} of {survivors}", held=few)
    assert states["bad promoted"] == 0, "\n".join(broken)
    assert not broken, "\n".join(broken)
    assert few, "\n".join(false)


def test_row_17_fifty_starts_at_once_give_one_rollout_and_forty_nine_refusals(tmp_path: Path, results: Results) -> None:
    world = World(tmp_path)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    gate = threading.Barrier(STARTS)
    outcomes: list[str | BaseException] = []

    def begin(number: int) -> None:
        ledger = Ledger.open(url)
        desk = world.new_desk()
        desk.ledger = ledger
        request = StartRequest(world.release, "shop.yaml", f"v{number}", "release_shop", f"run-{number}", "ada")
        gate.wait()
        try:
            outcomes.append(start(desk, request).rollout.id)
        except BaseException as error:  # noqa: BLE001  whatever it is must be seen by the test
            outcomes.append(error)
        finally:
            ledger.close()

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(STARTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if isinstance(outcome, str)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, RefusedError)]
    assert len(winners) == 1, outcomes
    assert len(refused) == STARTS - 1, [outcome for outcome in outcomes if not isinstance(outcome, RefusedError)]
    assert all("shop is busy: shop-1" in str(error) for error in refused)
    assert world.balancer.weights == world.balancer.writes[0], "nothing but the winner's trial of the way back"
    said = f"1 begun, {len(refused)} refused with who holds the service"
    results.record(17, said)
    record_figure("50 starts", said, held=True)


class Decided:
    """A rollout whose last step was decided to promote, kept to start many races from."""

    def __init__(self, tell: Tell, folder: Path) -> None:
        story = tell(1)
        story.begin()
        trap = Trap("promote", "ledger.rollout_of_run:before", lambda process: None)
        story.hub.traps.append(trap)
        story.hub.run(story.hub.time + 600.0, finished=lambda: trap.sprung)
        assert trap.sprung
        assert story.canary == HUNDRED
        self.time, self.path = story.hub.time, folder / "decided.db"
        self.shares, self.exposures = story.balancer.shares, list(story.oracle.exposures)
        with sqlite3.connect(story.database) as source, sqlite3.connect(self.path) as target:
            source.backup(target)

    def again(self, tell: Tell, seed: int) -> Story:
        story = tell(seed, ledger_from=self.path)
        story.hub.time = self.time
        story.balancer.shares, story.oracle.exposures = self.shares, list(self.exposures)
        return story


def race(story: Story) -> tuple[str, str]:
    """(final state, who was first): a promotion and an abort at about the same time."""
    rng = story.hub.rng
    rollout = story.ledger.active("shop")
    assert rollout is not None

    def promoting() -> None:
        try:
            promote(story.desk(), story.ledger.rollout(rollout.id), actor="task")
        except RefusedError:
            return

    story.hub.slack = 0.05
    story.hub.spawn("promote", promoting, at=story.hub.time + rng.uniform(0.0, 0.3))
    story.hub.spawn("abort", lambda: abort(story.desk(), "shop", "", actor="grace"), at=story.hub.time + 0.15)
    story.hub.run(story.hub.time + 120.0)
    story.oracle.finish()
    trail = story.ledger.audit_trail(rollout_id=rollout.id)
    first = next(entry.event for entry in trail if entry.event == "promoting" or entry.event == "intends_lower")
    return story.state, first


def test_row_18_abort_wins_a_thousand_races_unless_the_promotion_was_committed_before(
    tell: Tell, fast_folder: Path, results: Results
) -> None:
    decided = Decided(tell, fast_folder)
    seen: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    for seed in range(RACES):
        story = decided.again(tell, seed)
        state, first = race(story)
        seen[state, first] += 1
        wrong += [f"seed {seed}: {violation}" for violation in story.oracle.violations]
        if (state, first) not in {("promoted", "promoting"), ("rolled_back", "intends_lower")}:
            wrong.append(f"seed {seed}: {first} came first, and it was {state}")
        if story.canary != (HUNDRED if state == "promoted" else 0):
            wrong.append(f"seed {seed}: {state}, and the canary has {story.canary} %")
        story.close()
    words = f"{seen['rolled_back', 'intends_lower']} aborts and {seen['promoted', 'promoting']} promotions were first"
    results.add(18, f"{RACES:,} races: {words}, {len(wrong)} ended otherwise")
    record_figure("races", f"{words}; {len(wrong)} ended otherwise", held=not wrong)
    assert wrong == [], "\n".join(wrong)
    assert len(seen) == 2, f"both must win somewhere, or there was no race: {seen}"

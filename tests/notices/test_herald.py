"""Who is told, how often, and that a channel that is broken, slow or refusing changes nothing in a rollout."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from canary_release.control.ending import abort, promote
from canary_release.control.guardian import Guardian
from canary_release.control.notices import Notices
from canary_release.control.stepping import observe, shift
from canary_release.core.notice import Notice
from canary_release.core.notice_events import EVENTS
from canary_release.core.problems import LoadBalancerError
from canary_release.core.release import Channel
from canary_release.core.values import Decision
from canary_release.hooks.notice_channels import send
from canary_release.ledger.notice_log import PAUSES, told_of
from canary_release.ledger.records import State
from control.world import BLUE, GREEN, World, a_release
from notices.conftest import Connect
from notices.receivers import HttpReceiver

ALL = frozenset(EVENTS)
CHAT = Channel("webhook", "told", "", ALL)


@dataclass
class Recorder:
    """Takes notices instead of a server; raises or waits as told."""

    got: list[Notice] = field(default_factory=list)
    error: Exception | None = None
    hold: threading.Event | None = None
    asked: threading.Event = field(default_factory=threading.Event)

    def __call__(self, channel: Channel, notice: Notice) -> None:
        self.asked.set()
        if self.hold is not None:
            self.hold.wait(30)
        if self.error is not None:
            raise self.error
        self.got.append(notice)

    @property
    def events(self) -> list[str]:
        return [notice.event for notice in self.got]


def a_world(folder: Path, recorder: Callable[[Channel, Notice], None], *channels: Channel) -> World:
    world = World(folder, a_release(5, 100, notify=channels or (CHAT,)))
    world.desk.herald = Notices(world.desk, send=recorder)
    return world


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def world(tmp_path: Path, recorder: Recorder) -> World:
    return a_world(tmp_path, recorder)


def until_decided(world: World, rollout_id: str, index: int) -> Decision:
    for _ in range(120):
        world.clock.sleep(1)
        seen = observe(world.desk, rollout_id, index, actor="watcher")
        if seen.decision is not Decision.HOLD:
            return seen.decision
    raise AssertionError("it was never decided")


def whole_rollout(world: World) -> State:
    rollout = world.start().rollout
    for index in range(2):
        shift(world.desk, rollout, index, actor="task")
        if until_decided(world, rollout.id, index) is Decision.ROLL_BACK:
            return abort(world.desk, "shop", "", actor="task").rollout.state
    return promote(world.desk, world.ledger.rollout(rollout.id), actor="task").rollout.state


def settled(world: World) -> None:
    assert world.desk.herald is not None
    world.desk.herald.wait(10)


def test_good_release_is_told_from_start_to_promotion(world: World, recorder: Recorder) -> None:
    assert whole_rollout(world) is State.PROMOTED
    settled(world)
    assert sorted(recorder.events) == ["promoted", "started", "step", "step"]


def test_rollback_is_told_once_with_its_cause_however_many_end_it(world: World, recorder: Recorder) -> None:
    world.metrics.error_rate[GREEN] = 0.3
    assert whole_rollout(world) is State.ROLLED_BACK
    settled(world)
    assert recorder.events == ["started", "rolled_back"]
    notice = recorder.got[-1]
    assert notice.headline == "shop v2 ROLLED BACK at 5 %"
    assert notice.cause.startswith("error rate 30.0 % vs 0.2")
    assert any("requests hurt" in figure for figure in notice.figures)


def test_rollback_is_told_after_the_weight_is_0(tmp_path: Path) -> None:
    weights = []
    world = a_world(tmp_path, lambda _, notice: weights.append((notice.event, world.canary_percent)))
    world.metrics.error_rate[GREEN] = 0.3
    whole_rollout(world)
    settled(world)
    assert [weight for event, weight in weights if event == "rolled_back"] == [0]


def test_abort_by_a_person_is_told_with_the_persons_words(world: World, recorder: Recorder) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    abort(world.desk, "shop", "customers call", actor="grace")
    settled(world)
    assert recorder.events == ["started", "failed"]
    assert recorder.got[-1].cause == "aborted by grace: customers call"


def test_start_that_fails_before_the_first_user_is_told(world: World, recorder: Recorder) -> None:
    world.balancer.fault = lambda _: (_ for _ in ()).throw(LoadBalancerError("may not write"))
    with pytest.raises(LoadBalancerError):
        world.start()
    settled(world)
    assert recorder.got[-1].sentence == (
        "shop v2 TAKEN BACK before the first user: refused before the first user: may not write"
    )


def test_guardian_that_acts_is_told_to_whoever_hears_of_failures(tmp_path: Path, recorder: Recorder) -> None:
    channels = [Channel("webhook", name, "", frozenset({event})) for name, event in (("a", "failed"), ("b", "step"))]
    world = a_world(tmp_path, recorder, *channels)
    shift(world.desk, world.start().rollout, 0, actor="task")
    world.clock.sleep(60)
    Guardian(lambda: world.desk, name="test").tick()
    settled(world)
    assert recorder.events == ["guardian"]
    assert recorder.got[0].headline == "shop v2 TAKEN BACK BY THE GUARDIAN at 5 %"


def test_rollback_that_does_not_get_through_pages_once_in_five_minutes(world: World, recorder: Recorder) -> None:
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    began = world.clock.now()

    def stuck(weights: object) -> bool:
        if world.clock.now() - began < 400:
            raise LoadBalancerError("does not answer")
        return True

    world.balancer.fault = stuck
    abort(world.desk, "shop", "", actor="grace")
    settled(world)
    assert world.canary_percent == 0
    pages = [notice for notice in recorder.got if notice.event == "page"]
    assert 1 <= len(pages) <= 2
    assert f"NOT back on {BLUE}" in pages[0].cause


def test_dry_run_tells_nobody(world: World, recorder: Recorder) -> None:
    world.start(dry_run=True)
    settled(world)
    assert recorder.got == []


def test_two_processes_that_tell_the_same_tell_it_once(world: World, recorder: Recorder) -> None:
    rollout = world.start().rollout
    heralds = [Notices(world.new_desk(), send=recorder) for _ in range(8)]
    threads = [threading.Thread(target=herald.tell, args=("promoted", rollout)) for herald in heralds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for herald in heralds:
        herald.wait(10)
    assert recorder.events.count("promoted") == 1


def test_notice_that_failed_is_kept_and_tried_again_a_bounded_number_of_times(world: World, recorder: Recorder) -> None:
    recorder.error = RuntimeError("secret words of a library")
    rollout = world.start().rollout
    settled(world)
    assert world.desk.herald is not None
    for _ in range(200):
        world.clock.sleep(30)
        world.desk.herald.retry()
        settled(world)
    (kept,) = told_of(world.ledger, rollout.id)
    assert (kept.attempts, kept.sent_at, kept.error) == (len(PAUSES), None, "RuntimeError")


def test_notice_is_sent_at_the_next_chance_once_its_channel_is_back(world: World, recorder: Recorder) -> None:
    recorder.error = RuntimeError("down")
    rollout = world.start().rollout
    settled(world)
    recorder.error = None
    world.clock.sleep(PAUSES[1])
    Guardian(lambda: world.desk, name="test").tick()
    settled(world)
    (kept,) = told_of(world.ledger, rollout.id)
    assert recorder.events == ["started"]
    assert (kept.attempts, kept.error) == (2, "")
    assert kept.sent_at is not None


@pytest.mark.parametrize("trouble", ["broken", "slow"])
def test_channel_in_trouble_changes_no_decision_and_no_traffic(tmp_path: Path, trouble: str) -> None:
    hold = threading.Event() if trouble == "slow" else None
    recorder = Recorder(error=RuntimeError("broken"), hold=hold)
    world = a_world(tmp_path, recorder)
    world.metrics.error_rate[GREEN] = 0.3
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    began = time.monotonic()
    assert until_decided(world, rollout.id, 0) is Decision.ROLL_BACK
    took = time.monotonic() - began
    if hold is not None:
        hold.set()
    assert world.canary_percent == 0
    assert took < 4.0, "a watcher waits for no channel"


def test_refusing_server_leaves_the_rollout_alone_and_its_words_in_the_ledger(
    tmp_path: Path, web: HttpReceiver, connect: Connect
) -> None:
    web.status, web.answer = 403, b"not you"
    connect("told", conn_type="http", host="127.0.0.1", port=web.port, password="hunter2-secret")
    world = a_world(tmp_path, send)
    assert whole_rollout(world) is State.PROMOTED
    settled(world)
    kept = told_of(world.ledger, world.ledger.history("shop")[0].id)
    assert len(kept) == 4
    assert {one.sent_at for one in kept} == {None}
    assert all("answered 403: not you" in one.error for one in kept)


def test_ledger_that_is_away_lets_an_urgent_notice_through(world: World, recorder: Recorder) -> None:
    rollout = world.start().rollout
    settled(world)
    world.ledger.close()
    for file in Path(str(world.ledger._engine.url.database)).parent.glob("ledger.db*"):
        file.unlink()
    assert world.desk.herald is not None
    world.desk.herald.tell("failed", rollout, why="the ledger is away")
    settled(world)
    assert recorder.events == ["started", "failed"]

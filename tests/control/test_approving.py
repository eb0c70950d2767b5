"""Approvals: who may give one, what it opens, and that nothing but the ledger's answer opens it."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from canary_release.control.approving import put, step_to_approve, take_answer, take_silence
from canary_release.control.ending import roll_back, settle
from canary_release.control.stepping import shift
from canary_release.control.waiting import Waiting
from canary_release.core.problems import RefusedError
from canary_release.core.release import Approval, Step
from canary_release.core.values import Weights
from canary_release.ledger.approvals import Answer, NotEntitledError, Person, Question, question_of
from canary_release.ledger.records import Rollout, State
from control.test_rollout import bake
from control.world import BLUE, GREEN, World, a_release

GRACE, ADA, EVE = Person("grace", "grace"), Person("ada", "ada"), Person("eve", "eve")


def a_world(folder: Path, **approval: object) -> World:
    needs = Approval(by=("grace", "ada"), timeout=600.0, **approval)  # type: ignore[arg-type]
    steps = (Step(Decimal(5), 8.0), needs, Step(Decimal(100), 8.0))
    return World(folder, a_release(5, 100, steps=steps))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return a_world(tmp_path)


def at_the_question(world: World, version: str = "v2") -> Rollout:
    """A rollout whose first step has passed, and whose second needs an approval; started by ada."""
    rollout = world.start(version).rollout
    shift(world.desk, rollout, 0, actor="task")
    bake(world, rollout.id, 0)
    return world.ledger.rollout(rollout.id)


def asked(world: World, rollout: Rollout) -> str:
    question = put(world.desk, rollout, 1, approvers=("grace", "ada"), task_instance="ti-1", actor="task")
    return question.body


def say(world: World, rollout: Rollout, said: Answer, by: Person = GRACE, comment: str = "") -> Question:
    return take_answer(world.desk, rollout, 1, said, by, comment)


def test_step_without_an_approval_is_refused_and_the_canary_stays(world: World) -> None:
    rollout = at_the_question(world)
    with pytest.raises(RefusedError, match="step 2 needs an approval by grace, ada; nobody was asked"):
        shift(world.desk, rollout, 1, actor="forged")
    asked(world, rollout)
    with pytest.raises(RefusedError, match="the answer is not there yet"):
        shift(world.desk, rollout, 1, actor="marked as success")
    assert world.canary_percent == 5


def test_approved_step_is_raised_and_the_answer_is_in_the_audit_trail(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    question = say(world, rollout, Answer.APPROVE, comment="looks fine")
    assert (question.answer, question.answered_by, question.comment) == (Answer.APPROVE, "grace", "looks fine")
    shift(world.desk, rollout, 1, actor="task")
    assert world.canary_percent == 100
    events = [(entry.event, entry.actor) for entry in world.ledger.audit_trail(rollout_id=rollout.id)]
    assert ("answered", "grace") in events
    assert world.ledger.verify_audit()[1] == []


def test_rejection_takes_the_canary_off_at_once_and_bars_the_step(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    assert say(world, rollout, Answer.REJECT, comment="not today").told == "rejected by grace: not today"
    assert world.canary_percent == 0
    with pytest.raises(RefusedError, match="somebody else moved the weights"):
        shift(world.desk, rollout, 1, actor="task")
    ended = settle(world.desk, rollout, actor="task")
    assert ended is not None
    assert "rejected by grace: not today" in ended.rollout.outcome_reason


def test_first_answer_stands_whatever_is_said_later(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    say(world, rollout, Answer.APPROVE)
    assert say(world, rollout, Answer.REJECT, by=ADA).answer is Answer.APPROVE
    assert world.canary_percent == 5
    assert take_silence(world.desk, rollout, 1, actor="task").answer is Answer.APPROVE


def test_approval_by_somebody_who_may_not_is_not_counted_and_kept_in_the_audit_trail(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    with pytest.raises(NotEntitledError, match="eve may not answer for step 2 of shop-1; it may be answered by: grace"):
        say(world, rollout, Answer.APPROVE, by=EVE)
    question = question_of(world.ledger, rollout.id, 1)
    assert question is not None
    assert question.answer is None
    assert world.ledger.audit_trail(rollout_id=rollout.id)[-1].event == "answer_refused"
    say(world, rollout, Answer.APPROVE)


def test_anybody_who_is_asked_may_reject(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    assert say(world, rollout, Answer.REJECT, by=EVE).answer is Answer.REJECT
    assert world.canary_percent == 0


def test_who_started_it_may_not_approve_it_where_the_file_says_so(tmp_path: Path) -> None:
    world = a_world(tmp_path, not_by_starter=True)
    rollout = at_the_question(world)
    asked(world, rollout)
    with pytest.raises(NotEntitledError, match="ada started shop-1, so somebody else must approve"):
        say(world, rollout, Answer.APPROVE, by=Person("7", "ada"))
    say(world, rollout, Answer.APPROVE)
    shift(world.desk, rollout, 1, actor="task")


def test_starters_approval_that_was_written_around_the_rules_opens_nothing(tmp_path: Path) -> None:
    world = a_world(tmp_path, not_by_starter=True)
    rollout = at_the_question(world)
    asked(world, rollout)
    with world.ledger._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE approvals SET answer = 'approve', answered_by = 'ada'")
    with pytest.raises(RefusedError, match="but not by ada, who started it"):
        shift(world.desk, rollout, 1, actor="task")


def test_nobody_answers_in_time_and_the_canary_goes(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    assert take_silence(world.desk, rollout, 1, actor="task").answer is Answer.TIMEOUT
    assert world.canary_percent == 0


def test_silence_on_hold_keeps_the_weight_and_the_question(tmp_path: Path) -> None:
    world = a_world(tmp_path, on_timeout="hold")
    rollout = at_the_question(world)
    first = put(world.desk, rollout, 1, approvers=("grace",), task_instance="ti-1", actor="task")
    world.clock.sleep(601)
    assert take_silence(world.desk, rollout, 1, actor="task").answer is None
    again = put(world.desk, rollout, 1, approvers=("grace",), task_instance="ti-2", actor="task")
    assert (first.late, again.late, world.canary_percent) == (False, True, 5)
    assert again.wait == rollout.deadline - world.clock.now()
    say(world, rollout, Answer.APPROVE)


def test_asking_again_moves_no_deadline(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    world.clock.sleep(100)
    again = put(world.desk, rollout, 1, approvers=("eve",), task_instance="ti-2", actor="task (try 2)")
    assert again.wait == 500
    assert (again.question.approvers, again.question.task_instance) == (("grace", "ada"), "ti-2")


def test_approval_comes_too_late_when_the_canary_is_off(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    roll_back(world.desk, rollout, "smells", actor="grace")
    with pytest.raises(RefusedError, match="too late: shop-1 is rolled_back"):
        say(world, rollout, Answer.APPROVE)
    with pytest.raises(RefusedError):
        shift(world.desk, rollout, 1, actor="task")
    assert world.canary_percent == 0


def test_canary_that_turns_bad_while_the_approval_waits_is_taken_off(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    waiting = Waiting(world.desk, rollout.id, actor="wait")
    for _ in range(10):
        world.clock.sleep(1)
        assert waiting.look() is None
    world.metrics.error_rate[GREEN] = 0.3
    over = None
    for _ in range(15):
        world.clock.sleep(1)
        over = over or waiting.look()
    assert over is not None
    assert "error_rate" in over
    assert (world.canary_percent, world.ledger.rollout(rollout.id).state) == (0, State.ROLLING_BACK)


def test_watched_canary_lives_as_long_as_the_approval_waits_and_may_be_raised_then(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    waiting = Waiting(world.desk, rollout.id, actor="wait")
    for _ in range(60):
        world.clock.sleep(1)
        assert waiting.look() is None
    say(world, rollout, Answer.APPROVE)
    shift(world.desk, world.ledger.rollout(rollout.id), 1, actor="task")
    assert world.canary_percent == 100


def test_blind_watcher_of_a_waiting_canary_takes_it_off(world: World) -> None:
    world.release = replace(world.release, max_blind=15.0)
    rollout = at_the_question(world)
    world.metrics.down = True
    waiting = Waiting(world.desk, rollout.id, actor="wait")
    over = None
    for _ in range(20):
        world.clock.sleep(1)
        over = over or waiting.look()
    assert over is not None
    assert "blind" in over
    assert world.canary_percent == 0


def test_waiting_before_the_first_weight_keeps_the_service(tmp_path: Path) -> None:
    world = a_world(tmp_path)
    rollout = world.start(steps="100").rollout
    assert step_to_approve(rollout, "100") == 0
    waiting = Waiting(world.desk, rollout.id, actor="wait")
    for _ in range(20):
        world.clock.sleep(59)
        assert waiting.look() is None
    lease = world.ledger.rollout(rollout.id).lease_until
    assert lease is not None
    assert lease > world.clock.now()


def test_question_shows_the_evidence_and_what_follows_from_each_answer(world: World) -> None:
    rollout = at_the_question(world)
    shown = put(world.desk, rollout, 1, approvers=("grace",), task_instance="ti", actor="task")
    assert shown.subject == "shop v2: 5 % → 100 %?"
    assert "| error\\_rate | UNDECIDED |" in shown.body
    assert "**Approve**: the canary gets 100 %" in shown.body
    assert "**Reject**: all traffic goes back to shop-blue at once" in shown.body
    assert "May be approved by: grace." in shown.body


def test_reason_of_the_release_is_shown_as_text_and_never_as_markup(world: World) -> None:
    rollout = world.start(reason="![x](http://127.0.0.1/x) <b>`|").rollout
    shift(world.desk, rollout, 0, actor="task")
    bake(world, rollout.id, 0)
    body = asked(world, world.ledger.rollout(rollout.id))
    assert "\\!\\[x\\]\\(http://127.0.0.1/x\\) \\<b\\>\\`\\|" in body


def test_left_out_weight_leaves_its_approval_before_the_next_one(tmp_path: Path) -> None:
    needs = Approval(by=("grace",), timeout=60.0)
    steps = (Step(Decimal(5), 8.0), needs, Step(Decimal(25), 8.0), Step(Decimal(100), 8.0))
    rollout = World(tmp_path, a_release(5, 25, 100, steps=steps)).start(steps="5,100").rollout
    assert step_to_approve(rollout, "25") == 1
    assert step_to_approve(rollout, "5") is None


def test_rejection_in_the_middle_of_a_look_is_nobody_elses_change(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    pages: list[str] = []
    world.desk.page = lambda service, sentence: pages.append(sentence)
    read = world.metrics.read

    def rejected_meanwhile(cursor: Any) -> Any:
        seen = read(cursor)
        take_answer(world.new_desk(), rollout, 1, Answer.REJECT, GRACE, "no")
        return seen

    world.metrics.read = rejected_meanwhile  # type: ignore[method-assign]
    world.clock.sleep(1)
    Waiting(world.desk, rollout.id, actor="wait").look()
    assert (pages, world.canary_percent) == ([], 0)


def test_somebody_elses_change_while_the_approval_waits_pages_once_and_not_at_every_look(world: World) -> None:
    rollout = at_the_question(world)
    asked(world, rollout)
    pages: list[str] = []
    world.desk.page = lambda service, sentence: pages.append(sentence)
    world.balancer.weights = Weights({BLUE: Decimal(50), GREEN: Decimal(50)})
    waiting = Waiting(world.desk, rollout.id, actor="wait")
    for _ in range(10):
        world.clock.sleep(1)
        waiting.look()
    assert len(pages) == 1

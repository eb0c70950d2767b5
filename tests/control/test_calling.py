"""Calls around a rollout: made once, found again by their names, and what follows when they fail."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from canary_release.control.calling import (
    CallFailedError,
    Calling,
    begin,
    calling,
    failed,
    filled,
    next_attempt,
    request,
    succeeded,
)
from canary_release.control.stepping import shift
from canary_release.core.problems import RefusedError
from canary_release.core.release import Hook, HttpCall, Moment
from canary_release.ledger.hook_calls import CallState, Place
from canary_release.ledger.records import Rollout, State
from control.world import World, a_release

DEPLOY = Hook(dag="deploy_shop", conf={"version": "{version}", "side": "{canary}", "note": "100% {sure}"}, retries=1)
WARM = Hook(http=HttpCall("warmer", "POST", "/warm", {"service": "{service}", "weight": "{weight}"}), retries=2)
BEFORE, STEP = Place(Moment.BEFORE, -1, 0), Place(Moment.BEFORE_STEP, 1, 0)


def a_world(folder: Path, **hooks: Hook) -> World:
    by_moment = {Moment(moment): (hook,) for moment, hook in hooks.items()}
    return World(folder, a_release(5, 100, bake=8.0, hooks=by_moment))


def made(world: World, place: Place, rollout: Rollout | None = None) -> Calling:
    found = calling(world.desk, rollout or world.start().rollout, place)
    assert found is not None
    return found


def test_placeholders_are_replaced_as_whole_values_and_nothing_is_a_template(tmp_path: Path) -> None:
    data = made(a_world(tmp_path, before=DEPLOY), BEFORE).data
    assert data == {"version": "v2", "side": "shop-green", "note": "100% {sure}"}
    assert filled({"a": ["{x}", {"b": "{x}{x}"}, 1, None]}, {"x": "y"}) == {"a": ["y", {"b": "{x}{x}"}, 1, None]}


def test_same_call_always_has_the_same_name(tmp_path: Path) -> None:
    world = a_world(tmp_path, before=DEPLOY, before_step=WARM)
    rollout = world.start().rollout
    assert made(world, BEFORE, rollout).name(1) == "shop-1-before-1"
    assert made(world, BEFORE, rollout).name(2) == "shop-1-before-1-try2"
    assert made(world, STEP, rollout).name(1) == "shop-1-before_step-2-1"


def test_run_that_exists_is_waited_for_and_not_repeated(tmp_path: Path) -> None:
    made_call = made(a_world(tmp_path, before=DEPLOY), BEFORE)
    runs = {"shop-1-before-1": "running"}
    assert next_attempt(made_call, lambda dag, run: runs.get(run)) == (1, "running")
    assert next_attempt(made_call, lambda dag, run: None) == (1, None)


def test_failed_run_is_followed_by_another_as_often_as_the_file_allows(tmp_path: Path) -> None:
    made_call = made(a_world(tmp_path, before=DEPLOY), BEFORE)
    runs = {"shop-1-before-1": "failed"}
    assert next_attempt(made_call, lambda dag, run: runs.get(run)) == (2, None)
    runs["shop-1-before-1-try2"] = "failed"
    with pytest.raises(CallFailedError, match="shop-1-before-1-try2 of deploy_shop failed"):
        next_attempt(made_call, lambda dag, run: runs.get(run))


def test_run_that_is_late_is_a_failure_and_is_not_run_beside_another(tmp_path: Path) -> None:
    made_call = made(a_world(tmp_path, before=DEPLOY), BEFORE)
    with pytest.raises(CallFailedError, match="did not end within 10m"):
        next_attempt(made_call, lambda dag, run: "running", timed_out=True)
    assert next_attempt(made_call, lambda dag, run: "success", timed_out=True) == (1, "success")


def test_call_that_succeeded_stays_a_success_whatever_is_said_later(tmp_path: Path) -> None:
    world = a_world(tmp_path, before=DEPLOY)
    made_call = made(world, BEFORE)
    assert begin(world.desk, made_call, actor="task").state is CallState.RUNNING
    succeeded(world.desk, made_call, "run shop-1-before-1 succeeded", actor="task")
    with pytest.raises(CallFailedError):
        failed(world.desk, made_call, "cleared and failed", actor="task")
    again = begin(world.desk, made_call, actor="task (try 2)")
    assert (again.state, again.detail) == (CallState.SUCCESS, "run shop-1-before-1 succeeded")
    events = [entry.event for entry in world.ledger.audit_trail()]
    assert (events.count("calls"), events.count("called")) == (1, 1)


def test_failed_call_before_a_step_takes_the_canary_off(tmp_path: Path) -> None:
    world = a_world(tmp_path, before_step=DEPLOY)
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    made_call = made(world, STEP, world.ledger.rollout(rollout.id))
    begin(world.desk, made_call, actor="task")
    with pytest.raises(CallFailedError, match="before_step: DAG deploy_shop failed: no such DAG"):
        failed(world.desk, made_call, "no such DAG", actor="task")
    assert (world.canary_percent, world.ledger.rollout(rollout.id).state) == (0, State.ROLLING_BACK)
    with pytest.raises(RefusedError, match="nothing is called before its traffic any more"):
        calling(world.desk, world.ledger.rollout(rollout.id), STEP)


def test_failed_call_that_may_fail_changes_nothing_but_its_record(tmp_path: Path) -> None:
    world = a_world(tmp_path, before=Hook(dag="tell_somebody", rolls_back=False))
    rollout = world.start().rollout
    made_call = made(world, BEFORE, rollout)
    begin(world.desk, made_call, actor="task")
    failed(world.desk, made_call, "no such DAG", actor="task")
    assert world.ledger.rollout(rollout.id).state is State.RUNNING
    assert begin(world.desk, made_call, actor="task").state is CallState.FAILED


def test_calls_of_the_end_belong_to_the_end_that_came(tmp_path: Path) -> None:
    world = a_world(tmp_path, after=DEPLOY, on_rollback=DEPLOY)
    rollout = world.start().rollout
    after, on_rollback = Place(Moment.AFTER, -1, 0), Place(Moment.ON_ROLLBACK, -1, 0)
    assert calling(world.desk, rollout, after) is None
    ended = world.ledger.end(rollout, State.ROLLED_BACK, reason="x", actor="task", at=0.0)
    assert calling(world.desk, ended, after) is None
    assert calling(world.desk, ended, on_rollback) is not None


class Warmer(BaseHTTPRequestHandler):
    """Answers with the next of ``answers``, and remembers what it was asked."""

    answers: ClassVar[list[int]]
    asked: ClassVar[list[dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers["Idempotency-Key"], "body": body})
        status = self.answers.pop(0)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def warmer(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Warmer]]:
    class Handler(Warmer):
        answers: ClassVar[list[int]] = []
        asked: ClassVar[list[dict[str, Any]]] = []

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setenv("AIRFLOW_CONN_WARMER", f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Handler
        server.shutdown()
        thread.join()


def test_request_is_sent_again_with_the_same_idempotency_key(tmp_path: Path, warmer: type[Warmer]) -> None:
    world = a_world(tmp_path, before_step=WARM)
    warmer.answers += [500, 503, 204]
    said = request(world.desk, made(world, STEP))
    assert said.endswith("/warm answered 204")
    assert [asked["key"] for asked in warmer.asked] == ["shop-1-before_step-2-1"] * 3
    assert warmer.asked[0]["body"] == {"service": "shop", "weight": "100"}


def test_request_that_fails_every_time_is_a_failed_call(tmp_path: Path, warmer: type[Warmer]) -> None:
    world = a_world(tmp_path, before_step=WARM)
    warmer.answers += [500, 500, 500]
    with pytest.raises(CallFailedError, match="/warm answered 500"):
        request(world.desk, made(world, STEP))


def test_request_follows_no_redirect(tmp_path: Path, warmer: type[Warmer]) -> None:
    world = a_world(tmp_path, before_step=WARM)
    warmer.answers += [302, 302, 302]
    with pytest.raises(CallFailedError, match="answered 302"):
        request(world.desk, made(world, STEP))
    assert len(warmer.asked) == 3

"""What a person does by hand with a real release in a real browser: start it with Airflow's own form, and reject it."""

import time
from collections.abc import Callable, Mapping

import pytest

from browser.conftest import Look, Site
from canary_release.control.desk import plan_of
from canary_release.core.values import plain
from canary_release.ledger.approvals import Answer, question_of
from canary_release.ledger.records import State
from demo.airflow_api import Run, TaskInstance
from demo.airflow_settings import USER
from end_to_end.rehearsed_releases import Rehearsal

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
PATIENCE = 90.0  # seconds
# Airflow may fail a task that resumes sooner after it began to wait; that is another story.
RESTED = 8.0
OpenTab = Callable[..., Look]


@pytest.fixture(scope="module", autouse=True)
def till(site: Site) -> Rehearsal:
    """A release at its question; a weight before it would bake for long. It rests while the other story is told."""
    site.refill(lambda states: None)
    api, till = site.airflow.api, site.released["till"]
    api.trigger(till.dag_id, till.run_id, conf={"version": "v2", "steps": "100"})
    api.wait_until(till.dag_id, till.run_id, reached("approve_100", "awaiting_input"), PATIENCE, "ask")
    return till


def reached(task: str, state: str) -> Callable[[Run, Mapping[str, TaskInstance]], bool]:
    def so(run: Run, tasks: Mapping[str, TaskInstance]) -> bool:
        assert not run.over, {name: each.state for name, each in tasks.items()}
        return tasks[task].state == state

    return so


def test_airflows_own_form_shows_our_fields_and_starts_the_release(site: Site, look: OpenTab) -> None:
    api, kiosk = site.airflow.api, site.released["kiosk"]
    declared = api.call("GET", f"/api/v2/dags/{kiosk.dag_id}/details")["params"]
    assert set(declared) == {"version", "profile", "dry_run", "reason", "steps", "override"}
    tab = look()
    tab.go(f"/dags/{kiosk.dag_id}", "[data-testid=trigger-dag-button]")
    tab.page.click("[data-testid=trigger-dag-button]")
    form, send = tab.page.get_by_test_id("config-form"), tab.page.get_by_test_id("trigger-dag-submit")
    for name, param in declared.items():
        row = form.locator(".chakra-field__root", has=tab.page.locator(f"[name=element_{name}]"))
        row.wait_for(timeout=20_000)
        assert row.locator("label").first.inner_text().rstrip(" *\n") == param["schema"]["title"]
        assert (param["description"] or "") in row.inner_text()
    assert "standard: 10/100 %" in form.inner_text(), "the profile says its weights"
    assert send.is_disabled(), "a release without a version cannot be sent"
    given = {"version": "v2.4.1", "steps": "100", "reason": "CHK-812: new tax rules"}
    for name, value in given.items():
        form.locator(f"[name=element_{name}]").fill(value)
    send.click()
    tab.page.wait_for_url("**/runs/**", timeout=20_000)
    (run,) = api.runs(kiosk.dag_id)
    assert run.conf == {**given, "profile": "standard", "dry_run": False, "override": None}
    api.wait_until(kiosk.dag_id, run.run_id, reached("start", "success"), PATIENCE, "start")
    (rollout,) = site.ledger.history("kiosk")
    assert (rollout.version, rollout.reason, rollout.started_by) == (given["version"], given["reason"], USER)
    assert [plain(step.weight) for step in plan_of(rollout).weight_steps] == ["100"]
    assert tab.troubles == []


def test_rejection_on_the_rollouts_page_ends_the_release_before_its_first_weight(
    site: Site, look: OpenTab, till: Rehearsal
) -> None:
    api = site.airflow.api
    (rollout,) = site.ledger.history("till")
    asked = question_of(site.ledger, rollout.id, 0)
    assert asked is not None
    tab = look()
    tab.go(f"/plugin/rollouts?rollout={rollout.id}", "text=till v2: 0 % → 100 %?")
    tab.page.fill("label:has-text('Comment') input", "not on a Friday")
    time.sleep(max(asked.asked_at + RESTED - time.time(), 0))
    tab.page.click("button:text-is('Reject')")
    assert question_of(site.ledger, rollout.id, 0) == asked, "the first click only asks"
    tab.page.click("button:text-is('Reject now')")
    assert api.wait_until_ended(till.dag_id, till.run_id, PATIENCE).state == "failed"
    ended, answered = site.ledger.rollout(rollout.id), question_of(site.ledger, rollout.id, 0)
    assert answered is not None
    assert (answered.answer, answered.answered_by, answered.comment) == (Answer.REJECT, USER, "not on a Friday")
    assert (ended.state, till.canary_percent) == (State.ROLLED_BACK, 0)
    assert "not on a Friday" in ended.outcome_reason
    assert api.tasks(till.dag_id, till.run_id)["weight_100.shift"].state == "upstream_failed"
    tab.page.wait_for_selector("text=not on a Friday", timeout=20_000)
    assert tab.troubles == []

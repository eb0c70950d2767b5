"""Our pages in a real Airflow, looked at with a real browser: every state, light and dark, wide and narrow."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from browser.conftest import SERVICES, VIEWER, Look, Site
from canary_release.ledger.records import State
from demo.page_states import HOSTILE, POLL, PageStates

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
WIDTHS = (1600, 800, 390)
THEMES = ("light", "dark")
OpenTab = Callable[..., Look]


def every_state(states: PageStates) -> None:
    for service in SERVICES:
        states.past(service, 11, bad_every=4)
    states.running("checkout", "v2.14.1")
    states.waiting("web", "v8.0.0")
    states.rolled_back("search", "v3.2.0")
    states.promoted("profile", "v1.9.3")
    states.orphan("pricing", "v5.5.0")
    states.frozen("billing", "v3.0.1")
    states.long_names()
    states.hostile()


PAGES = {
    "list": ("/plugin/rollouts", ".canary-table"),
    "dashboard": ("/", ".canary-brief"),
    "running": ("/plugin/rollouts?rollout=checkout-12", ".canary-picture svg"),
    "waiting": ("/plugin/rollouts?rollout=web-12", ".canary-picture svg"),
    "rolled-back": ("/plugin/rollouts?rollout=search-12", ".canary-picture svg"),
    "promoted": ("/plugin/rollouts?rollout=profile-1", ".canary-picture svg"),
    "stuck": ("/plugin/rollouts?rollout=pricing-1", ".canary-picture svg"),
    "closed": ("/plugin/rollouts?rollout=billing-1", ".canary-picture svg"),
    "hostile": ("/plugin/rollouts?rollout=hostile-1", ".canary-picture svg"),
}


@pytest.fixture(scope="module")
def full(site: Site) -> Site:
    site.refill(every_state)
    site.airflow.api.trigger("release_checkout", "checkout-v2.14.1")
    site.airflow.api.trigger("release_web", "web-v8.0.0")
    return site


def keep_picture(tab: Look, name: str) -> None:
    """Where CANARY_PICTURES names a folder, for looking at and for the documentation."""
    folder = os.environ.get("CANARY_PICTURES")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.page.screenshot(path=str(Path(folder) / f"{name}.png"))
        size = tab.page.viewport_size
        tab.page.set_viewport_size(size | {"height": 3000})
        tab.page.screenshot(path=str(Path(folder) / f"{name}-whole.png"))
        tab.page.set_viewport_size(size)


def seen_at_every_width(tab: Look, name: str) -> None:
    for width in WIDTHS:
        tab.resized(width)
        assert tab.overflow() == [], f"{name} at {width} px"
        keep_picture(tab, f"{name}-{width}")
    assert tab.troubles == [], name


@pytest.mark.parametrize("theme", THEMES)
def test_an_empty_ledger_shows_the_first_command(site: Site, look: OpenTab, theme: str) -> None:
    site.refill(lambda states: None)
    tab = look(theme)
    tab.go("/plugin/rollouts", ".canary-empty")
    assert "canary lint" in tab.page.inner_text(".canary-empty code")
    seen_at_every_width(tab, f"empty-{theme}")


def test_300_services_are_shown_and_searched(site: Site, look: OpenTab) -> None:
    site.refill(lambda states: states.many(300, 900, evidence=8))
    tab = look()
    tab.go("/plugin/rollouts", ".canary-table")
    assert tab.page.locator(".canary-tr").count() == 51
    tab.page.fill(".canary-search", "service-277")
    tab.page.wait_for_function("() => document.querySelectorAll('.canary-tr').length === 2")
    assert "service-277" in tab.page.inner_text(".canary-tr:last-child .canary-name")
    tab.page.fill(".canary-search", "")
    tab.page.click("text=Show the other")
    tab.page.wait_for_function("() => document.querySelectorAll('.canary-tr').length === 302")
    seen_at_every_width(tab, "many")


@pytest.mark.parametrize("theme", THEMES)
def test_every_state_is_readable_at_every_width(full: Site, look: OpenTab, theme: str) -> None:
    tab = look(theme)
    for name, (path, shows) in PAGES.items():
        tab.go(path, shows)
        seen_at_every_width(tab, f"{name}-{theme}")


def test_who_must_act_comes_first_and_is_told_in_words(full: Site, look: OpenTab) -> None:
    tab = look()
    tab.go("/plugin/rollouts", ".canary-table")
    names = tab.page.locator(".canary-name").all_inner_texts()
    assert names[:2] == ["pricing", "web"]
    stuck = tab.page.inner_text(".canary-tr.stuck")
    assert "STUCK" in stuck
    assert "weight without a rollout" in stuck
    tab.page.click("text=Failed")
    tab.page.wait_for_function("() => document.querySelectorAll('.canary-tr').length < 7")
    assert set(tab.page.locator(".canary-name").all_inner_texts()) == {"pricing", "search", "hostile"}


def test_hostile_words_are_shown_as_words(full: Site, look: OpenTab) -> None:
    tab = look()
    asked: list[str] = []
    tab.page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    for path, shows in (PAGES["list"], PAGES["hostile"]):
        tab.go(path, shows)
        assert HOSTILE[0] in tab.page.inner_text("body")
        assert tab.page.locator(".canary-page script, .canary-page img, .canary-page iframe").count() == 0
    tab.page.goto(f"{full.airflow.url}/canary/rollouts/hostile-1/report")
    assert HOSTILE[0] in tab.page.inner_text("body")
    assert (asked, tab.troubles) == ([], [])


def test_tab_of_a_run_shows_its_rollout_and_links_to_the_log(full: Site, look: OpenTab) -> None:
    tab = look()
    tab.go("/dags/release_checkout/runs/checkout-v2.14.1/plugin/rollout", ".canary-picture svg")
    assert "checkout v1.10 → v2.14.1" in tab.page.inner_text(".canary-page h1")
    log = tab.page.locator(".canary-page td a:has-text('log')").first.get_attribute("href")
    assert log == "/dags/release_checkout/runs/checkout-v2.14.1/tasks/weight_1.compare"
    seen_at_every_width(tab, "tab")
    tab.go("/plugin/rollouts?rollout=none-1", "text=This run has no rollout")


def test_report_is_complete_without_script_or_network(full: Site, look: OpenTab) -> None:
    tab = look()
    tab.page.goto(f"{full.airflow.url}/canary/rollouts/search-12/report")
    tab.page.set_viewport_size({"width": 1100, "height": 900})
    assert tab.page.locator("figure svg").count() == 4
    assert tab.page.evaluate("() => getComputedStyle(document.querySelector('.canary-chart .canary')).fill") == "none"
    keep_picture(tab, "report")
    assert tab.troubles == []


def test_approval_is_answered_from_the_rollouts_page(full: Site, look: OpenTab) -> None:
    full.airflow.api.wait_until(
        "release_web", "web-v8.0.0", lambda _, tasks: tasks["approve_25"].state == "awaiting_input", 60, "ask"
    )
    tab = look()
    tab.go("/plugin/rollouts?rollout=web-12", "text=web: 5 % → 25 %?")
    tab.page.fill("label:has-text('Comment') input", "fine by me")
    tab.page.click("button:has-text('Approve')")
    tab.page.click("button:has-text('Approve now')")
    tab.page.wait_for_selector("text=Airflow has no open question of this run.", timeout=20_000)
    assert full.airflow.api.approvals("release_web", "web-v8.0.0") == []
    [answered] = full.airflow.api.approvals("release_web", "web-v8.0.0", answered=True)
    assert answered.chosen == ("Approve",)
    assert tab.troubles == []


def test_release_starts_a_run_with_the_version(full: Site, look: OpenTab) -> None:
    tab = look()
    tab.go("/plugin/rollouts", ".canary-table")
    row = tab.page.locator(".canary-tr", has=tab.page.locator(".canary-name", has_text="search"))
    row.locator("button:has-text('Release')").click()
    row.locator("label:has-text('Version') input").fill("v3.2.1")
    row.locator("label:has-text('Reason') input").fill("the fix")
    row.locator(".canary-sure").click()
    tab.page.wait_for_selector("text=Run search-v3.2.1 is queued.", timeout=20_000)
    run = full.airflow.api.run("release_search", "search-v3.2.1")
    assert run.conf == {"version": "v3.2.1", "dry_run": False, "reason": "the fix"}
    # The same version again is the same run: Airflow says so, and the page repeats it.
    row.locator("button:has-text('Release')").click()
    row.locator(".canary-sure").click()
    tab.page.wait_for_selector("text=The run search-v3.2.1 exists already", timeout=20_000)


def signed_in(site: Site, user: str) -> dict[str, str]:
    credentials = {"username": user, "password": site.password(user)}
    answer = httpx.post(f"{site.airflow.url}/auth/token", json=credentials, trust_env=False)
    return {"Authorization": f"Bearer {answer.raise_for_status().json()['access_token']}"}


def test_airflow_decides_who_reads_and_who_acts(full: Site) -> None:
    base = f"{full.airflow.url}/canary"
    abort = f"{base}/api/services/checkout/abort"
    with httpx.Client(trust_env=False) as nobody:
        for path in ("api/services", "api/rollouts/checkout-12", "rollouts/checkout-12/report"):
            assert nobody.get(f"{base}/{path}").status_code == 401, path
        assert nobody.post(abort, json={}).status_code == 401
    with httpx.Client(trust_env=False, headers=signed_in(full, VIEWER)) as viewer:
        listed = viewer.get(f"{base}/api/services").raise_for_status().json()
        assert {row["service"] for row in listed["services"]} >= {"checkout", "pricing"}
        assert not [row for row in listed["services"] if row["may_change"]]
        assert viewer.get(f"{base}/api/rollouts/checkout-12").status_code == 200
        assert viewer.post(abort, json={}).status_code == 403
    assert full.ledger.rollout("checkout-12").state is State.RUNNING


def test_user_aborts_in_two_clicks(full: Site, look: OpenTab) -> None:
    tab = look()
    tab.go("/plugin/rollouts", ".canary-table")
    row = tab.page.locator(".canary-tr", has=tab.page.locator(".canary-name", has_text="checkout"))
    row.locator("button:has-text('Abort')").click()
    clicked = time.monotonic()
    row.locator("button:has-text('Take v2.14.1 off now')").click()
    while json.loads(full.balancer.read_text())["weights"]["checkout-green"] != "0":
        assert time.monotonic() < clicked + POLL, "the canary still has traffic a poll after the second click"
        time.sleep(0.02)
    print(f"weight 0 stood at the load balancer {time.monotonic() - clicked:.2f} s after the second click")
    tab.page.wait_for_selector("text=aborted by admin (web)", timeout=20_000)
    ended = full.ledger.rollout("checkout-12")
    assert (ended.state, ended.outcome_reason) == (State.ROLLED_BACK, "aborted by admin (web)")
    assert tab.troubles == []


def test_answer_that_breaks_our_page_leaves_airflow_usable(full: Site, look: OpenTab) -> None:
    tab = look()
    tab.page.route("**/canary/api/services", lambda route: route.fulfill(json={"services": [{"service": "x"}]}))
    tab.go("/plugin/rollouts", "text=This page could not be shown")
    tab.page.get_by_role("link", name="Dags", exact=True).first.click()
    tab.page.wait_for_selector("text=release_search", timeout=20_000)


def test_page_whose_server_went_away_says_how_old_it_is(full: Site, look: OpenTab) -> None:
    tab = look()
    tab.go("/plugin/rollouts", ".canary-table")
    tab.page.route("**/canary/api/services", lambda route: route.abort())
    tab.page.wait_for_selector("text=/does not answer. What is shown is .* old/", timeout=20_000)
    assert tab.page.locator(".canary-table").count() == 1


def test_host_without_its_components_still_gets_the_list_and_the_buttons(full: Site, look: OpenTab) -> None:
    tab = look()
    # The host's own pages keep what they imported; only what it offers to plugins is gone.
    tab.page.add_init_script("Object.defineProperty(globalThis, 'ChakraUI', {get: () => undefined, set: () => {}})")
    tab.go("/plugin/rollouts", ".canary-table")
    assert tab.page.locator("button:text-is('Abort')").count() > 0
    assert tab.troubles == []

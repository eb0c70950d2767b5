"""What a person may do from the pages, who may, and what the ledger keeps of it."""

import json

import pytest

from canary_release.ledger.records import State
from demo.page_states import PageStates
from ui.conftest import Pages

ABORT = "/api/services/checkout/abort"
RETURN = "/api/rollouts/profile-12/return"


def weights(pages: Pages) -> dict[str, str]:
    shown: dict[str, str] = json.loads(pages.balancer.read_text())["weights"]
    return shown


@pytest.mark.parametrize("path", [ABORT, RETURN])
def test_nobody_acts_without_signing_in(pages: Pages, path: str) -> None:
    assert pages.client.post(path, json={"reason": "x"}).status_code == 401
    assert weights(pages)["checkout-green"] == "5"


@pytest.mark.parametrize("path", [ABORT, RETURN])
def test_a_viewer_may_not_act(pages: Pages, path: str) -> None:
    answer = pages.client.post(path, json={"reason": "x"}, headers=pages.as_("viewer"))
    assert answer.status_code == 403
    assert "You may not change runs" in answer.json()["detail"]
    assert weights(pages)["checkout-green"] == "5"


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b'{"reason": "x"}', "text/plain"), (b"reason=x", "application/x-www-form-urlencoded"), (b"", "")],
)
def test_what_a_form_of_another_site_can_send_is_refused(pages: Pages, body: bytes, kind: str) -> None:
    headers = pages.as_("admin") | ({"content-type": kind} if kind else {})
    assert pages.client.post(ABORT, content=body, headers=headers).status_code == 415
    assert pages.ledger.rollout("checkout-12").state is State.RUNNING


@pytest.mark.parametrize("path", [ABORT, RETURN])
def test_looking_never_acts(pages: Pages, path: str) -> None:
    assert pages.client.get(path, headers=pages.as_("admin")).status_code in (404, 405)
    assert pages.ledger.rollout("checkout-12").state is State.RUNNING


def test_abort_takes_the_canary_off_before_it_answers_and_keeps_who_and_why(pages: Pages) -> None:
    answer = pages.client.post(ABORT, json={"reason": "customers call"}, headers=pages.as_("user"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "rolled_back"
    assert weights(pages) == {"checkout-blue": "100", "checkout-green": "0"}
    ended = pages.ledger.rollout("checkout-12")
    assert ended.outcome_reason == "aborted by the-user (web): customers call"
    assert "the-user (web)" in {entry.actor for entry in pages.ledger.audit_trail(rollout_id="checkout-12")}


def test_aborting_twice_is_no_error(pages: Pages) -> None:
    for _ in range(2):
        assert pages.client.post(ABORT, json={}, headers=pages.as_("user")).status_code == 200
    assert weights(pages)["checkout-green"] == "0"


def test_secret_in_a_reason_is_not_kept(pages: Pages) -> None:
    secret = "password=hunter2hunter2"
    pages.client.post(ABORT, json={"reason": secret}, headers=pages.as_("user")).raise_for_status()
    trail = [entry.detail_text for entry in pages.ledger.audit_trail(rollout_id="checkout-12")]
    assert not [text for text in trail if "hunter2" in text]


def test_abort_of_an_unknown_service_is_told(pages: Pages) -> None:
    answer = pages.client.post("/api/services/nobody/abort", json={}, headers=pages.as_("user"))
    assert (answer.status_code, answer.json()["detail"]) == (404, "The ledger knows no service 'nobody'.")


def test_load_balancer_that_does_not_obey_is_told_and_the_intent_stands(
    pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    from canary_release.ui import action_routes

    monkeypatch.setattr(action_routes, "PATIENCE", 0.3)
    state = json.loads(pages.balancer.read_text()) | {"faults": {"fail_before": 99}}
    pages.balancer.write_text(json.dumps(state))
    answer = pages.client.post(ABORT, json={}, headers=pages.as_("user"))
    assert answer.status_code == 502
    assert "told to fail this write" in answer.json()["detail"]
    assert pages.ledger.rollout("checkout-12").state is State.ROLLING_BACK


def test_longer_reasons_than_the_ledger_keeps_and_unknown_keys_are_refused(pages: Pages) -> None:
    for body in ({"reason": "x" * 100_000}, {"reson": "x"}, ["x"]):
        assert pages.client.post(ABORT, json=body, headers=pages.as_("admin")).status_code == 422


def test_promotion_is_returned_while_the_old_side_is_kept(pages: Pages) -> None:
    pages.balancer.write_text(json.dumps({"weights": {"profile-blue": "0", "profile-green": "100"}}))
    page = pages.client.get("/api/rollouts/profile-12", headers=pages.as_("user")).json()
    assert page["may_return"]
    answer = pages.client.post(RETURN, json={"reason": "wrong prices"}, headers=pages.as_("user"))
    assert answer.status_code == 200, answer.text
    assert weights(pages) == {"profile-blue": "100", "profile-green": "0"}


def test_there_is_no_way_back_once_the_old_side_is_not_kept(pages: Pages) -> None:
    states = PageStates(pages.ledger)
    gone = states.promoted("stock", "v9", keep=-10)
    page = pages.client.get(f"/api/rollouts/{gone.id}", headers=pages.as_("user")).json()
    assert not page["may_return"]
    answer = pages.client.post(f"/api/rollouts/{gone.id}/return", json={}, headers=pages.as_("user"))
    assert answer.status_code == 409


def test_only_the_newest_promotion_can_be_returned(pages: Pages) -> None:
    answer = pages.client.post("/api/rollouts/profile-11/return", json={}, headers=pages.as_("user"))
    assert (answer.status_code, answer.json()["detail"]) == (409, "profile-11 is not the newest rollout of profile.")

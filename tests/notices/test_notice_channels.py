"""Each way of sending, against a server on the loopback that takes it, refuses it, or is not there."""

import email.policy
from email import message_from_bytes

import pytest
from airflow.sdk.log import mask_secret

from canary_release.core.notice import notice_of
from canary_release.core.release import Channel
from canary_release.hooks import notice_channels
from canary_release.hooks.notice_channels import NoticeError, missing_provider, send
from demo.free_ports import free_port
from notices.conftest import Connect
from notices.receivers import HttpReceiver, MailReceiver
from notices.test_notice_words import facts

TOKEN = "xoxb-planted-1234567890-secret"
NOTICE = notice_of(facts("rolled_back"))


def channel(via: str, to: str = "") -> Channel:
    return Channel(via, "told", to, frozenset({"rolled_back"}))


def slack_api(web: HttpReceiver, connect: Connect) -> Channel:
    base = f"http://127.0.0.1:{web.port}/api/"
    connect("told", conn_type="slack", password=TOKEN, extra={"base_url": base})
    return channel("slack", "#releases")


def slack_webhook(web: HttpReceiver, connect: Connect) -> Channel:
    web.answer = b"ok"
    connect("told", conn_type="slackwebhook", password=f"http://127.0.0.1:{web.port}/services/T0/B0/{TOKEN}")
    return channel("slack_webhook")


def pagerduty(web: HttpReceiver, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> Channel:
    from pagerduty import EventsApiV2Client

    web.status, web.answer = 202, b'{"status": "success", "message": "ok", "dedup_key": "k"}'
    # The client refuses any address without TLS.
    here = property(lambda _: f"http://127.0.0.1:{web.port}", lambda *_: None)
    monkeypatch.setattr(EventsApiV2Client, "url", here)
    connect("told", conn_type="pagerduty_events", password=TOKEN)
    return channel("pagerduty")


def smtp(mail: MailReceiver, connect: Connect) -> Channel:
    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "canary@example.com", "retry_limit": 0}
    connect("told", conn_type="smtp", host="127.0.0.1", port=mail.port, extra=extra)
    return channel("email", "ada@example.com, grace@example.com")


def webhook(web: HttpReceiver, connect: Connect) -> Channel:
    extra = {"headers": {"X-Key": TOKEN}}
    connect("told", conn_type="http", host="127.0.0.1", port=web.port, extra=extra)
    return channel("webhook", "hooks/releases")


def test_slack_channel_gets_text_and_blocks(web: HttpReceiver, connect: Connect) -> None:
    send(slack_api(web, connect), NOTICE)
    (request,) = web.got
    assert request.path == "/api/chat.postMessage"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.data["channel"] == "#releases"
    assert "ROLLED BACK at 5 %" in request.data["text"]


def test_slack_webhook_gets_text(web: HttpReceiver, connect: Connect) -> None:
    send(slack_webhook(web, connect), NOTICE)
    (request,) = web.got
    assert "ROLLED BACK at 5 %" in request.data["text"]


def test_braces_in_a_reason_are_no_template(web: HttpReceiver, connect: Connect) -> None:
    send(slack_webhook(web, connect), notice_of(facts("failed", why="{{ 6 * 7 }} {% raw %}")))
    (request,) = web.got
    assert "{{ 6 * 7 }}" in request.data["text"]


def test_pagerduty_gets_an_event_with_the_key_that_makes_a_retry_harmless(
    web: HttpReceiver, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(pagerduty(web, connect, monkeypatch), NOTICE)
    (request,) = web.got
    assert request.path == "/v2/enqueue"
    assert (request.data["dedup_key"], request.data["event_action"]) == (NOTICE.key, "trigger")
    assert request.data["payload"]["severity"] == "warning"
    assert request.data["links"][0]["text"] == "report"


def test_everybody_gets_the_mail_with_escaped_html(mail: MailReceiver, connect: Connect) -> None:
    hostile = notice_of(facts("failed", why="<script>alert(1)</script>\r\nBcc: all@example.com"))
    send(smtp(mail, connect), hostile)
    (raw,) = mail.got
    got = message_from_bytes(raw.as_bytes(), policy=email.policy.default)
    assert "TAKEN BACK at 5 %" in got["subject"]
    assert got["to"] == "ada@example.com, grace@example.com"
    assert got["bcc"] is None
    body = next(part for part in got.walk() if part.get_content_type() == "text/html").get_content()
    assert "&lt;script&gt;" in body
    assert "<script>" not in body


def test_webhook_gets_json_with_an_idempotency_key(web: HttpReceiver, connect: Connect) -> None:
    web.status = 202
    send(webhook(web, connect), NOTICE)
    (request,) = web.got
    assert request.path == "/hooks/releases"
    assert request.headers["idempotency-key"] == NOTICE.key
    assert request.headers["x-key"] == TOKEN
    assert (request.data["event"], request.data["service"]) == ("rolled_back", "checkout")


@pytest.mark.parametrize("make", [slack_api, slack_webhook, webhook], ids=lambda make: make.__name__)
@pytest.mark.parametrize("status", [302, 403, 500])
def test_refusal_is_one_line_without_the_token(web: HttpReceiver, connect: Connect, make: object, status: int) -> None:
    told = make(web, connect)  # type: ignore[operator]
    web.status, web.answer = status, f'{{"ok": false, "error": "no {TOKEN}"}}'.encode()
    with pytest.raises(NoticeError) as caught:
        send(told, NOTICE)
    said = str(caught.value)
    assert TOKEN not in said
    assert "\n" not in said
    assert said.startswith(f"{told.via} told: ")


def test_secret_that_airflow_knows_is_in_no_notice(web: HttpReceiver, connect: Connect) -> None:
    mask_secret("planted-in-an-error-42")
    told = webhook(web, connect)
    send(told, notice_of(facts("failed", why="login with planted-in-an-error-42 failed")))
    assert web.got[0].data["cause"] == "login with *** failed"
    assert b"planted-in-an-error" not in web.got[0].body


def test_page_that_is_repeated_opens_no_second_incident(
    web: HttpReceiver, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = pagerduty(web, connect, monkeypatch)
    for number in (1, 2):
        send(told, notice_of(facts("page", key=f"checkout-7 page {number}")))
    assert {request.data["dedup_key"] for request in web.got} == {"checkout-7 page"}
    assert {request.data["payload"]["severity"] for request in web.got} == {"critical"}


def test_mail_server_that_refuses_is_named(mail: MailReceiver, connect: Connect) -> None:
    told = smtp(mail, connect)
    mail.refusal = "550 no such user here"
    with pytest.raises(NoticeError, match=r"email told: .*no such user here"):
        send(told, NOTICE)
    assert not mail.got


def test_server_that_is_not_there_is_a_sentence(connect: Connect) -> None:
    connect("told", conn_type="http", host="127.0.0.1", port=free_port())
    with pytest.raises(NoticeError, match="cannot be reached"):
        send(channel("webhook"), NOTICE)


def test_connection_that_is_missing_is_a_sentence() -> None:
    with pytest.raises(NoticeError, match="AIRFLOW_CONN_TOLD"):
        send(channel("webhook"), NOTICE)


def test_provider_that_is_not_installed_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"slack": ("airflow.providers.absent.notifications.absent", "apache-airflow-providers-absent")}
    monkeypatch.setattr(notice_channels, "_PROVIDERS", absent)
    assert "pip install apache-airflow-providers-absent" in str(missing_provider("slack"))
    assert missing_provider("webhook") is None
    with pytest.raises(NoticeError, match="not installed"):
        send(channel("slack", "#x"), NOTICE)

"""Sending a notice: Slack, e-mail and PagerDuty through Airflow's own notifiers, a webhook over HTTP.

Providers are imported when something is sent. Notifiers are not called but told to ``notify``: a call would render
every text as a Jinja template, and names of versions and reasons of people are data.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from canary_release.core.notice import Notice, as_html, as_json, as_slack, as_subject, as_text, slack_blocks
from canary_release.core.problems import CanaryError
from canary_release.core.release import Channel
from canary_release.hooks.connections import find_connection, http_server

SECONDS = 10
"""How long one attempt may wait for an answer."""
_LONGEST_ERROR = 300
_LONGEST_SUMMARY = 1024  # PagerDuty's
_SHORTEST_SECRET = 4
_PROVIDERS = {
    "slack": ("airflow.providers.slack.notifications.slack", "apache-airflow-providers-slack"),
    "slack_webhook": ("airflow.providers.slack.notifications.slack_webhook", "apache-airflow-providers-slack"),
    "email": ("airflow.providers.smtp.notifications.smtp", "apache-airflow-providers-smtp"),
    "pagerduty": ("airflow.providers.pagerduty.notifications.pagerduty", "apache-airflow-providers-pagerduty"),
}


class NoticeError(CanaryError):
    """A notice could not be sent; no rollout depends on it."""


def missing_provider(via: str) -> str | None:
    """What has to be installed to send this way, as a sentence; None when nothing has to."""
    module, package = _PROVIDERS.get(via, (None, ""))
    if module is None or _is_there(module):
        return None
    return f"via {via} needs {package}, which is not installed where this runs; install it: pip install {package}"


def send(channel: Channel, notice: Notice) -> None:
    """Send it once. NoticeError, without any secret of the connection, when it was not accepted."""
    missing = missing_provider(channel.via)
    if missing:
        raise NoticeError(missing)
    try:
        _SENDERS[channel.via](channel, _masked(notice))
    except Exception as error:  # noqa: BLE001  providers raise what their libraries raise
        # Not chained: their words may repeat tokens and URLs.
        raise NoticeError(_said(channel, error)) from None


def _slack(channel: Channel, notice: Notice) -> None:
    notifier = _notifier("slack", "SlackNotifier")
    notifier(
        slack_conn_id=channel.connection,
        text=as_slack(notice),
        blocks=slack_blocks(notice),
        channel=channel.to,
        username="Canary releases",
        unfurl_links=False,
        unfurl_media=False,
        timeout=SECONDS,
    ).notify({})


def _slack_webhook(channel: Channel, notice: Notice) -> None:
    notifier = _notifier("slack_webhook", "SlackWebhookNotifier")
    notifier(
        slack_webhook_conn_id=channel.connection,
        text=as_slack(notice),
        blocks=slack_blocks(notice),
        unfurl_links=False,
        unfurl_media=False,
        timeout=SECONDS,
    ).notify({})


def _email(channel: Channel, notice: Notice) -> None:
    notifier = _notifier("email", "SmtpNotifier")
    to = [address.strip() for address in channel.to.split(",")]
    notifier(
        to=to,
        subject=as_subject(notice),
        html_content=as_html(notice),
        smtp_conn_id=channel.connection,
        # One conversation in a mail program for all that is told of a rollout.
        custom_headers={"References": f"<{notice.rollout}@canary-release>", "Auto-Submitted": "auto-generated"},
    ).notify({})


def _pagerduty(channel: Channel, notice: Notice) -> None:
    notifier = _notifier("pagerduty", "PagerdutyNotifier")
    notifier(
        summary=as_text(notice)[:_LONGEST_SUMMARY],
        severity=notice.severity,
        source=notice.service,
        component=notice.service,
        class_type=notice.event,
        # Whoever retries, runs elsewhere or pages again in five minutes opens no second incident.
        dedup_key=f"{notice.rollout} page" if notice.event == "page" else notice.key,
        custom_details={key: value for key, value in as_json(notice).items() if key != "links"},
        links=[{"href": url, "text": label} for label, url in notice.links.items()],
        pagerduty_events_conn_id=channel.connection,
    ).notify({})


def _webhook(channel: Channel, notice: Notice) -> None:
    server = http_server(find_connection(channel.connection), NoticeError)
    path = "/" + channel.to.lstrip("/") if channel.to else ""
    headers = {"Content-Type": "application/json", "Idempotency-Key": notice.key}
    server.send("POST", path, body=json.dumps(as_json(notice)), headers=headers, good=range(200, 300))


_SENDERS: dict[str, Callable[[Channel, Notice], None]] = {
    "slack": _slack,
    "slack_webhook": _slack_webhook,
    "email": _email,
    "pagerduty": _pagerduty,
    "webhook": _webhook,
}


def _masked(notice: Notice) -> Notice:
    """Without the secrets that Airflow knows of: whatever an error's sentence may have picked up."""
    from airflow.sdk._shared.secrets_masker import redact

    def clean(text: str) -> str:
        return str(redact(text))

    figures = tuple(clean(figure) for figure in notice.figures)
    return replace(notice, headline=clean(notice.headline), cause=clean(notice.cause), figures=figures)


def _notifier(via: str, name: str) -> Any:
    return getattr(import_module(_PROVIDERS[via][0]), name)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _said(channel: Channel, error: Exception) -> str:
    """One line of what went wrong, with everything secret of the connection taken out."""
    words = " ".join(str(error).split())
    for secret in sorted(_secrets(channel), key=len, reverse=True):
        words = words.replace(secret, "***")
    words = re.sub(r"(hooks\.slack\.com/services)/\S+", r"\1/***", words)
    kind = "" if isinstance(error, CanaryError) else f"{type(error).__name__}: "
    return f"{channel.via} {channel.connection}: {kind}{words}"[:_LONGEST_ERROR]


def _secrets(channel: Channel) -> Iterator[str]:
    try:
        connection = find_connection(channel.connection)
        extra = connection.extra_dejson
    except Exception:  # noqa: BLE001  without a connection nothing of it was sent
        return
    texts = [connection.password or "", *(value for value in _texts(extra) if "://" not in value)]
    for text in texts:
        for part in (text, text.rsplit("/", 1)[-1]):
            if len(part) >= _SHORTEST_SECRET:
                yield part


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, str):
        yield value

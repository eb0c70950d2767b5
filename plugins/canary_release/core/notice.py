"""What people are told of a rollout: one message for all channels, and how each channel's markup says it."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from canary_release.core.notice_events import Event
from canary_release.core.values import plain
from canary_release.core.wording import amount

SEVERITIES: Mapping[Event, str] = {"page": "critical", "failed": "error", "guardian": "error", "rolled_back": "warning"}
"""In PagerDuty's words; every other event is ``info``."""
_LONGEST_CAUSE = 400
_LONGEST_SUBJECT = 200


@dataclass(frozen=True)
class Facts:
    """What is known when an event is told.

    key: the same whenever the same thing is told.  weight: the canary's share in percent when it happened, None before
    the first step.  weights: the plan's, in order.  step: index of the step that is meant.  why: the reason as the
    ledger has it, or the sentence of a page.
    judgement: the last one as JSON.  exposed: seconds with canary traffic, None without any.  hurt: requests that
    failed or were slow beyond stable's share of such.  users_hurt: least and most, None where that is not known.
    links: label to URL.
    """

    event: Event
    service: str
    version: str
    old_version: str
    rollout: str
    key: str
    at: float
    weights: tuple[Decimal, ...] = ()
    step: int = -1
    weight: Decimal | None = None
    started_by: str = ""
    reason: str = ""
    why: str = ""
    judgement: Mapping[str, Any] | None = None
    exposed: float | None = None
    hurt: int = 0
    users_hurt: tuple[int, int] | None = None
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Notice:
    """One message. cause may be empty; figures are short phrases; every text is one printable line."""

    event: Event
    service: str
    version: str
    rollout: str
    key: str
    at: float
    headline: str
    cause: str
    figures: tuple[str, ...]
    links: Mapping[str, str]

    @property
    def severity(self) -> str:
        return SEVERITIES.get(self.event, "info")

    @property
    def sentence(self) -> str:
        """The message without its links."""
        said = self.headline + (f": {self.cause}" if self.cause else "")
        return ", ".join([said, *self.figures])


def notice_of(facts: Facts) -> Notice:
    headline, cause, figures = _WORDS[facts.event](facts)
    return Notice(
        event=facts.event,
        service=_line(facts.service),
        version=_line(facts.version),
        rollout=facts.rollout,
        key=facts.key,
        at=facts.at,
        headline=_line(headline),
        cause=_cut(_line(cause), _LONGEST_CAUSE),
        figures=tuple(_line(figure) for figure in figures if figure),
        links={_line(label): url for label, url in facts.links.items() if url},
    )


def filled(url: str, *, service: str, version: str, start: float, end: float) -> str:
    """A link of a release file with its placeholders replaced; start, end: seconds since the epoch."""
    # Names hold letters, digits and a few signs, of which only the plus means something else in a URL.
    values = {"service": service, "version": version.replace("+", "%2B")}
    values |= {"from": str(int(1000 * start)), "to": str(int(1000 * end))}
    for name, value in values.items():
        url = url.replace(f"{{{name}}}", value)
    return url


# --- the same message for each channel ---


def as_text(notice: Notice) -> str:
    """``checkout v2.4.1 ROLLED BACK at 5 %: …, 14 min · report: https://…``"""
    return " · ".join([notice.sentence, *(f"{label}: {url}" for label, url in notice.links.items())])


def as_slack(notice: Notice) -> str:
    """Slack's mrkdwn: only ``&``, ``<`` and ``>`` begin anything that could mention people or hide a link."""
    links = (f"<{_slack_url(url)}|{_slack(label)}>" for label, url in notice.links.items())
    return " · ".join([_slack(notice.sentence), *links])


def slack_blocks(notice: Notice) -> list[dict[str, Any]]:
    """Slack blocks: what happened and why as plain text, then the links."""
    said = {"type": "plain_text", "text": _cut(notice.sentence, 2900), "emoji": False}
    blocks: list[dict[str, Any]] = [{"type": "section", "text": said}]
    if notice.links:
        shown = " · ".join(f"<{_slack_url(url)}|{_slack(label)}>" for label, url in notice.links.items())
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": _cut(shown, 2900)}]})
    return blocks


def as_subject(notice: Notice) -> str:
    """An e-mail's subject: one line, no control characters."""
    return _cut(notice.sentence, _LONGEST_SUBJECT)


def as_html(notice: Notice) -> str:
    said = [f"<p><strong>{html.escape(notice.headline)}</strong></p>"]
    if notice.cause:
        said.append(f"<p>{html.escape(notice.cause)}</p>")
    if notice.figures:
        said.append("<ul>" + "".join(f"<li>{html.escape(figure)}</li>" for figure in notice.figures) + "</ul>")
    links = (f'<a href="{html.escape(url)}">{html.escape(label)}</a>' for label, url in notice.links.items())
    return "\n".join([*said, f"<p>{' · '.join(links)}</p>"])


def as_json(notice: Notice) -> dict[str, Any]:
    """What a webhook is sent."""
    return {
        "event": notice.event,
        "service": notice.service,
        "version": notice.version,
        "rollout": notice.rollout,
        "key": notice.key,
        "at": notice.at,
        "severity": notice.severity,
        "text": notice.sentence,
        "headline": notice.headline,
        "cause": notice.cause,
        "figures": list(notice.figures),
        "links": dict(notice.links),
    }


def _slack(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _slack_url(url: str) -> str:
    return _slack(url).replace("|", "%7C")


# --- words for each event ---

_Words = tuple[str, str, list[str]]


def _started(facts: Facts) -> _Words:
    ladder = "/".join(plain(weight) for weight in facts.weights)
    asked = f"asked by {facts.started_by}" + (f": {facts.reason}" if facts.reason else "")
    return f"{_who(facts)} STARTED", f"from {facts.old_version}, {ladder} %", [asked]


def _approval(facts: Facts) -> _Words:
    after = facts.step + 1
    onward = f" before {plain(facts.weights[after])} %" if 0 <= after < len(facts.weights) else ""
    return f"{_who(facts)} WAITS FOR YOU{onward}", facts.why or _worst(facts), []


def _step(facts: Facts) -> _Words:
    after = facts.step + 1
    onward = f"next {plain(facts.weights[after])} %" if after < len(facts.weights) else "next: promote"
    here = f" at {plain(facts.weights[facts.step])} %" if 0 <= facts.step < len(facts.weights) else ""
    return f"{_who(facts)} step {after} of {len(facts.weights)} done{here}", _worst(facts), [onward]


def _promoted(facts: Facts) -> _Words:
    took = f"after {_duration(facts.exposed)}" if facts.exposed is not None else ""
    return f"{_who(facts)} PROMOTED", f"it has all the traffic, {facts.old_version} none", [took]


def _rolled_back(facts: Facts) -> _Words:
    return f"{_who(facts)} ROLLED BACK{_where(facts)}", _worst(facts) or facts.why, _cost(facts)


def _failed(facts: Facts) -> _Words:
    return f"{_who(facts)} TAKEN BACK{_where(facts)}", facts.why, _cost(facts)


def _guardian(facts: Facts) -> _Words:
    return f"{_who(facts)} TAKEN BACK BY THE GUARDIAN{_where(facts)}", facts.why, _cost(facts)


def _page(facts: Facts) -> _Words:
    return f"{_who(facts)} NEEDS YOU NOW", facts.why or "its weights are not safe; see the guardian's log", []


_WORDS = {
    "started": _started,
    "approval": _approval,
    "step": _step,
    "promoted": _promoted,
    "rolled_back": _rolled_back,
    "failed": _failed,
    "guardian": _guardian,
    "page": _page,
}


def _who(facts: Facts) -> str:
    return f"{facts.service} {facts.version}".strip()


def _where(facts: Facts) -> str:
    return " before the first user" if facts.weight is None else f" at {plain(facts.weight)} %"


def _cost(facts: Facts) -> list[str]:
    return [
        _duration(facts.exposed) if facts.exposed is not None else "",
        f"about {facts.hurt:,} requests{_users(facts)} hurt" if facts.hurt else "",
    ]


def _users(facts: Facts) -> str:
    if facts.users_hurt is None:
        return ""
    least, most = facts.users_hurt
    return f" of {least:,} to {most:,} users" if least < most else f" of {most:,} user{'' if most == 1 else 's'}"


def _check_of(facts: Facts) -> Mapping[str, Any] | None:
    """The check that is blamed, else the one with most of the evidence it would need."""
    checks = (facts.judgement or {}).get("checks") or []
    blamed = (facts.judgement or {}).get("blamed")
    named = [check for check in checks if check["check"] == blamed]
    return next(iter(named), None) or max(
        checks, key=lambda check: (check["evidence"] or 0.0) / (check["needed"] or 1.0), default=None
    )


def _worst(facts: Facts) -> str:
    """``error rate 3.90 % vs 0.41 % (limit +0.5 pp)``"""
    check = _check_of(facts)
    if check is None or check["canary"] is None:
        return ""
    canary, stable = (amount(check[side], check["unit"]) for side in ("canary", "stable"))
    return f"{str(check['check']).replace('_', ' ')} {canary} vs {stable} (limit {check['limit']})"


def _duration(seconds: float) -> str:
    """``45 s``, ``14 min``, ``3 h 20 min``"""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _line(text: str) -> str:
    """One line in which nothing is invisible: a line break would end an e-mail's header."""
    words = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"

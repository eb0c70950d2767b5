"""The ``notify`` and ``links`` blocks of a release file."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from canary_release.core.field_types import Block, Text, scalar, sound, word_of
from canary_release.core.notice_events import DEFAULT_EVENTS, EVENTS, VIAS, Event, Via
from canary_release.core.release import Channel, Links
from canary_release.core.strict_yaml import Path
from canary_release.core.suggest import listed, shown

PLACEHOLDERS = ("service", "version", "from", "to")
_LONGEST_URL = 1000
_ADDRESS = re.compile(r"[^\s@<>,;:\"\\()\[\]]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_SLACK = re.compile(r"[#@]?[\w.-]{1,80}")
_URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?#][^\s<>\"\\^`|]*)?")
_PATH = re.compile(r"/?[A-Za-z0-9._~/-]{1,200}")
# What `to` must look like for each way of sending; the ways that are missing here take none.
_TO = {
    "slack": (_SLACK, 'a channel such as `"#releases"`'),
    "webhook": (_PATH, "a path such as `hooks/releases`"),
}
_NEEDS_TO = ("slack", "email")
_TAKES_NO_TO = ("slack_webhook", "pagerduty")


class NotifyBlock(Block):
    """One receiver of notices."""

    via: Annotated[Via, word_of(*VIAS), WithJsonSchema({"enum": list(VIAS)})] = Field(description="how it is sent")
    connection: Text = Field(description="the id of its Airflow connection")
    to: Text = Field(
        default="",
        description="a Slack channel, e-mail addresses (with commas between), or a webhook's path",
        json_schema_extra={"default": None},
    )
    on: Annotated[
        list[Annotated[Event, word_of(*EVENTS), WithJsonSchema({"enum": list(EVENTS)})]],
        Field(min_length=1),
    ] = Field(
        default=list(DEFAULT_EVENTS),
        description="what it hears of",
        json_schema_extra={"default": list(DEFAULT_EVENTS)},
    )

    @field_validator("on")
    @classmethod
    def _each_once(cls, on: list[Event]) -> list[Event]:
        twice = sorted({event for event in on if on.count(event) > 1})
        if twice:
            raise ValueError(f"{listed(twice)} stands twice; name each event once")
        return on

    @model_validator(mode="after")
    def _fits(self) -> "NotifyBlock":
        problems: list[tuple[Path, str]] = []
        if not self.to and self.via in _NEEDS_TO:
            what = "a channel" if self.via == "slack" else "one or more addresses"
            problems.append((("to",), f"is missing; via {self.via} needs {what}"))
        elif self.to and self.via in _TAKES_NO_TO:
            problems.append((("to",), f"is not used via {self.via}, whose connection says where; take it out"))
        elif self.to and self.via == "email":
            wrong = [one for one in addresses(self.to) if not _ADDRESS.fullmatch(one)]
            problems += [(("to",), f"{shown(one)} is not an e-mail address such as `ada@example.com`") for one in wrong]
        elif self.to and not _TO[self.via][0].fullmatch(self.to):
            problems.append((("to",), f"{shown(self.to)} is not {_TO[self.via][1]}"))
        return sound(self, problems)

    def channel(self) -> Channel:
        return Channel(self.via, self.connection, self.to, frozenset(self.on))


def addresses(to: str) -> list[str]:
    return [address.strip() for address in to.split(",")]


def each_receiver_once(notify: list[NotifyBlock]) -> list[NotifyBlock]:
    problems: list[tuple[Path, str]] = []
    seen: dict[str, int] = {}
    for index, block in enumerate(notify):
        first = seen.setdefault(block.channel().name, index)
        if first != index:
            problems.append(((index,), f"is the receiver of notify[{first}] again; give it one entry with all events"))
    return sound(notify, problems)


def _url(value: object) -> str:
    text = scalar(value, "a URL such as `https://grafana.example.com/d/shop?from={from}&to={to}`")
    if len(text) > _LONGEST_URL or not text.isprintable() or " " in text:
        raise ValueError(f"must be a URL of at most {_LONGEST_URL} characters without spaces")
    unknown = [name for name in re.findall(r"{([^{}]*)}", text) if name not in PLACEHOLDERS]
    if unknown or re.sub(r"{\w+}", "", text).count("{") or re.sub(r"{\w+}", "", text).count("}"):
        known = listed(f"{{{name}}}" for name in PLACEHOLDERS)
        raise ValueError(f"{shown(text)} has a placeholder that is not known; known are {known}")
    if re.match(r"https?://[^/?#]*@", text):
        raise ValueError("has a user or password in it, and everybody may see a link; take it out")
    if not _URL.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a URL that begins with `https://` or `http://` and a host")
    return text


Url = Annotated[
    str, BeforeValidator(_url), WithJsonSchema({"type": "string", "format": "uri-template", "pattern": "^https?://"})
]


class LinksBlock(Block):
    """Where to look further; ``{service}``, ``{version}``, ``{from}`` and ``{to}`` (milliseconds) are filled in."""

    dashboard: Url = Field(default="", description="a dashboard", json_schema_extra={"default": None})
    runbook: Url = Field(default="", description="what to do when it goes wrong", json_schema_extra={"default": None})
    load_balancer: Url = Field(default="", description="its console", json_schema_extra={"default": None})

    def links(self) -> Links:
        return Links(self.dashboard, self.runbook, self.load_balancer)

"""What a release file calls on the outside, as people write it. Conf and body are data: no templates, only whole values
that are placeholders.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from canary_release.core.field_types import (
    Block,
    Count,
    Duration,
    Name,
    Text,
    positive,
    schema_of,
    sound,
    text_of,
    with_default,
    word_of,
)
from canary_release.core.loose_values import typed
from canary_release.core.release import Hook, HttpCall
from canary_release.core.strict_yaml import Path
from canary_release.core.suggest import did_you_mean, listed, shown
from canary_release.core.units import show_duration

PLACEHOLDERS = ("service", "version", "weight", "rollout", "canary")
METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET")
_MOST_RETRIES = 10
_PATH_PATTERN = r"^/(?!/)[A-Za-z0-9._~/%?=&:@,;+-]{0,198}$"
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")


def _data(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError('must be a block of keys, such as `{version: "{version}"}`')
    problems: list[tuple[Path, str]] = []
    made = typed(value, (), problems)
    problems += list(_wrong_placeholders(made, ()))
    return sound(made, problems)


def _wrong_placeholders(value: Any, path: Path) -> list[tuple[Path, str]]:
    if isinstance(value, Mapping):
        return [problem for key, item in value.items() for problem in _wrong_placeholders(item, (*path, key))]
    if isinstance(value, list):
        return [problem for at, item in enumerate(value) for problem in _wrong_placeholders(item, (*path, at))]
    names = _PLACEHOLDER.findall(value) if isinstance(value, str) else []
    whole = isinstance(value, str) and _PLACEHOLDER.fullmatch(value) is not None
    known = listed(f"{{{name}}}" for name in PLACEHOLDERS)
    if whole and names[0] not in PLACEHOLDERS:
        return [(path, f"{shown(value)} is no placeholder{did_you_mean(names[0], PLACEHOLDERS)}; known are {known}")]
    if not whole and set(names) & set(PLACEHOLDERS):
        return [(path, f"{shown(value)} has a placeholder within a text; it must be the whole value: one of {known}")]
    return []


Data = Annotated[
    dict[str, Any], BeforeValidator(_data), WithJsonSchema({"type": "object", "additionalProperties": True})
]


class HttpBlock(Block):
    """A request to the server of an Airflow connection; redirects are not followed."""

    connection: Text = Field(description="the id of an Airflow connection of type http, which says where and as whom")
    method: Annotated[Literal["POST", "PUT", "PATCH", "DELETE", "GET"], word_of(*METHODS)] = Field(
        default="POST", description="the HTTP method"
    )
    path: Annotated[
        str, text_of(_PATH_PATTERN, "a path such as `/deploy`, without spaces or a host"), schema_of(_PATH_PATTERN)
    ] = Field(description="the path at that server, such as `/deploy`")
    body: Data = Field(default={}, description="sent as JSON; empty: no body")


class CallHookBlock(Block):
    """A call that cannot change the rollout any more: one of ``dag`` and ``http``."""

    dag: Name = Field(default="", description="the DAG to run", json_schema_extra={"default": None})
    conf: Data = Field(default={}, description="the conf of the DAG's run")
    http: HttpBlock | None = Field(default=None, description="or the request to send")
    timeout: Duration = with_default(Hook.timeout, show_duration(Hook.timeout), "how long one attempt may take")
    retries: Count = Field(default=Hook.retries, description="attempts after a failed one, at most 10")

    _waits = field_validator("timeout")(positive("the timeout"))

    @model_validator(mode="after")
    def _one_of_both(self) -> "CallHookBlock":
        problems: list[tuple[Path, str]] = []
        if bool(self.dag) == (self.http is not None):
            problems.append(((), "needs one of `dag` and `http`, and only one"))
        elif self.conf and self.http is not None:
            problems.append((("conf",), "belongs to `dag`; a request has its `body`"))
        if self.http is not None and "timeout" in self.model_fields_set:
            problems.append((("timeout",), "belongs to `dag`; a request has 20 s, and what takes longer is a DAG"))
        if self.retries > _MOST_RETRIES:
            problems.append((("retries",), f"at most {_MOST_RETRIES}"))
        return sound(self, problems)

    def hook(self) -> Hook:
        http = self.http
        call = HttpCall(http.connection, http.method, http.path, http.body) if http is not None else None
        return Hook(self.dag, self.conf, call, self.timeout, self.retries, self.rolls_back)

    @property
    def rolls_back(self) -> bool:
        return False


class StepHookBlock(CallHookBlock):
    """A call before traffic is given to the canary."""

    on_failure: Annotated[Literal["roll_back", "go_on"], word_of("roll_back", "go_on")] = with_default(
        "roll_back", "roll_back", "what follows when its last attempt failed"
    )

    @property
    def rolls_back(self) -> bool:
        return self.on_failure == "roll_back"

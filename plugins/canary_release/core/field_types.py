"""The kinds of values a release file may hold, for its pydantic models: each reads a text of the file strictly.

Values arrive as the texts of the file (``strict_yaml.Scalar``) and leave typed. Every error is a sentence of ours.
"""

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from canary_release.core.release import Limit
from canary_release.core.strict_yaml import Path, bent_into
from canary_release.core.suggest import did_you_mean, listed, shown
from canary_release.core.units import (
    DURATION_PATTERN,
    LIMIT_PATTERN,
    PERCENT_PATTERN,
    read_duration,
    read_limit,
    read_number,
    read_percent,
)

_T = TypeVar("_T")

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_PERSON_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}$"
_LONGEST_TEXT = 200


class Misfit(ValueError):
    """Values that do not fit together: (path from the validated value, what is wrong), one for each problem."""

    def __init__(self, problems: list[tuple[Path, str]]) -> None:
        super().__init__(problems)
        self.problems = problems


def scalar(value: Any, wanted: str) -> str:
    """The text of a single value; ValueError when there is a list or a block, or no text at all."""
    if isinstance(value, str):
        return value
    kind = "a list" if isinstance(value, list) else "a block of keys" if isinstance(value, dict) else "something else"
    raise ValueError(f"must be {wanted}, not {kind}")


def _by_unit(read: Callable[[str], Any], wanted: str) -> BeforeValidator:
    return BeforeValidator(lambda value: read(scalar(value, wanted)))


def text_of(pattern: str | None, wanted: str) -> BeforeValidator:
    def read(value: Any) -> str:
        text = scalar(value, wanted)
        bent = None if getattr(value, "quoted", True) else bent_into(text)
        if bent:
            raise ValueError(f'{shown(text)} without quotes is {bent} to YAML programs; write `"{text}"`')
        if not 0 < len(text) <= _LONGEST_TEXT or "\n" in text or text != text.strip():
            raise ValueError(f"must be {wanted}: 1 to {_LONGEST_TEXT} characters in one line, no spaces around")
        if pattern and not re.fullmatch(pattern, text):
            raise ValueError(f"{shown(text)} is not allowed; {wanted}")
        return str(text)

    return BeforeValidator(read)


def word_of(*allowed: str) -> BeforeValidator:
    def read(value: Any) -> str:
        text = scalar(value, f"one of {listed(allowed)}")
        if text not in allowed:
            raise ValueError(f"{shown(text)} is not known{did_you_mean(text, allowed)}; allowed: {listed(allowed)}")
        return str(text)

    return BeforeValidator(read)


def _flag(value: Any) -> bool:
    text = scalar(value, "true or false")
    if text not in {"true", "false"} or getattr(value, "quoted", False):
        raise ValueError(f"{shown(text)} is not allowed; write `true` or `false`, without quotes")
    return text == "true"


def _count(value: Any) -> int:
    text = scalar(value, "a whole number")
    if not re.fullmatch(r"0|[1-9][0-9]{0,9}", text):
        raise ValueError(f"{shown(text)} is not allowed; write a whole number such as `500`, without zeros in front")
    return int(text)


def positive(what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value <= 0:
            raise ValueError(f"{what} must be more than 0")
        return value

    return check


def schema_of(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": pattern, "examples": list(examples)})


_NAME_WORDS = "a name of letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 128 long"
Name = Annotated[str, text_of(NAME_PATTERN, _NAME_WORDS), schema_of(NAME_PATTERN, "checkout")]
Person = Annotated[
    str, text_of(_PERSON_PATTERN, "a user or group name"), schema_of(_PERSON_PATTERN, "release-managers")
]
Text = Annotated[str, text_of(None, "a text"), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 200})]
Duration = Annotated[float, _by_unit(read_duration, "a duration such as `10m`"), schema_of(DURATION_PATTERN, "10m")]
Percent = Annotated[Decimal, _by_unit(read_percent, "a percentage such as `5%`"), schema_of(PERCENT_PATTERN, "5%")]
Number = Annotated[float, _by_unit(read_number, "a number such as `0.95`"), WithJsonSchema({"type": "number"})]
Count = Annotated[int, BeforeValidator(_count), WithJsonSchema({"type": "integer", "minimum": 0})]
Flag = Annotated[bool, BeforeValidator(_flag), WithJsonSchema({"type": "boolean"})]
LimitText = Annotated[
    Limit,
    _by_unit(read_limit, "a limit such as `10%`"),
    WithJsonSchema({"anyOf": [{"type": "string", "pattern": LIMIT_PATTERN}, {"type": "number", "minimum": 0}]}),
]
WhenDrifted = Annotated[Literal["hold", "adopt", "repair"], word_of("hold", "adopt", "repair")]
WhenClosed = Annotated[Literal["refuse", "wait"], word_of("refuse", "wait")]
HoldOrRollBack = Annotated[Literal["hold", "roll_back"], word_of("hold", "roll_back")]


def with_default(value: Any, written: Any, description: str) -> Any:
    """A field with a default, shown to editors as it would be written in the file."""
    return Field(default=value, description=description, json_schema_extra={"default": written})


class Block(BaseModel):
    """A block of keys: nothing unknown, nothing converted behind the writer's back."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True)


def sound(value: _T, problems: list[tuple[Path, str]]) -> _T:
    """``value`` itself. Misfit when there are problems."""
    if problems:
        raise Misfit(problems)
    return value

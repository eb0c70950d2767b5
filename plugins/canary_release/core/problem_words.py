"""The words and the order of what is wrong with a release file: pydantic's errors in, lines for people out."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from canary_release.core.calendar_model import FreezeBlock, PeakBlock, WindowBlock
from canary_release.core.check_model import CheckBlock
from canary_release.core.field_types import Block, Misfit
from canary_release.core.hook_model import CallHookBlock, HttpBlock, StepHookBlock
from canary_release.core.notice_model import LinksBlock, NotifyBlock
from canary_release.core.release_model import (
    ApprovalBlock,
    ApprovalStepBlock,
    BlindBlock,
    EarlyPromotionBlock,
    LoadBalancerBlock,
    MetricsBlock,
    NoDataBlock,
    ReleaseBlock,
    StepBlock,
)
from canary_release.core.strict_yaml import Document, Path
from canary_release.core.suggest import closest, did_you_mean, listed, shown

_MOST_SHOWN = 50
_LONGEST_LINE = 800  # characters: other libraries repeat what they could not read, however long it is
MOST_TRANSLATED = 200  # looking for what was meant is slow, and a hostile file must not cost seconds

# Which model's keys are meant at a place: the nearest of these from the right, else the top of the file.
_BLOCKS: dict[str | int, type[Block]] = {
    "<step>": StepBlock,
    "<approval>": ApprovalStepBlock,
    "approve": ApprovalBlock,
    "checks": CheckBlock,
    "window": WindowBlock,
    "no_data": NoDataBlock,
    "blind": BlindBlock,
    "<budget>": EarlyPromotionBlock,
    "load_balancer": LoadBalancerBlock,
    "metrics": MetricsBlock,
    "notify": NotifyBlock,
    "links": LinksBlock,
    "freeze": FreezeBlock,
    "peak": PeakBlock,
    "before": StepHookBlock,
    "before_step": StepHookBlock,
    "after": CallHookBlock,
    "on_rollback": CallHookBlock,
    "http": HttpBlock,
}
_TAGS = {"<step>", "<approval>", "<flag>", "<budget>", "<window>", "<windows>", "<none>"}


@dataclass(frozen=True)
class Problem:
    path: Path
    what: str
    line: int | None = None


def lines_of(name: str, document: Document, problems: list[Problem]) -> list[str]:
    placed = [(document.line(one.path) if one.line is None else one.line, _key(one.path), one.what) for one in problems]
    lines = [f"{name}:{line}: {key + ': ' if key else ''}{what}" for line, key, what in sorted(dict.fromkeys(placed))]
    lines = [line if len(line) <= _LONGEST_LINE else line[: _LONGEST_LINE - 1] + "…" for line in lines]
    more = len(lines) - _MOST_SHOWN
    return (
        lines if more <= 0 else [*lines[:_MOST_SHOWN], f"{name}:1: and at least {more} more problems; mend these first"]
    )


def _key(path: Path) -> str:
    """``steps[2].weight``"""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return shown(text)[1:-1] if text else ""


def without_echoes(problems: list[Problem]) -> list[Problem]:
    """Only the first thing said about a value: a flaw of the YAML makes what follows from it uninteresting."""
    flawed = {one.path for one in problems if one.line is not None and one.path}
    return [
        one for one in problems if one.line is not None or not any(one.path[: len(path)] == path for path in flawed)
    ]


def translate(errors: Sequence[Any]) -> list[Problem]:
    """Pydantic's errors of a ReleaseBlock in our words; of very many only the first."""
    errors = errors[:MOST_TRANSLATED]
    meant = {
        (_plain_path(one["loc"][:-1]), closest(str(one["loc"][-1]), _allowed(one["loc"])))
        for one in errors
        if one["type"] == "extra_forbidden"
    }
    problems: list[Problem] = []
    for one in errors:
        parent = _plain_path(one["loc"][:-1])
        misspelt = (parent, one["loc"][-1] if one["loc"] else "") in meant or (parent, "approve") in meant
        if one["type"] != "missing" or not misspelt:
            problems += _in_our_words(one)
    return problems


def _in_our_words(one: Any) -> Iterator[Problem]:
    path = _plain_path(one["loc"])
    match one["type"]:
        case "missing":
            yield Problem(path, f"is missing; needed: {_described(one['loc'])}")
        case "extra_forbidden":
            allowed = _allowed(one["loc"])
            yield Problem(path, unknown_key(str(one["loc"][-1]), allowed))
        case "value_error" if isinstance(one["ctx"]["error"], Misfit):
            for rest, what in one["ctx"]["error"].problems:
                yield Problem((*path, *rest), what)
        case "value_error":
            yield Problem(path, str(one["ctx"]["error"]))
        case _:
            yield Problem(path, words_of(one))


def words_of(one: Any) -> str:
    """What is wrong and what is allowed, from one of pydantic's errors; never pydantic's own terms."""
    written, context = one.get("input"), one.get("ctx", {})
    is_single = isinstance(written, str | int | float) and not isinstance(written, bool)
    value = shown(str(written)) if is_single else _shape(written)
    kind = next((kind for kind, types in _KINDS_OF_ERROR.items() if one["type"] in types), "")
    match kind:
        case "length":
            least, most = context.get("min_length"), context.get("max_length")
            wanted = f"at least {least}" if least is not None else f"at most {most}"
            return f"has {context['actual_length']} entries; allowed: {wanted}"
        case "word":
            known = re.findall(r"'([^']*)'", context["expected"])
            return f"{value} is not known{did_you_mean(str(written), known)}; allowed: {listed(known)}"
        case "pattern":
            return f"{value} is not allowed; it must match `{context['pattern']}`"
        case "text" if is_single:
            return f'must be a text; write `"{written}"`'
        case "":
            return str(one["msg"]).replace("Input should", f"{value} is not allowed; it should", 1).replace("\n", " ")
    return f"{value} is not allowed; {_WANTED[kind]}"


_KINDS_OF_ERROR = {
    "block": {"model_type", "dict_type", "model_attributes_type"},
    "list": {"list_type", "tuple_type", "set_type", "frozen_set_type"},
    "length": {"too_short", "too_long"},
    "text": {"string_type"},
    "flag": {"bool_type", "bool_parsing"},
    "whole": {"int_type", "int_parsing", "int_from_float"},
    "number": {"float_type", "float_parsing", "decimal_type", "decimal_parsing"},
    "word": {"literal_error", "enum"},
    "pattern": {"string_pattern_mismatch"},
}
_WANTED = {
    "block": "write a block of keys, such as `{key: value}`",
    "list": "write a list, such as `[a, b]`",
    "text": "write a text",
    "flag": "write `true` or `false`, without quotes",
    "whole": "write a whole number such as `500`",
    "number": "write a number such as `0.5`",
}


def _shape(written: Any) -> str:
    if isinstance(written, list):
        return "a list"
    return "a block of keys" if isinstance(written, dict) else f"the single value {shown(str(written))}"


def unknown_key(key: str, allowed: Sequence[str]) -> str:
    return f"is not a known key{did_you_mean(key, allowed)}; allowed: {listed(allowed)}"


def _plain_path(loc: Sequence[str | int]) -> Path:
    """Without the words that pydantic puts in for a choice, and with ``[key]`` for a dict's own key."""
    return tuple(part for part in loc if part not in _TAGS and part != "[key]")


def _block(loc: Sequence[str | int]) -> type[Block]:
    return next((_BLOCKS[part] for part in reversed(loc[:-1]) if part in _BLOCKS), ReleaseBlock)


def _described(loc: Sequence[str | int]) -> str:
    named = {field.alias or name: field.description for name, field in _block(loc).model_fields.items()}
    return str(named[str(loc[-1])])


def _allowed(loc: Sequence[str | int]) -> list[str]:
    block = _block(loc)
    keys = [field.alias or name for name, field in block.model_fields.items()]
    return [*keys, *(["approve"] if block is StepBlock else [])]

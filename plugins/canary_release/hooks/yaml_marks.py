"""Exchanging single values in a YAML or JSON text in place, so that comments, order and layout stay as they are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from canary_release.core.problems import LoadBalancerError


def composed(text: str, file: Path) -> tuple[Any, Any]:
    """The document as plain values, and as nodes that know where they stand; LoadBalancerError naming ``file``."""
    try:
        return yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        words = " ".join(str(error).split())
        raise LoadBalancerError(f"{file} is neither YAML nor JSON: {words}.") from None


def child(node: Any, *path: str) -> Any:
    """The node at a path of keys, None when it is not there."""
    for key in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in pairs if name.value == key), None)
    return node


def entries(node: Any) -> list[Any]:
    """The nodes of a list; none when it is no list."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def word(node: Any) -> str | None:
    """A scalar's text; None when it is none."""
    return node.value if isinstance(node, yaml.ScalarNode) else None


def exchanged(text: str, values: Mapping[Any, str]) -> str:
    """The text with each scalar node's characters replaced by what is given for it."""
    marks = sorted(((node.start_mark.index, node.end_mark.index, new) for node, new in values.items()), reverse=True)
    for start, end, new in marks:
        text = f"{text[:start]}{new}{text[end:]}"
    return text

"""Values of a release file that no model of ours describes: what can only mean one number or boolean becomes that."""

import re
from typing import Any

from canary_release.core.strict_yaml import Path, bent_into
from canary_release.core.suggest import shown


def typed(value: Any, path: Path, problems: list[tuple[Path, str]]) -> Any:
    """The value with numbers and booleans; a text that YAML programs would bend is added to ``problems``."""
    if isinstance(value, dict):
        return {str(key): typed(item, (*path, str(key)), problems) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item, (*path, index), problems) for index, item in enumerate(value)]
    if value.quoted:
        return str(value)
    if value in {"true", "false"}:
        return value == "true"
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,14})", value):
        return int(value)
    if re.fullmatch(r"-?(0|[1-9][0-9]{0,8})\.[0-9]{0,8}[1-9]", value):
        return float(value)
    bent = bent_into(value)
    if bent:
        otherwise = "`true`, `false` or " if bent == "yes or no" else ""
        quoted = shown(f'"{value}"')
        what = f"{shown(value)} without quotes is {bent} to YAML programs; write {otherwise}{quoted}"
        problems.append((path, what))
    return str(value)

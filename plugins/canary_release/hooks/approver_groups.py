"""Which users stand behind the names in ``approve: {by: […]}``: Airflow knows no groups in its questions to people."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

VARIABLE = "canary_release_groups"
"""An Airflow variable, a JSON object from a name to user ids: ``{"release-managers": ["ada", "grace"]}``."""

log = logging.getLogger(__name__)


def approvers(names: Sequence[str], groups: Mapping[str, Any]) -> tuple[str, ...]:
    """The users behind ``names``; a name that is no group is a user itself. Groups do not nest."""
    found: dict[str, None] = {}
    for name in names:
        members = groups.get(name, [name])
        for member in members if isinstance(members, list) else [name]:
            found[str(member)] = None
    return tuple(found)


def known_groups() -> Mapping[str, Any]:
    """What the variable holds. Empty when there is none or it cannot be read: then nobody is let in by a group."""
    from airflow.sdk import Variable

    try:
        groups = Variable.get(VARIABLE, default={}, deserialize_json=True)
    except Exception as error:  # noqa: BLE001  a broken variable must not end a rollout; it lets nobody in
        log.warning("the variable %s cannot be read (%s), so no group is known", VARIABLE, type(error).__name__)
        return {}
    if not isinstance(groups, dict):
        log.warning("the variable %s is no JSON object, so no group is known", VARIABLE)
        return {}
    return groups

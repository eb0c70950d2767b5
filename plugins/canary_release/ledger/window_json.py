"""A window as JSON, as the ledger keeps it. Exact: what is read equals what was written."""

from dataclasses import asdict
from typing import Any

from canary_release.core.values import Counts, Window


def window_to_json(window: Window) -> dict[str, Any]:
    return asdict(window)


def window_from_json(value: dict[str, Any]) -> Window:
    sides = {name: _counts(value[name]) for name in ("stable", "canary")}
    return Window(**(value | sides | {"edges": tuple(value["edges"])}))


def _counts(value: dict[str, Any] | None) -> Counts | None:
    if value is None:
        return None
    proportions = {name: (pair[0], pair[1]) for name, pair in value["proportions"].items()}
    return Counts(**(value | {"buckets": tuple(value["buckets"]), "proportions": proportions}))

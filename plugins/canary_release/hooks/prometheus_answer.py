"""What an answer of a Prometheus HTTP API holds, strictly: half an answer is an error, never less data."""

import math
from collections.abc import Collection, Mapping
from typing import Any

from canary_release.core.problems import MetricSourceError

Series = tuple[dict[str, str], tuple[tuple[float, float], ...]]
"""Labels, and samples (seconds since the epoch, value)."""


def series_of(answer: Any) -> list[Series]:
    """The series of a ``matrix``. MetricSourceError for anything that is not one, or not whole."""
    if not isinstance(answer, Mapping) or answer.get("status") != "success":
        said = answer.get("error") if isinstance(answer, Mapping) else None
        raise MetricSourceError(f"the query failed: {str(said)[:200]}." if said else "this is no Prometheus API.")
    if answer.get("warnings") or answer.get("isPartial"):
        said = _first(answer.get("warnings")) or "isPartial"
        raise MetricSourceError(f"only a part of the data could be read ({str(said)[:200]}).")
    try:
        data = answer["data"]
        if data["resultType"] != "matrix":
            raise MetricSourceError(f"asked for a matrix, got a {str(data['resultType'])[:20]}.")
        return [(dict(one["metric"]), _points(one["values"])) for one in data["result"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MetricSourceError("the answer is no matrix of samples.") from None


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, list) and values else None


def _points(values: Collection[Any]) -> tuple[tuple[float, float], ...]:
    """In order of time. A NaN marks where a series ended or was not scraped: it is no sample."""
    read = ((float(moment), float(value)) for moment, value in values)
    return tuple(sorted(point for point in read if not math.isnan(point[1])))

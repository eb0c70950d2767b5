"""Values put into the query languages of metric stores, so that no value can end its place in a query.

PromQL: https://prometheus.io/docs/prometheus/latest/querying/basics/#string-literals and RE2's syntax; InfluxQL:
https://docs.influxdata.com/influxdb/v1/query_language/spec/#strings; Flux: its specification, "String literals".
"""

import re
from collections.abc import Callable, Iterable

from canary_release.core.problems import MetricSourceError

PLACEHOLDER = "$backend"
_RE2_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]*")


def promql_string(value: str) -> str:
    """A PromQL string literal, quotes included."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def promql_one_of(values: Iterable[str]) -> str:
    """The literal of a regular expression that matches exactly these values; matchers are anchored at both ends."""
    return promql_string("|".join(_RE2_SPECIAL.sub(r"\\\1", value) for value in values))


def influxql_string(value: str) -> str:
    """An InfluxQL string literal, quotes included."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def flux_string(value: str) -> str:
    """A Flux string literal, quotes included; ``${`` would begin an interpolation."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + escaped.replace("${", "\\${") + '"'


def plain_word(value: str) -> str:
    """The value itself, for languages that have no way to escape. Raises MetricSourceError for any other character."""
    if not _PLAIN.fullmatch(value):
        raise MetricSourceError(
            f"{value!r} cannot stand in a query of this metric source; a backend's name there may only have letters, "
            "digits and _ . : / @ -"
        )
    return value


def filled(query: str, backend: str, written: Callable[[str], str]) -> str:
    """The query with every ``$backend`` replaced by the backend's name as ``written`` puts it."""
    return query.replace(PLACEHOLDER, written(backend))

"""The dashboard that ships with the project: it asks for metrics that exist, and compares both sides in one panel."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from canary_release.figures import COUNTERS, GAUGES, TIMERS

FILE = Path(__file__).resolve().parents[2] / "include" / "grafana" / "canary-releases.json"
DASHBOARD: dict[str, Any] = json.loads(FILE.read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]


def in_prometheus(names: tuple[str, ...]) -> set[str]:
    return {"airflow_" + name.replace(".", "_") for name in names}


KNOWN = (
    in_prometheus(GAUGES)
    | {name + end for name in in_prometheus(COUNTERS) for end in ("", "_total")}
    | {name + end for name in in_prometheus(TIMERS) for end in ("_sum", "_count")}
)


def queries() -> list[str]:
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return asked + [one["definition"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]


def names_in(query: str) -> set[str]:
    found = set(re.findall(r"\bairflow_\w+", query))
    # `__name__=~"airflow_canary_finished(_total)?"` stands for both.
    return found | {name + "_total" for name in found if f"{name}(_total)?" in query}


@pytest.mark.parametrize("query", queries())
def test_every_query_names_metrics_that_are_sent(query: str) -> None:
    assert names_in(query)
    assert names_in(query) <= KNOWN
    assert query.count("(") == query.count(")")
    assert query.count("{") == query.count("}")


def test_every_metric_but_the_duration_is_shown() -> None:
    asked = {name for query in queries() for name in names_in(query)}
    shown = {re.sub(r"_(sum|count|total)$", "", name) for name in asked}
    assert in_prometheus((*GAUGES, *COUNTERS, *TIMERS)) - shown == {"airflow_canary_duration"}


def test_canary_and_stable_are_on_one_axis() -> None:
    (panel,) = [one for one in PANELS if "canary and stable" in one["title"]]
    (target,) = panel["targets"]
    assert "by (service, side)" in target["expr"]
    assert panel["repeat"] == "check"


def test_no_panel_lies_on_another_and_none_names_a_data_source_of_somebodys() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells
        assert max(x for x, _ in own) < 24
        cells |= own
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)

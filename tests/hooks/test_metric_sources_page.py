"""Every release file that docs/metric-sources.md shows can be read, and makes its metric source."""

import re
from pathlib import Path

import pytest

from canary_release.core.release_file import load_release
from canary_release.hooks.registry import BACKENDS, METRIC_SOURCES, make_metric_source

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "metric-sources.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
RELEASE = """
service: checkout
load_balancer: {type: traefik, connection: lb, route: checkout, backends: [checkout-blue, checkout-green]}
steps: [{weight: 1%, bake: 30m}, {weight: 100%, bake: 30m}]
checks: [{metric: error_rate, max_increase: 0.5pp}]
lease: 10m
"""


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_of_the_page_is_a_release_file_that_makes_its_source(block: str) -> None:
    release = load_release(RELEASE + block, source_name="checkout.yaml", backends=BACKENDS)
    source = make_metric_source(release, stable="checkout-blue", canary="checkout-green")
    assert type(source).__name__ == METRIC_SOURCES[release.metrics.type].partition(":")[2]


def test_the_page_shows_every_store() -> None:
    shown = set(re.findall(r"type: (\w+)", "".join(BLOCKS)))
    assert shown >= {"prometheus", "scrape", "sql", "datadog", "influxdb", "graphite"}

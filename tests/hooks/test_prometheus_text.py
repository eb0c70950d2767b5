"""The text format: what is read, and what is refused instead of being read wrongly."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_release.core.problems import MetricSourceError
from canary_release.hooks.prometheus_text import parse


def values_of(text: str) -> list[float]:
    return [sample.value for sample in parse(text, {"up"})]


def test_comments_blank_lines_timestamps_and_exemplars_are_passed_over() -> None:
    text = '# HELP up Is it up?\n# TYPE up gauge\n\nup{a="1"} 1 1700000000000\nup{a="2"} 2 # {trace="x"} 0.5\r\n# EOF\n'
    assert values_of(text) == [1, 2]


def test_only_wanted_metrics_are_given() -> None:
    assert [sample.name for sample in parse("up 1\ndown 2\nup_total 3\n", {"up"})] == ["up"]


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True), st.text(), max_size=4))
def test_label_values_come_back_as_they_were_whatever_they_hold(labels: dict[str, str]) -> None:
    def escaped(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    line = "up{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "} 1"
    (sample,) = parse(line + "\n", {"up"})
    assert sample.labels == labels


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", 1.0), ("1e3", 1000.0), (".5", 0.5), ("-2.", -2.0), ("+Inf", math.inf), ("-Inf", -math.inf)],
)
def test_numbers_are_read_as_the_format_writes_them(text: str, value: float) -> None:
    assert values_of(f"up {text}\n") == [value]


def test_not_a_number_is_given_as_such() -> None:
    assert math.isnan(values_of("up NaN\n")[0])


@pytest.mark.parametrize(
    "line",
    [
        "<html><body>502 Bad Gateway</body></html>",
        "up",
        "up 1_000",
        "up 0x10",
        "up ten",
        'up{a="1" 1',
        'up{a="1} 1',
        "up{a=1} 1",
        'up{a="\\q"} 1',
        'up{a="1"b="2"} 1',
        "up 1 2 3",
        "9up 1",
        '{"message": "not found"}',
    ],
)
def test_a_line_that_is_no_metric_is_an_error_that_names_it(line: str) -> None:
    with pytest.raises(MetricSourceError, match="line 2 is no metric"):
        parse(f"fine 1\n{line}\n", {"up"})


def test_a_series_that_stands_there_twice_is_an_error() -> None:
    with pytest.raises(MetricSourceError, match="second time"):
        parse('up{a="1",b="2"} 1\nup{b="2",a="1"} 2\n', {"up"})


def test_a_label_that_stands_there_twice_is_an_error() -> None:
    with pytest.raises(MetricSourceError, match="label twice"):
        parse('up{a="1",a="2"} 1\n', {"up"})


def test_a_long_line_of_almost_labels_is_refused_at_once() -> None:
    with pytest.raises(MetricSourceError):
        parse("up{" + 'a="1",' * 20_000 + "\n", {"up"})

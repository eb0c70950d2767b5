"""The Prometheus text format, strictly: what does not parse is an error, never a missing sample.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (text format 0.0.4).  Own code because none of the
installed libraries reads it.  Comments, timestamps and exemplars are passed over.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from canary_release.core.problems import MetricSourceError

_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*+[ \t]*+=[ \t]*+"(?:[^"\\]|\\["\\n])*+"'
_NUMBER = r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|[+-]?(?:[Ii]nf|NaN|nan)"
_SAMPLE = re.compile(
    r"[ \t]*+(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*+)[ \t]*+"
    rf"(?:\{{[ \t]*+(?P<labels>{_LABEL}(?:[ \t]*+,[ \t]*+{_LABEL})*+[ \t]*+,?[ \t]*+)?\}}[ \t]*+)?"
    rf"(?P<value>{_NUMBER})(?:[ \t]++-?[0-9.]++)?[ \t]*+(?:\#.*)?"
)
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_LONGEST_QUOTE = 80  # characters of a bad line that an error shows


@dataclass(frozen=True)
class Sample:
    """One line: a metric's name, its labels, its value (which may be infinite or not a number)."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse(text: str, names: Collection[str]) -> list[Sample]:
    """The samples whose metric is one of ``names``; every line must parse, wanted or not.

    Raises MetricSourceError that names the line; also when a wanted series stands there twice.
    """
    samples: dict[tuple[str, frozenset[tuple[str, str]]], Sample] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.rstrip("\r")
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _SAMPLE.fullmatch(line)
        if match is None:
            raise MetricSourceError(f"line {number} is no metric: {line[:_LONGEST_QUOTE]!r}.")
        if match["name"] not in names:
            continue
        sample = Sample(match["name"], _labels(match["labels"] or "", number), float(match["value"]))
        key = (sample.name, frozenset(sample.labels.items()))
        if key in samples:
            raise MetricSourceError(f"line {number} has a series for the second time: {line[:_LONGEST_QUOTE]!r}.")
        samples[key] = sample
    return list(samples.values())


def _labels(text: str, number: int) -> dict[str, str]:
    pairs = _PAIR.findall(text)
    labels = {name: _ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], value) for name, value in pairs}
    if len(labels) != len(pairs):
        raise MetricSourceError(f"line {number} has a label twice.")
    return labels

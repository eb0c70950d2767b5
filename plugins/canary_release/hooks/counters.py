"""Counters of both sides at one instant, and what happened between two instants.

A reading keeps every series by itself, so that one series that falls is noticed although their sum rises.
"""

import json
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import Field

from canary_release.core.problems import CanaryError, MetricSourceError
from canary_release.core.values import Counts, Side
from canary_release.hooks.connections import Strict
from canary_release.hooks.prometheus_text import Sample, parse

KeyT = TypeVar("KeyT", bound=Hashable)


class CounterFellError(CanaryError):
    """A counter is lower than before, or gone: the counts between the two instants are unknown."""


class Names(Strict):
    """What an endpoint calls its metrics."""

    requests: str = Field(description="Counter of answered requests.")
    backend_label: str = Field(description="Label that holds the backend's name.")
    backend_suffix: str = Field("", description="What that label's value has after the backend's name.")
    status_label: str = Field("code", description="Label that holds the HTTP status; errors start with a 5.")
    latency: str | None = Field(None, description="Histogram of the time to answer, without _bucket.")
    latency_unit: Literal["seconds", "milliseconds"] = Field("seconds", description="Unit of that histogram.")
    where: dict[str, str] = Field(default_factory=dict, description="Labels that a series must have to be counted.")
    started: str = Field("process_start_time_seconds", description="Gauge that changes when the server restarts.")
    instances: str | None = Field(None, description="Gauge that adds up to how many instances of a backend are up.")

    @property
    def wanted(self) -> set[str]:
        buckets = None if self.latency is None else f"{self.latency}_bucket"
        return {name for name in (self.requests, self.started, buckets, self.instances) if name is not None}


@dataclass(frozen=True)
class SideReading:
    """Counters of one side by series. histograms: cumulative counts, one for each edge and one for infinity.

    instances: how many were up at that instant, None when nothing says so.
    """

    good: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    histograms: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    instances: int | None = None

    def since(self, before: "SideReading") -> Counts:
        """What happened since ``before``; a series that it does not have counts from zero. Raises CounterFellError."""
        good, errors = _rise(before.good, self.good), _rise(before.errors, self.errors)
        flat = _rise(_flat(before.histograms), _flat(self.histograms))
        cumulative = [sum(flat[key] for key in flat if key[1] == place) for place in range(len(_any(self.histograms)))]
        buckets = [count - below for below, count in zip([0, *cumulative], cumulative, strict=False)]
        if any(count < 0 for count in buckets):
            raise CounterFellError("a histogram's buckets moved against each other")
        return Counts(
            requests=sum(good.values()) + sum(errors.values()),
            errors=sum(errors.values()),
            buckets=tuple(buckets),
            instances=self.instances,
        )


@dataclass(frozen=True)
class Reading:
    """One look at one endpoint. edges: seconds, without infinity. A side is absent when no series names it."""

    sides: Mapping[Side, SideReading]
    edges: tuple[float, ...] = ()
    started: float | None = None

    def to_json(self) -> dict[str, Any]:
        sides = {
            side.value: {
                "good": one.good,
                "errors": one.errors,
                "histograms": one.histograms,
                "instances": one.instances,
            }
            for side, one in self.sides.items()
        }
        return {"sides": sides, "edges": self.edges, "started": self.started}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Reading":
        """Back from JSON; KeyError, TypeError, ValueError or AttributeError when it is none of ours."""
        sides = {
            Side(name): SideReading(
                dict(one["good"]),
                dict(one["errors"]),
                {key: tuple(counts) for key, counts in one["histograms"].items()},
                one.get("instances"),
            )
            for name, one in value["sides"].items()
        }
        return cls(sides, tuple(value["edges"]), value["started"])


def take_reading(text: str, names: Names, *, stable: str, canary: str) -> Reading:
    """The counters in an endpoint's text. Raises MetricSourceError for values that no counter can have."""
    samples = parse(text, names.wanted)
    backends = {Side.STABLE: stable, Side.CANARY: canary}
    edges, sides = set(), {}
    for side, backend in backends.items():
        own = [sample for sample in samples if _belongs(sample, names, backend)]
        requests = {_key(sample): _count(sample) for sample in own if sample.name == names.requests}
        if not requests:
            continue
        failed = {_key(sample) for sample in own if sample.name == names.requests and _is_error(sample, names)}
        histograms, side_edges = _histograms([s for s in own if s.name == f"{names.latency}_bucket"], names)
        edges |= side_edges
        sides[side] = SideReading(
            good={key: count for key, count in requests.items() if key not in failed},
            errors={key: count for key, count in requests.items() if key in failed},
            histograms=histograms,
            instances=_instances([sample for sample in own if sample.name == names.instances]),
        )
    if len(edges) > 1:
        raise MetricSourceError(f"the series of {names.latency} have different buckets; give them the same.")
    return Reading(sides, next(iter(edges), ()), _started(samples, names))


def _belongs(sample: Sample, names: Names, backend: str) -> bool:
    label = sample.labels.get(names.backend_label)
    suffixed = backend if backend.endswith(names.backend_suffix) else backend + names.backend_suffix
    return label == suffixed and names.where.items() <= sample.labels.items()


def _key(sample: Sample, *without: str) -> str:
    return json.dumps(sorted(pair for pair in sample.labels.items() if pair[0] not in without), separators=(",", ":"))


def _count(sample: Sample) -> int:
    if not math.isfinite(sample.value) or sample.value < 0 or not sample.value.is_integer():
        raise MetricSourceError(f"{sample.name}{dict(sample.labels)} is {sample.value}, which is no count.")
    return int(sample.value)


def _instances(gauges: list[Sample]) -> int | None:
    """None where nothing is known or nothing is up, which counts cannot come from."""
    return sum(_count(sample) for sample in gauges) or None


def _is_error(sample: Sample, names: Names) -> bool:
    status = sample.labels.get(names.status_label)
    if status is None:
        raise MetricSourceError(f"{sample.name}{dict(sample.labels)} has no label {names.status_label}; name its own.")
    return status.startswith("5")


def _histograms(samples: list[Sample], names: Names) -> tuple[dict[str, tuple[int, ...]], set[tuple[float, ...]]]:
    """Cumulative counts by series, and the edges that occur (seconds, without infinity)."""
    by_series: dict[str, dict[float, int]] = {}
    for sample in samples:
        by_series.setdefault(_key(sample, "le"), {})[_edge(sample)] = _count(sample)
    histograms, edges = {}, set()
    unit = 1000 if names.latency_unit == "milliseconds" else 1
    for key, cumulative in by_series.items():
        ordered = sorted(cumulative)
        counts = tuple(cumulative[edge] for edge in ordered)
        if ordered[-1] != math.inf or list(counts) != sorted(counts):
            raise MetricSourceError(f"{names.latency}{key} is no cumulative histogram that ends at +Inf.")
        histograms[key] = counts
        edges.add(tuple(edge / unit for edge in ordered[:-1]))
    return histograms, edges


def _edge(sample: Sample) -> float:
    try:
        edge = float(sample.labels["le"])
    except (KeyError, ValueError):
        edge = math.nan
    if math.isnan(edge) or edge == -math.inf:
        raise MetricSourceError(f"{sample.name}{dict(sample.labels)} has no edge in its label le.")
    return edge


def _started(samples: Iterable[Sample], names: Names) -> float | None:
    values = [sample.value for sample in samples if sample.name == names.started and not sample.labels]
    if values and not math.isfinite(values[0]):
        raise MetricSourceError(f"{names.started} is {values[0]}, which is no time.")
    return values[0] if values else None


def _rise(before: Mapping[KeyT, int], after: Mapping[KeyT, int]) -> dict[KeyT, int]:
    for key, count in before.items():
        if after.get(key, -1) < count:
            raise CounterFellError(f"a counter went from {count} to {after.get(key, 'nothing')}")
    return {key: count - before.get(key, 0) for key, count in after.items()}


def _flat(histograms: Mapping[str, tuple[int, ...]]) -> dict[tuple[str, int], int]:
    return {(key, place): count for key, counts in histograms.items() for place, count in enumerate(counts)}


def _any(histograms: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    return next(iter(histograms.values()), ())

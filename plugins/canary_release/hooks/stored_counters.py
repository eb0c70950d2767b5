"""What a store's raw samples of counters say about the requests between two scrapes.

A scrape is one instant of one target, so both sides of a load balancer are always seen at the same instant. A counter's
rise is its last sample less its sample at the last scrape counted before; a counter that was born since counts from
zero, which is what ``increase()`` misses. A target that was not known before counts from zero only when its own start
time shows that it is new, else from its first sample, so that nothing from before a shift is ever counted.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from canary_release.core.problems import MetricSourceError
from canary_release.core.values import Counts, Side, Window
from canary_release.hooks.counters import CounterFellError

# Labels that tell targets apart, and those of them of which one service has one only, unless it is said otherwise.
TARGET_LABELS = ("cluster", "namespace", "job", "pod", "instance", "replica", "prometheus", "prometheus_replica")
SINGLE_LABELS = ("cluster", "namespace", "environment", "env", "job", "replica", "prometheus", "prometheus_replica")
FORGOTTEN_AFTER = 3600.0  # seconds without a sample, after which a target need not be remembered


@dataclass(frozen=True)
class Counter:
    """One series of one side. points: (seconds since the epoch, value), ascending.

    edge: the bucket's upper edge in seconds, None for a counter of requests.  failed: whether it counts errors.
    """

    side: Side
    key: str
    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]
    edge: float | None = None
    failed: bool = False


@dataclass
class Target:
    """What is remembered of one scraped target. begin, seen: its first and last counted scrape; values: its counters at
    the last one.
    """

    begin: float
    seen: float
    started: float | None = None
    values: dict[str, int] = field(default_factory=dict)


@dataclass
class Memory:
    """until: the end of the last window, or the instant from which on the baseline counts.  targets: None before the
    first window.
    """

    until: float
    targets: dict[str, Target] | None = None

    def to_json(self) -> dict[str, Any]:
        if self.targets is None:
            return {"from": self.until}
        targets = {name: [one.begin, one.seen, one.started, one.values] for name, one in self.targets.items()}
        return {"until": self.until, "targets": targets}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Memory":
        """Back from JSON. Raises MetricSourceError when it is none of ours."""
        try:
            if "from" in value:
                return cls(float(value["from"]))
            targets = {
                name: Target(float(begin), float(seen), started, {key: int(count) for key, count in values.items()})
                for name, (begin, seen, started, values) in value["targets"].items()
            }
            return cls(float(value["until"]), targets)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise MetricSourceError("The cursor was not made by this metric source; take a new baseline.") from None


def key_of(labels: Mapping[str, str]) -> str:
    """Short and the same for the same labels in any process."""
    text = json.dumps(sorted(labels.items()), separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def target_of(labels: Mapping[str, str]) -> str:
    return key_of({name: labels[name] for name in TARGET_LABELS if name in labels})


def require_one_of_each(counters: Iterable[Counter], add_up: Sequence[str]) -> None:
    """Raise MetricSourceError when a side's series come from, say, two clusters and nobody said to add them up."""
    found: dict[tuple[Side, str], set[str]] = {}
    for counter in counters:
        for label in SINGLE_LABELS:
            if label in counter.labels and label not in add_up:
                found.setdefault((counter.side, label), set()).add(counter.labels[label])
    for (side, label), values in found.items():
        if len(values) > 1:
            names = ", ".join(sorted(values)[:4])
            raise MetricSourceError(
                f"{side} has series with {len(values)} different values of the label {label} ({names}): name one in "
                f"metrics.where, or list {label} in metrics.add_up to add them up."
            )


def next_window(
    memory: Memory, counters: Sequence[Counter], starts: Mapping[str, float], instance_label: str | None = None
) -> tuple[Window | None, Memory]:
    """The window from the memory to the newest scrape, and the memory after it; none, and the same, without news.

    starts: when a target's process started (seconds since the epoch), as far as known.  A counter that fell or a target
    that was restarted breaks the window, and the next one counts from there.
    """
    by_target: dict[str, list[Counter]] = {}
    for counter in counters:
        by_target.setdefault(target_of(counter.labels), []).append(counter)
    reads = {name: _read_target(name, own, memory, starts.get(name)) for name, own in by_target.items()}
    newest = max((read.target.seen for read in reads.values() if read.news), default=-math.inf)
    first = memory.targets is None
    start = min((read.target.begin for read in reads.values() if read.news), default=newest) if first else memory.until
    if newest <= start:
        return None, memory
    targets = {name: old for name, old in (memory.targets or {}).items() if newest - old.seen < FORGOTTEN_AFTER}
    after = Memory(newest, {**targets, **{name: read.target for name, read in reads.items() if read.known}})
    edges = _edges(counters)
    reason = next((read.broken for read in reads.values() if read.broken), None)
    if reason is None:
        rises = [(counter, read.rises.get(counter.key, 0)) for n, read in reads.items() for counter in by_target[n]]
        try:
            stable, canary = (
                _counts([pair for pair in rises if pair[0].side is side], edges, instance_label)
                for side in (Side.STABLE, Side.CANARY)
            )
            return Window(start, newest, stable, canary, edges), after
        except CounterFellError as error:
            reason = str(error)
    return Window(start, newest, None, None, edges, broken=reason), after


@dataclass
class _TargetRead:
    """known: it has a scrape that counts.  news: one that was not counted yet."""

    target: Target
    known: bool
    news: bool
    rises: dict[str, int]
    broken: str | None = None


def _read_target(name: str, counters: Sequence[Counter], memory: Memory, started: float | None) -> _TargetRead:
    before = (memory.targets or {}).get(name)
    if before is None:
        before = _baseline(counters, memory, started)
    if before is None:
        return _TargetRead(Target(0.0, 0.0), known=False, news=False, rises={})
    rises, values, broken = {}, dict(before.values), None
    seen = before.seen
    for counter in counters:
        # Stores show a new series late: one that was not remembered may have samples from before the last scrape.
        known = counter.key in before.values
        base = before.values[counter.key] if known else _held(counter, before.begin)
        since = before.seen if known else before.begin
        last, fresh = base, [point for point in counter.points if point[0] > since]
        for time, value in fresh:
            count = _count(counter, value)
            if count < last:
                broken = f"a counter went from {last} to {count}"
            last, seen = count, max(seen, time)
        if fresh:
            rises[counter.key] = last - base
            values[counter.key] = last
    if before.started is not None and started is not None and started != before.started:
        broken = "the load balancer was restarted"
    after = Target(before.begin, seen, before.started if started is None else started, values)
    return _TargetRead(after, known=True, news=seen > before.seen, rises=rises, broken=broken)


def _baseline(counters: Sequence[Counter], memory: Memory, started: float | None) -> Target | None:
    """Where a target that is not remembered counts from; None when it has no scrape that counts."""
    if memory.targets is not None and started is not None and started >= memory.until:
        return Target(started, started, started)
    known = memory.targets
    since = memory.until if known is None else min((target.begin for target in known.values()), default=-math.inf)
    scrape = min((time for counter in counters for time, _ in counter.points if time >= since), default=None)
    if scrape is None:
        return None
    born = [counter for counter in counters if counter.points and counter.points[0][0] <= scrape]
    values = {counter.key: _held(counter, scrape) for counter in born}
    return Target(scrape, scrape, started, values)


def _held(counter: Counter, moment: float) -> int:
    """The last value until then, which may be from the scrape before while this one is being stored; 0 without one."""
    return next((_count(counter, value) for time, value in reversed(counter.points) if time <= moment), 0)


def _count(counter: Counter, value: float) -> int:
    if not math.isfinite(value) or value < 0 or not value.is_integer():
        raise MetricSourceError(f"{dict(counter.labels)} is {value}, which is no count.")
    return int(value)


def _edges(counters: Iterable[Counter]) -> tuple[float, ...]:
    """Without infinity, empty when there is no histogram. MetricSourceError unless all histograms have the same."""
    by_histogram: dict[str, set[float]] = {}
    for counter in counters:
        if counter.edge is not None:
            rest = {name: value for name, value in counter.labels.items() if name != "le"}
            by_histogram.setdefault(key_of(rest), set()).add(counter.edge)
    found = {tuple(sorted(edges)) for edges in by_histogram.values()}
    if len(found) > 1:
        raise MetricSourceError("The series of the latency histogram have different buckets; give them the same.")
    edges = next(iter(found), (math.inf,))
    if edges[-1] != math.inf:
        raise MetricSourceError("The latency histogram has no bucket +Inf: its slowest requests would be lost.")
    return edges[:-1]


def _counts(rises: list[tuple[Counter, int]], edges: tuple[float, ...], instance_label: str | None) -> Counts | None:
    """One side's counts; None when no series of requests names it. Raises CounterFellError."""
    requests = [(counter, rise) for counter, rise in rises if counter.edge is None]
    if not requests:
        return None
    cumulative = [sum(rise for counter, rise in rises if counter.edge == edge) for edge in (*edges, math.inf)]
    buckets = [count - below for below, count in zip([0, *cumulative], cumulative, strict=False)]
    if any(count < 0 for count in buckets):
        raise CounterFellError("a histogram's buckets moved against each other")
    instances = {c.labels[instance_label] for c, _ in requests if instance_label and instance_label in c.labels}
    return Counts(
        requests=sum(rise for _, rise in requests),
        errors=sum(rise for counter, rise in requests if counter.failed),
        buckets=tuple(buckets) if edges else (),
        instances=len(instances) or None,
    )

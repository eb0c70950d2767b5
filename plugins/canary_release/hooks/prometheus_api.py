"""A metric source that reads raw samples of counters from a Prometheus HTTP API and counts by itself.

API: https://prometheus.io/docs/prometheus/latest/querying/api/, which VictoriaMetrics, Thanos and Mimir have, too.
Only range selectors are asked for, no functions: ``increase()`` and ``rate()`` guess at the edges of their range and
miss what a series was born with.  The answer of one query is one state of the store, so requests, errors and latency of
both sides belong together.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Literal, Self
from urllib.parse import urlencode

from airflow.sdk import BaseHook
from pydantic import Field, model_validator

from canary_release.core.field_types import Duration, with_default
from canary_release.core.problems import MetricSourceError
from canary_release.core.values import Cursor, Side, Window
from canary_release.hooks.connections import HttpServer, Strict, find_connection, http_server
from canary_release.hooks.counters import Names
from canary_release.hooks.label_escape import promql_one_of, promql_string
from canary_release.hooks.prometheus_answer import Series, series_of
from canary_release.hooks.scrape import PRESETS
from canary_release.hooks.stored_counters import (
    Counter,
    Memory,
    key_of,
    next_window,
    require_one_of_each,
    target_of,
)

# Metric and label names from each product's documentation; those of ``scrape`` are tested on the products themselves.
KNOWN = {
    "ingress-nginx": Names(
        requests="nginx_ingress_controller_requests",
        backend_label="ingress",
        status_label="status",
        latency="nginx_ingress_controller_request_duration_seconds",
    ),
    "istio": Names(
        requests="istio_requests_total",
        backend_label="destination_workload",
        status_label="response_code",
        latency="istio_request_duration_milliseconds",
        latency_unit="milliseconds",
        where={"reporter": "destination"},
    ),
    **PRESETS,
}
OVERLAP = 120.0  # seconds before a window in which a sample may lie that was stored late
LONGEST_RANGE = 600.0  # seconds of raw samples in one answer
HISTORY_STEP = 60.0  # seconds
HISTORY_ANSWER = 2_000_000  # characters of one answer that history aims at
MOST_INSTANCES = 50  # in one query for start times
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class PrometheusSource(BaseHook):
    """Connection type ``http``: the server's address, with a path such as ``/prometheus`` where it has one.

    A window ends at the newest scrape; as long as there is no newer one there is none, which is no data, not zero.
    """

    class Options(Strict):
        """What a release file says about the store beyond its connection."""

        preset: Literal[tuple(sorted(KNOWN))] | None = Field(  # type: ignore[valid-type]
            None, description="Whose metric names; traefik when names is absent."
        )
        names: Names | None = Field(None, description="The metric and label names themselves, for anything else.")
        where: dict[str, str] = Field(
            default_factory=dict, description="Labels that a series must have to be counted, such as its cluster."
        )
        label_values: dict[str, str] = Field(
            default_factory=dict, description="What the backend label says for a backend, where not the backend's name."
        )
        add_up: tuple[str, ...] = Field(
            (), strict=False, description="Labels of which a side may have several values, such as job or cluster."
        )
        instance_label: str | None = Field(None, description="Label that tells the service's instances apart.")
        scrape_interval: Duration = with_default(15.0, "15s", "How often the store scrapes; a lease must outlast it.")
        delay: Duration = with_default(2.0, "2s", "How long samples take until they can be read.")
        settle: Duration = with_default(0.0, "0s", "How long after a shift nothing is counted yet.")

        @model_validator(mode="after")
        def _names_are_names(self) -> Self:
            if self.preset is not None and self.names is not None:
                raise ValueError("give either preset or names, not both")
            names = self.names or KNOWN[self.preset or "traefik"]
            for metric in names.wanted:
                if not _METRIC.fullmatch(metric):
                    raise ValueError(f"{metric!r} is no name of a metric")
            for label in (names.backend_label, names.status_label, *names.where, *self.where, *self.add_up):
                if not _LABEL.fullmatch(label):
                    raise ValueError(f"{label!r} is no name of a label")
            return self

    def __init__(
        self, connection_id: str, stable: str, canary: str, options: Options, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.stable = stable
        self.canary = canary
        self.options = options
        self.clock = clock

    @staticmethod
    def shortest_lease(options: Options) -> float:
        """Seconds: only windows renew a lease, and the first comes with the second scrape after a shift."""
        return 2 * options.scrape_interval + options.delay + options.settle

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        """One window from the last scrape counted to the newest; with None only a cursor, the baseline.

        The baseline is the first scrape from now on, so nothing from before a shift is counted.  A counter that fell or
        a restarted target gives a broken window.  Raises MetricSourceError when the store cannot be read, answers only
        in part or gives values that no counter can have; the cursor then stays good.
        """
        now = self.clock()
        until = now - self.options.delay
        if cursor is None:
            self._counters(self._samples(until - OVERLAP, until))
            return [], Memory(now + self.options.settle).to_json()
        memory, windows = Memory.from_json(cursor), []
        for begin, end in _ranges(memory.until - OVERLAP, until):
            counters = self._counters(self._samples(begin, end))
            window, memory = next_window(
                memory, counters, self._starts(counters, begin, end), self.options.instance_label
            )
            windows += [self._with_instances(window)] if window else []
        return windows, memory.to_json()

    def history(self, start: float, end: float) -> list[Window]:
        """Windows of a minute between two instants (seconds since the epoch), as far as the store remembers.

        A target's restart breaks a window only when a counter fell.  Raises MetricSourceError.
        """
        moments = self._remembered(start, end, lambda _: "")
        return [window for moment in moments for window in moment.values()]

    def history_of_instances(self, start: float, end: float) -> list[dict[str, Window]]:
        """The windows of ``history`` for each value of ``instance_label``; empty without that option."""
        label = self.options.instance_label
        if label is None:
            return []
        return list(self._remembered(start, end, lambda counter: counter.labels.get(label, "")))

    def _remembered(self, start: float, end: float, group: Callable[[Counter], str]) -> Iterator[dict[str, Window]]:
        """The windows of each group of counters, moment by moment."""
        memories: dict[str, Memory] = {}
        for counters in self._moments(start, end):
            groups: dict[str, list[Counter]] = {}
            for counter in counters:
                groups.setdefault(group(counter), []).append(counter)
            moment = {}
            for name, own in groups.items():
                memory = memories.get(name, Memory(start))
                window, memories[name] = next_window(memory, own, {}, self.options.instance_label)
                if window is not None:
                    moment[name] = window
            yield moment

    # --- asking -------------------------------------------------------------------------------------------------------

    @cached_property
    def _names(self) -> Names:
        return self.options.names or KNOWN[self.options.preset or "traefik"]

    @cached_property
    def _server(self) -> HttpServer:
        return http_server(find_connection(self.connection_id), MetricSourceError)

    @cached_property
    def _sides(self) -> dict[str, Side]:
        """Which side a value of the backend label stands for."""
        sides = {}
        for backend, side in ((self.stable, Side.STABLE), (self.canary, Side.CANARY)):
            suffix = self._names.backend_suffix
            own = backend if backend.endswith(suffix) else backend + suffix
            sides[self.options.label_values.get(backend, own)] = side
        if len(sides) < 2:
            raise MetricSourceError(
                f"Both backends have the value {next(iter(sides))!r} in the label {self._names.backend_label}; correct "
                "metrics.label_values."
            )
        return sides

    @cached_property
    def _selector(self) -> str:
        names = self._names
        metrics = [names.requests, *([f"{names.latency}_bucket"] if names.latency else [])]
        return self._selector_of(f"__name__=~{promql_one_of(metrics)}")

    def _selector_of(self, *matchers: str) -> str:
        """Series of both sides, by the labels that the release file asks for."""
        names = self._names
        fixed = {**names.where, **self.options.where}
        sides = f"{names.backend_label}=~{promql_one_of(self._sides)}"
        equal = (f"{name}={promql_string(value)}" for name, value in fixed.items())
        return "{" + ",".join([*matchers, sides, *equal]) + "}"

    def _with_instances(self, window: Window) -> Window:
        """With how many instances of each side were up at its end, where a gauge says so and their counters do not."""
        gauge = self._names.instances
        if gauge is None or self.options.instance_label is not None:
            return window
        selector = f"{gauge}{self._selector_of()}[{_milliseconds(OVERLAP)}]"
        up = _instances_up(self._ask("query", query=selector, time=f"{window.end:.3f}")[0], self._names, self._sides)
        stable, canary = (
            counts and replace(counts, instances=up.get(side))
            for side, counts in ((Side.STABLE, window.stable), (Side.CANARY, window.canary))
        )
        return replace(window, stable=stable, canary=canary)

    def _samples(self, begin: float, end: float) -> list[Series]:
        return self._ask("query", query=f"{self._selector}[{_milliseconds(end - begin)}]", time=f"{end:.3f}")[0]

    def _starts(self, counters: Sequence[Counter], begin: float, end: float) -> dict[str, float]:
        """When the process behind each target started, as far as the store knows."""
        instances = sorted({counter.labels["instance"] for counter in counters if "instance" in counter.labels})
        targets = {target_of(counter.labels) for counter in counters}
        found = {}
        for place in range(0, len(instances), MOST_INSTANCES):
            some = promql_one_of(instances[place : place + MOST_INSTANCES])
            selector = f"{self._names.started}{{instance=~{some}}}[{_milliseconds(end - begin)}]"
            for labels, points in self._ask("query", query=selector, time=f"{end:.3f}")[0]:
                # The counters' own labels have more than the target's, but none of these.
                own = target_of(labels)
                if own in targets and points:
                    found[own] = points[-1][1]
        return found

    def _moments(self, start: float, end: float) -> Iterator[list[Counter]]:
        """The counters at each moment of the history, with the moment before."""
        size = 5
        while start + HISTORY_STEP <= end:
            last = min(start + size * HISTORY_STEP, end)
            span = {"start": f"{start:.3f}", "end": f"{last:.3f}", "step": f"{HISTORY_STEP:g}"}
            series, length = self._ask("query_range", query=self._selector, nocache="1", **span)
            counters = self._counters(series)
            moments = sorted({moment for counter in counters for moment, _ in counter.points})
            held = [(counter, dict(counter.points)) for counter in counters]
            for pair in pairwise(moments):
                cut = ((one, [(moment, by[moment]) for moment in pair if moment in by]) for one, by in held)
                yield [replace(one, points=tuple(points)) for one, points in cut if points]
            start += (last - start) // HISTORY_STEP * HISTORY_STEP
            size = max(2, min(1000, size * HISTORY_ANSWER // max(length, 1)))

    def _ask(self, endpoint: str, **parameters: str) -> tuple[list[Series], int]:
        """The series of an answer, and how long the answer was."""
        path = f"/api/v1/{endpoint}"
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        text = self._server.send("POST", path, body=urlencode(parameters), headers=headers).text
        try:
            return series_of(json.loads(text)), len(text)
        except (ValueError, RecursionError):
            raise MetricSourceError(f"{self._server.base_url}{path} answered something that is not JSON.") from None
        except MetricSourceError as error:
            raise MetricSourceError(f"{self._server.base_url}{path}: {error}") from None

    # --- reading ------------------------------------------------------------------------------------------------------

    def _counters(self, series: Sequence[Series]) -> list[Counter]:
        counters = [self._counter(labels, points) for labels, points in series]
        require_one_of_each(counters, self.options.add_up)
        return counters

    def _counter(self, labels: dict[str, str], points: tuple[tuple[float, float], ...]) -> Counter:
        names = self._names
        side = self._sides.get(labels.get(names.backend_label, ""))
        if side is None:
            raise MetricSourceError(f"{self.connection_id} gave a series that was not asked for: {labels}.")
        if labels.get("__name__") != names.requests:
            return Counter(side, key_of(labels), labels, points, edge=_edge(labels, names))
        status = labels.get(names.status_label)
        if status is None:
            raise MetricSourceError(f"{names.requests} has no label {names.status_label}; name its own.")
        return Counter(side, key_of(labels), labels, points, failed=status.startswith("5"))


def _ranges(begin: float, end: float) -> Iterator[tuple[float, float]]:
    """Pieces of a time that may be too long for one answer."""
    while end - begin > LONGEST_RANGE:
        yield begin, begin + LONGEST_RANGE
        begin += LONGEST_RANGE
    if end > begin:
        yield begin, end


def _milliseconds(seconds: float) -> str:
    return f"{max(1, math.ceil(seconds * 1000))}ms"


def _edge(labels: Mapping[str, str], names: Names) -> float:
    try:
        edge = float(labels["le"])
    except (KeyError, ValueError):
        edge = math.nan
    if not edge > 0:
        raise MetricSourceError(f"{names.latency}_bucket has a series without an edge in its label le.")
    return edge / (1000 if names.latency_unit == "milliseconds" else 1)


def _instances_up(series: Sequence[Series], names: Names, sides: Mapping[str, Side]) -> dict[Side, int]:
    """By side, from the newest values of the gauge. Replicas of a load balancer stand before the same instances."""
    by_target: dict[Side, dict[str, int]] = {}
    for labels, points in series:
        side = sides.get(labels.get(names.backend_label, ""))
        if side is not None and points and points[-1][1].is_integer():
            of_side, target = by_target.setdefault(side, {}), target_of(labels)
            of_side[target] = of_side.get(target, 0) + int(points[-1][1])
    largest = {side: max(targets.values()) for side, targets in by_target.items()}
    return {side: number for side, number in largest.items() if number > 0}

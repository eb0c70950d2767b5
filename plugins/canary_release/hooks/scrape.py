"""A metric source that reads counters straight from the load balancer's own metrics endpoint.

Counts are differences of counters against the values in the cursor, and a series that was not there counts from zero:
load balancers create the series of a status code with its first request, so the first errors of a canary are exactly
what ``increase()`` over scraped values misses.
"""

import time
from collections.abc import Callable
from functools import cached_property
from typing import Literal, Self

from airflow.sdk import BaseHook
from pydantic import Field, model_validator

from canary_release.core.field_types import Duration, with_default
from canary_release.core.problems import MetricSourceError
from canary_release.core.values import Counts, Cursor, Side, Window
from canary_release.hooks.connections import HttpServer, Strict, find_connection, http_server
from canary_release.hooks.counters import CounterFellError, Names, Reading, SideReading, take_reading

PRESETS = {
    # For sides that are two servers of a Caddy. Its counters begin anew with every change of its configuration.
    "caddy": Names(
        requests="caddy_http_request_duration_seconds_count",
        backend_label="server",
        status_label="code",
        latency="caddy_http_request_duration_seconds",
    ),
    # At /stats/prometheus. The histogram lags behind the counters by Envoy's stats_flush_interval, 5 s by default.
    "envoy": Names(
        requests="envoy_cluster_upstream_rq",
        backend_label="envoy_cluster_name",
        status_label="envoy_response_code",
        latency="envoy_cluster_upstream_rq_time",
        latency_unit="milliseconds",
        instances="envoy_cluster_membership_healthy",
    ),
    # It has no histogram; for response times read the access log.
    "haproxy": Names(
        requests="haproxy_backend_http_responses_total",
        backend_label="proxy",
        status_label="code",
        started="haproxy_process_start_time_seconds",
        instances="haproxy_backend_active_servers",
    ),
    "traefik": Names(
        requests="traefik_service_requests_total",
        backend_label="service",
        backend_suffix="@file",
        status_label="code",
        latency="traefik_service_request_duration_seconds",
        # Only for services with a health check.
        instances="traefik_service_server_up",
    ),
}


class ScrapeSource(BaseHook):
    """Connection type ``http``: host and port of an endpoint in the Prometheus text format.

    A side without any series is None (no data); a side whose series do not move has zero requests.
    """

    class Options(Strict):
        """What a release file says about the endpoint beyond its connection."""

        path: str = Field("/metrics", pattern=r"^/[^/\s][^\s]*$|^/$", description="Where the metrics are.")
        preset: Literal["caddy", "envoy", "haproxy", "traefik"] | None = Field(
            None, description="Whose metric names; traefik when names is absent."
        )
        names: Names | None = Field(None, description="The metric names themselves, for anything else.")
        replicas: tuple[str, ...] = Field(
            (), strict=False, description="Connections of further replicas of the load balancer; counts are added up."
        )
        settle: Duration = with_default(0.0, "0s", "How long after a shift nothing is counted yet.")

        @model_validator(mode="after")
        def _one_way_of_naming(self) -> Self:
            if self.preset is not None and self.names is not None:
                raise ValueError("give either preset or names, not both")
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
        """Seconds, a poll not included: only windows renew a lease."""
        return options.settle

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        """One window from the cursor to now; with None only a cursor, the baseline, which moves while it settles.

        A counter that fell, a restarted server or changed buckets give a broken window that says so, and the next one
        counts from there.  Raises MetricSourceError when an endpoint cannot be read or gives values that no counter can
        have; the cursor then stays good, and the next read covers the gap.
        """
        readings = {server.connection_id: self._scrape(server) for server in self._servers}
        now = self.clock()
        new = {"time": now, "endpoints": {name: reading.to_json() for name, reading in readings.items()}}
        if cursor is None:
            return [], new | {"settled": now + self.options.settle}
        start, settled, before = _opened(cursor)
        if start < settled:
            return [], new | {"settled": settled}
        return [_window(start, now, before, readings)], new

    @property
    def _names(self) -> Names:
        return self.options.names or PRESETS[self.options.preset or "traefik"]

    @cached_property
    def _servers(self) -> list[HttpServer]:
        connections = dict.fromkeys((self.connection_id, *self.options.replicas))
        return [http_server(find_connection(each), MetricSourceError) for each in connections]

    def _scrape(self, server: HttpServer) -> Reading:
        text = server.get_text(self.options.path, accept="text/plain;version=0.0.4")
        try:
            return take_reading(text, self._names, stable=self.stable, canary=self.canary)
        except MetricSourceError as error:
            raise MetricSourceError(f"{server.base_url}{self.options.path}: {error}") from None


def _opened(cursor: Cursor) -> tuple[float, float, dict[str, Reading]]:
    """When it was made, when the shift before it has settled, and the readings."""
    try:
        start, endpoints = float(cursor["time"]), cursor["endpoints"].items()
        return start, float(cursor.get("settled", start)), {name: Reading.from_json(one) for name, one in endpoints}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MetricSourceError("The cursor was not made by this metric source; take a new baseline.") from None


def _window(start: float, end: float, before: dict[str, Reading], after: dict[str, Reading]) -> Window:
    edges = next(iter(after.values())).edges or next(iter(before.values())).edges
    try:
        _compare(start, end, before, after)
        stable, canary = (_counts(side, len(edges), before, after) for side in (Side.STABLE, Side.CANARY))
    except CounterFellError as reason:
        return Window(start=start, end=max(start, end), stable=None, canary=None, edges=edges, broken=str(reason))
    return Window(start=start, end=end, stable=stable, canary=canary, edges=edges)


def _compare(start: float, end: float, before: dict[str, Reading], after: dict[str, Reading]) -> None:
    """Raise CounterFellError unless the differences between the readings mean something."""
    if end <= start:
        raise CounterFellError("the clock did not move forward")
    if set(before) != set(after):
        raise CounterFellError("other endpoints were read than before")
    edges = {reading.edges for reading in (*before.values(), *after.values()) if reading.edges}
    if len(edges) > 1:
        raise CounterFellError("the latency buckets changed, or differ between the endpoints")
    for name, reading in after.items():
        if before[name].started != reading.started:
            raise CounterFellError(f"the load balancer behind connection {name} was restarted")


def _counts(side: Side, edges: int, before: dict[str, Reading], after: dict[str, Reading]) -> Counts | None:
    """The side's counts over all endpoints; None when none of them has heard of it."""
    nothing = SideReading()
    parts = [
        reading.sides.get(side, nothing).since(before[name].sides.get(side, nothing))
        for name, reading in after.items()
        if side in reading.sides or side in before[name].sides
    ]
    if not parts:
        return None
    # A side may have requests and no histogram yet; it then has as many buckets as the other, all empty.
    width = edges + 1 if edges else 0
    buckets = tuple(sum(part.buckets[place] for part in parts if part.buckets) for place in range(width))
    return Counts(
        requests=sum(part.requests for part in parts),
        errors=sum(part.errors for part in parts),
        buckets=buckets,
        # Replicas of a load balancer stand before the same instances.
        instances=max((part.instances for part in parts if part.instances), default=None),
    )

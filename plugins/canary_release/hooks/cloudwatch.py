"""A metric source that reads both sides' counts from Amazon CloudWatch, period by period.

API: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html.  Each period of a minute
or more becomes one window, whole periods only, and only those that ended ``delay`` ago: CloudWatch is late, and what
was read once is not read again.  AWS writes no data point where there is nothing to count.  Latency comes as counts
between edges through the statistic TC(a:b), an interpolated number of values in (a, b]:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Statistics-definitions.html
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, Self

from airflow.sdk import BaseHook
from pydantic import Field, model_validator

from canary_release.core.problems import MetricSourceError
from canary_release.core.values import Counts, Cursor, Side, Window
from canary_release.hooks.aws_client import AwsClient, Region
from canary_release.hooks.aws_lambda import versions_of
from canary_release.hooks.connections import Strict

MOST_QUERIES = 500  # in one GetMetricData
MOST_PERIODS = 400  # asked for at once; a longer gap is read in pieces
EDGES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0)


class CloudWatchNames(Strict):
    """What CloudWatch calls a service's metrics."""

    namespace: str = Field(description="Such as AWS/ApplicationELB.")
    requests: str = Field(description="Metric whose sum is the number of requests.")
    errors: tuple[str, ...] = Field(strict=False, description="Metrics whose sums, added up, are the failed ones.")
    latency: str | None = Field(None, description="Metric of the time to answer.")
    latency_unit: Literal["seconds", "milliseconds"] = Field("seconds", description="Unit of that metric.")


PRESETS = {
    # A target that cannot be reached answers nothing and has no 5XX; per target group only this tells of it.
    "alb": CloudWatchNames(
        namespace="AWS/ApplicationELB",
        requests="RequestCount",
        errors=("HTTPCode_Target_5XX_Count", "TargetConnectionErrorCount"),
        latency="TargetResponseTime",
    ),
    "lambda": CloudWatchNames(
        namespace="AWS/Lambda",
        requests="Invocations",
        errors=("Errors",),
        latency="Duration",
        latency_unit="milliseconds",
    ),
}


class CloudWatchOptions(Strict):
    """What a release file says about the metrics beyond their connection."""

    preset: Literal["alb", "lambda"] | None = Field(None, description="Whose metric names; alb without names.")
    names: CloudWatchNames | None = Field(None, description="The metric names themselves, for anything else.")
    dimensions: dict[str, str] = Field(default_factory=dict, description="Dimensions that both sides have.")
    backends: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="Dimensions of each backend alone, by the backend's name."
    )
    function: str | None = Field(None, description="Only with the preset lambda: the function.")
    alias: str = Field("live", description="Only with the preset lambda: the alias that callers use.")
    period: int = Field(60, ge=60, le=3600, multiple_of=60, description="Seconds of one window.")
    delay: int = Field(120, ge=0, le=3600, description="Seconds until CloudWatch has all of a period.")
    settle: int = Field(0, ge=0, le=3600, description="Seconds after a shift in which nothing is counted yet.")
    latency: Literal["counts", "percentiles", "none"] = Field(
        "counts", description="What is read of the time to answer."
    )
    edges: tuple[float, ...] = Field(EDGES, strict=False, description="Seconds between which answers are counted.")
    percentiles: tuple[float, ...] = Field(
        (0.95, 0.99), strict=False, description="Read as the values p95, p99, … when latency is percentiles."
    )
    region: Region | None = Field(None, description="AWS region; default: the connection's.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.preset is not None and self.names is not None:
            raise ValueError("give either preset or names, not both")
        if (self.function is not None) != (self.preset == "lambda"):
            raise ValueError("the preset lambda needs the key function, and nothing else does")
        if self.preset != "lambda" and len(self.backends) != 2:
            raise ValueError("backends needs the two backends, each with the dimensions that are its own")
        finite = all(math.isfinite(edge) and edge > 0 for edge in self.edges)
        if not finite or list(self.edges) != sorted(set(self.edges)) or not 1 <= len(self.edges) <= 100:
            raise ValueError("edges must be positive seconds that rise, 100 at most")
        if not all(0 < share < 1 for share in self.percentiles):
            raise ValueError("percentiles lie between 0 and 1, such as 0.95")
        if self.named.latency is None and self.latency != "none":
            raise ValueError("without the metric names.latency, write `latency: none`")
        return self

    @property
    def named(self) -> CloudWatchNames:
        return self.names or PRESETS[self.preset or "alb"]


class CloudWatchSource(BaseHook):
    """Connection type ``aws``. One window a period; the two sides are told apart by their dimensions.

    A period in which neither side has a request count is no data; where only one has, the other had no requests.
    """

    Options = CloudWatchOptions

    def __init__(
        self,
        connection_id: str,
        stable: str,
        canary: str,
        options: CloudWatchOptions,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.stable = stable
        self.canary = canary
        self.options = options
        self.clock = clock

    @staticmethod
    def shortest_lease(options: CloudWatchOptions) -> float:
        """Seconds, a poll not included: only windows renew a lease; the first comes after the first whole period."""
        return float(2 * options.period + options.delay + options.settle)

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        """A window for each whole period since the cursor that ended ``delay`` ago; none while there is none.

        The baseline is the next whole period, so that no window has requests from before a shift.  Raises
        MetricSourceError; the cursor then stays good.
        """
        period, now = self.options.period, self.clock()
        if cursor is None:
            return [], {"end": math.ceil((now + self.options.settle) / period) * period, "period": period}
        start = self._opened(cursor)
        end = min(math.floor((now - self.options.delay) / period) * period, start + MOST_PERIODS * period)
        if end <= start:
            return [], dict(cursor)
        return self._windows(start, end), {"end": end, "period": period}

    def history(self, start: float, end: float) -> list[Window]:
        """The whole periods between two instants (seconds since the epoch) in which there was any request."""
        period = self.options.period
        latest = math.floor(min(end, self.clock() - self.options.delay) / period) * period
        found: list[Window] = []
        for first in range(math.ceil(start / period) * period, latest, MOST_PERIODS * period):
            found += self._windows(first, min(first + MOST_PERIODS * period, latest))
        return [window for window in found if window.stable is not None]

    def _opened(self, cursor: Cursor) -> int:
        end, period = cursor.get("end"), cursor.get("period")
        if not isinstance(end, int) or period != self.options.period or end % self.options.period:
            raise MetricSourceError("The cursor was not made by this metric source; take a new baseline.")
        return end

    def _windows(self, start: int, end: int) -> list[Window]:
        asked = self._asked()
        told: dict[str, dict[int, float]] = {}
        ids = {f"q{place}": key for place, key in enumerate(asked)}
        queries = [{"Id": each, "MetricStat": asked[key], "ReturnData": True} for each, key in ids.items()]
        for first in range(0, len(queries), MOST_QUERIES):
            for one in self._results(queries[first : first + MOST_QUERIES], start, end):
                told.setdefault(ids[one["Id"]], {}).update(_points(one))
        return [self._window(at, told) for at in range(start, end, self.options.period)]

    def _results(self, queries: list[dict[str, Any]], start: int, end: int) -> Iterator[dict[str, Any]]:
        """Every result, of all pages. MetricSourceError when CloudWatch could not give one."""
        known = {query["Id"] for query in queries}
        asked = {
            "MetricDataQueries": queries,
            "StartTime": datetime.fromtimestamp(start, UTC),
            "EndTime": datetime.fromtimestamp(end, UTC),
            "ScanBy": "TimestampAscending",
        }
        for page in self._client.pages("get_metric_data", **asked):
            for one in page["MetricDataResults"]:
                if one["Id"] not in known or one.get("StatusCode") in ("InternalError", "Forbidden"):
                    what = f"{one.get('Label', one['Id'])}: {one.get('StatusCode')}"
                    raise MetricSourceError(
                        f"CloudWatch could not answer ({what}); it is asked again at the next poll."
                    )
                yield one

    def _asked(self) -> dict[str, dict[str, Any]]:
        """What is asked for, by ``<side> <name>``."""
        names, asked = self.options.named, {}
        for side, backend in ((Side.STABLE, self.stable), (Side.CANARY, self.canary)):
            dimensions = [{"Name": name, "Value": value} for name, value in sorted(self._dimensions(backend).items())]
            wanted = [("requests", names.requests, "Sum")]
            wanted += [(f"error {metric}", metric, "Sum") for metric in names.errors]
            wanted += [(name, names.latency or "", statistic) for name, statistic in self._latency_statistics()]
            for name, metric, statistic in wanted:
                place = {"Namespace": names.namespace, "MetricName": metric, "Dimensions": dimensions}
                asked[f"{side} {name}"] = {"Metric": place, "Period": self.options.period, "Stat": statistic}
        return asked

    def _latency_statistics(self) -> list[tuple[str, str]]:
        """Our names of them and CloudWatch's."""
        if self.options.latency == "counts":
            bounds = ["", *(f"{edge * self._unit:.10g}" for edge in self.options.edges), ""]
            return [(f"bucket {place}", f"TC({low}:{high})") for place, (low, high) in enumerate(pairwise(bounds))]
        if self.options.latency == "percentiles":
            return [(_p(share), _p(share)) for share in self.options.percentiles]
        return []

    def _dimensions(self, backend: str) -> Mapping[str, str]:
        if self.options.function is not None:
            function = self.options.function
            own = {"Resource": f"{function}:{self.options.alias}", "ExecutedVersion": self._versions[backend]}
            return {"FunctionName": function, **own}
        if backend not in self.options.backends:
            known = ", ".join(sorted(self.options.backends))
            raise MetricSourceError(f"metrics.backends has no dimensions for {backend}; it has {known}.")
        return {**self.options.dimensions, **self.options.backends[backend]}

    def _window(self, at: int, told: Mapping[str, Mapping[int, float]]) -> Window:
        edges = self.options.edges if self.options.latency == "counts" else ()
        sides = {side: {key: of[at] for key, of in _of(side, told).items() if at in of} for side in Side}
        end, seen = at + self.options.period, any("requests" in told for told in sides.values())
        try:
            stable, canary = (self._counts(sides[side]) if seen else None for side in (Side.STABLE, Side.CANARY))
        except ValueError as reason:
            return Window(start=at, end=end, stable=None, canary=None, edges=edges, broken=str(reason))
        return Window(start=at, end=end, stable=stable, canary=canary, edges=edges)

    def _counts(self, told: Mapping[str, float]) -> Counts:
        """One side in one period. ValueError for numbers that no counts can be."""
        if any(not math.isfinite(number) or number < 0 for number in told.values()):
            raise ValueError(f"CloudWatch gave a number that is no count: {dict(told)}")
        requests = round(told.get("requests", 0.0))
        errors = round(sum(number for name, number in told.items() if name.startswith("error ")))
        width = len(self.options.edges) + 1 if self.options.latency == "counts" else 0
        buckets = whole_numbers([told.get(f"bucket {place}", 0.0) for place in range(width)])
        percentiles = {
            _p(share): told[_p(share)] / self._unit for share in self.options.percentiles if _p(share) in told
        }
        # A connection that was refused may be tried on another target: more failures than requests.
        return Counts(requests, min(errors, requests), buckets, values=percentiles)

    @property
    def _unit(self) -> int:
        return 1000 if self.options.named.latency_unit == "milliseconds" else 1

    @cached_property
    def _versions(self) -> dict[str, str]:
        client = AwsClient(self.connection_id, "lambda", raises=MetricSourceError, region=self.options.region)
        return versions_of(client, str(self.options.function), (self.stable, self.canary), MetricSourceError)

    @cached_property
    def _client(self) -> AwsClient:
        return AwsClient(self.connection_id, "cloudwatch", raises=MetricSourceError, region=self.options.region)


def whole_numbers(parts: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers next to ``parts`` whose sum is the rounded sum: the largest remainders are rounded up."""
    whole = [math.floor(part) for part in parts]
    left = round(math.fsum(parts)) - sum(whole)
    by_remainder = sorted(range(len(parts)), key=lambda place: whole[place] - parts[place])
    for place in by_remainder[: max(left, 0)]:
        whole[place] += 1
    return tuple(whole)


def _p(share: float) -> str:
    return f"p{100 * share:.10g}"


def _of(side: Side, told: Mapping[str, Mapping[int, float]]) -> dict[str, Mapping[int, float]]:
    return {key.partition(" ")[2]: points for key, points in told.items() if key.startswith(f"{side} ")}


def _points(result: Mapping[str, Any]) -> dict[int, float]:
    """Values by the start of their period, in seconds since the epoch."""
    stamps = [round(stamp.timestamp()) for stamp in result["Timestamps"]]
    return dict(zip(stamps, map(float, result["Values"]), strict=True))

"""A metric source that asks InfluxDB for counts, interval by interval: InfluxQL (1.x) or Flux (2.x).

APIs: https://docs.influxdata.com/influxdb/v1/tools/api/#query-http-endpoint and
https://docs.influxdata.com/influxdb/v2/api/#operation/PostQuery.  An error of either may come with the status 200.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, Self
from urllib.parse import urlencode

from pydantic import Field, model_validator

from canary_release.core.problems import MetricSourceError
from canary_release.hooks.connections import HttpExtra, HttpServer, find_connection, http_server, read_extra
from canary_release.hooks.interval_windows import IntervalOptions, IntervalSource, Points, only_series, read_point
from canary_release.hooks.label_escape import filled, flux_string, influxql_string

_START, _END = "$start", "$end"
_WHERE = re.compile(r"\s+where\s+", re.IGNORECASE)


class InfluxSource(IntervalSource):
    """Connection type ``http``: the server's address. InfluxDB 1.x: login and password; 2.x: password = token and
    no login.

    A query of InfluxQL is a SELECT with a WHERE, to which the time and the intervals are added: ``SELECT sum("count")
    FROM "requests" WHERE "backend" = $backend``.  One of Flux is a pipeline with ``range(start: $start, stop: $end)``,
    to which the sums over intervals are added.
    """

    class Options(IntervalOptions):
        """What a release file says about InfluxDB beyond its connection."""

        language: Literal["influxql", "flux"] = Field("influxql", description="What the queries are written in.")
        database: str | None = Field(None, description="Only with influxql: the database.")
        org: str | None = Field(None, description="Only with flux: the organisation's name.")

        @model_validator(mode="after")
        def _fits_the_language(self) -> Self:
            place = "database" if self.language == "influxql" else "org"
            other = "org" if self.language == "influxql" else "database"
            if getattr(self, place) is None or getattr(self, other) is not None:
                raise ValueError(f"with {self.language}, give {place} and not {other}")
            for name, query in self.queries.items():
                self._check(name, " ".join(query.lower().split()))
            return self

        def _check(self, name: str, query: str) -> None:
            if self.language == "flux":
                if _START not in query or _END not in query or "aggregatewindow" in query:
                    raise ValueError(
                        f"{name}: the query needs range(start: {_START}, stop: {_END}) and no aggregateWindow, which "
                        "is added here"
                    )
            elif not _WHERE.search(query) or "group by" in query or ";" in query:
                raise ValueError(
                    f"{name}: the query must be one SELECT … WHERE … without GROUP BY, which is added here"
                )

    options: Options

    def points(self, query: str, backend: str, start: float, end: float, *, counts: bool) -> Points:
        """See IntervalSource. An interval without a point is left out."""
        if self.options.language == "flux":
            found = self._flux(query, backend, start, end, "sum" if counts else "mean")
        else:
            found = self._influxql(query, backend, start, end)
        return {moment: value for moment, value in found.items() if start <= moment < end}

    @cached_property
    def _server(self) -> HttpServer:
        connection = find_connection(self.connection_id)
        extra = read_extra(connection, HttpExtra)
        if connection.password and not connection.login:
            token = {"Authorization": f"Token {connection.password}"}
            extra = extra.model_copy(update={"headers": {**extra.headers, **token}})
        return http_server(connection, MetricSourceError, extra=extra)

    # --- InfluxQL -----------------------------------------------------------------------------------------------------

    def _influxql(self, query: str, backend: str, start: float, end: float) -> Points:
        span = f"time >= {_milliseconds(start)}ms AND time < {_milliseconds(end)}ms"
        selected, condition = _WHERE.split(query, maxsplit=1)
        text = f"{selected} WHERE ({filled(condition, backend, influxql_string)}) AND {span}"
        text += f" GROUP BY time({_milliseconds(self.options.interval)}ms) fill(none)"
        form = {"db": self.options.database, "q": text, "epoch": "ms"}
        reply = self._server.send(
            "POST",
            "/query",
            body=urlencode(form),
            headers={"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"},
        )
        where = f"{self._server.base_url}/query"
        try:
            answer: Any = json.loads(reply.text)
        except (ValueError, RecursionError):
            raise MetricSourceError(f"{where} answered something that is not JSON.") from None
        try:
            return dict(_influxql_points(answer))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            raise MetricSourceError(f"{where} answered something that is no result of InfluxQL.") from None

    # --- Flux ---------------------------------------------------------------------------------------------------------

    def _flux(self, query: str, backend: str, start: float, end: float, function: str) -> Points:
        text = filled(query, backend, flux_string).replace(_START, _instant(start)).replace(_END, _instant(end))
        every = f"{_milliseconds(self.options.interval)}ms"
        text += f' |> group() |> aggregateWindow(every: {every}, fn: {function}, createEmpty: false, timeSrc: "_start")'
        reply = self._server.send(
            "POST",
            f"/api/v2/query?{urlencode({'org': self.options.org})}",
            body=text,
            headers={"Accept": "application/csv", "Content-Type": "application/vnd.flux"},
        )
        where = f"{self._server.base_url}/api/v2/query"
        try:
            return dict(_flux_points(reply.text))
        except (KeyError, TypeError, ValueError, csv.Error):
            raise MetricSourceError(f"{where} answered something that is no CSV of Flux.") from None


def _influxql_points(answer: Any) -> Iterator[tuple[float, float]]:
    error = answer.get("error") or answer["results"][0].get("error")
    if error:
        raise MetricSourceError(f"InfluxDB could not run the query: {str(error)[:200]}.")
    result = answer["results"][0]
    series: Mapping[str, Any] | None = only_series(
        list(result.get("series") or []), "InfluxDB", "select from one measurement, without tags to group by"
    )
    if series is None:
        return
    if result.get("partial") or series.get("partial"):
        raise MetricSourceError("InfluxDB gave only a part of the points (max-row-limit); ask for less at once.")
    if len(series["columns"]) != 2:
        raise MetricSourceError(f"InfluxDB gave the columns {', '.join(series['columns'])}; select one number.")
    for moment, value in series["values"]:
        number = read_point(value, "InfluxDB")
        if number is not None:
            yield moment / 1000, number


def _flux_points(text: str) -> Iterator[tuple[float, float]]:
    """Points of annotated or plain CSV: tables are parted by empty lines, each begins with its header."""
    header: list[str] = []
    tables = set()
    for row in csv.reader(io.StringIO(text), strict=True):
        if not any(row):
            header = []
            continue
        if row[0].startswith("#"):
            continue
        if not header:
            header = row
            if "error" not in header and not {"_time", "_value"} <= set(header):
                raise ValueError
            continue
        cells = dict(zip(header, row, strict=True))
        if "error" in cells:
            raise MetricSourceError(f"InfluxDB could not run the query: {cells['error'][:200]}.")
        tables.add(cells.get("table"))
        only_series(list(tables), "InfluxDB", "yield one result")
        if cells["_value"]:
            number = read_point(float(cells["_value"]), "InfluxDB")
            if number is not None:
                yield datetime.fromisoformat(cells["_time"]).timestamp(), number


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _instant(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""A metric source that asks Graphite's render API for counts, interval by interval.

API: https://graphite.readthedocs.io/en/latest/render_api.html
"""

import json
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from canary_release.core.problems import MetricSourceError
from canary_release.hooks.connections import HttpServer, find_connection, http_server
from canary_release.hooks.interval_windows import IntervalOptions, IntervalSource, Points, only_series, read_point
from canary_release.hooks.label_escape import filled, plain_word


class GraphiteSource(IntervalSource):
    """Connection type ``http``: host and port of Graphite's web application.

    A query is one target that gives one series, such as ``sumSeries(stats_counts.shop.$backend.*.requests)``.
    """

    class Options(IntervalOptions):
        """What a release file says about Graphite beyond its connection."""

    def points(self, query: str, backend: str, start: float, end: float, *, counts: bool) -> Points:
        """See IntervalSource. A point of which Graphite has no part is null, and left out."""
        step = self.options.interval
        target = filled(query, backend, plain_word)
        # Without alignToFrom the sums begin at multiples of the interval. Graphite leaves out the first instant.
        target = f'summarize({target},"{step:g}s","{"sum" if counts else "avg"}",false)'
        span = {"target": target, "from": int(start) - 1, "until": int(end) - 1, "format": "json"}
        text = self._server.send(
            "POST",
            "/render",
            body=urlencode(span),
            headers={"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"},
        ).text
        return {moment: value for moment, value in self._read(text).items() if start <= moment < end}

    @cached_property
    def _server(self) -> HttpServer:
        return http_server(find_connection(self.connection_id), MetricSourceError)

    def _read(self, text: str) -> Points:
        where = f"{self._server.base_url}/render"
        try:
            answer: Any = json.loads(text)
        except (ValueError, RecursionError):
            raise MetricSourceError(f"{where} answered something that is not JSON.") from None
        try:
            if not isinstance(answer, list):
                raise TypeError
            series = only_series(answer, "Graphite", "put sumSeries(…) around the target")
            points = series["datapoints"] if series is not None else []
            read = ((float(moment), read_point(value, "Graphite")) for value, moment in points)
            return {moment: value for moment, value in read if value is not None}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise MetricSourceError(f"{where} answered something that is no list of series.") from None

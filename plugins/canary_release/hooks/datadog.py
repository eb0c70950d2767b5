"""A metric source that asks Datadog for counts, interval by interval.

API: https://docs.datadoghq.com/api/latest/metrics/#query-timeseries-points (v1).  Datadog coarsens what is asked for
over a long time and limits how often it may be asked; both are noticed.
"""

import json
import math
import time
from collections.abc import Mapping
from functools import cached_property
from threading import Lock
from typing import Any, Self
from urllib.parse import urlencode

from pydantic import Field, model_validator

from canary_release.core.problems import ConnectionSettingsError, MetricSourceError
from canary_release.hooks.connections import HttpExtra, HttpServer, Reply, find_connection, http_server, read_extra
from canary_release.hooks.interval_windows import IntervalOptions, IntervalSource, Points, only_series, read_point
from canary_release.hooks.label_escape import filled, plain_word

LONGEST_PAUSE = 600.0  # seconds that a rate limit may ask for
_NOT_OURS = {
    "rollup(": "it is added here, so that a point is an interval",
    "default_zero(": "a point that is missing is no zero",
    "fill(": "a point that is missing must stay missing",
}
_quiet_until: dict[str, float] = {}
_quiet_lock = Lock()


class DatadogExtra(HttpExtra):
    """What the extra of the connection may hold."""

    api_key: str = Field(min_length=1, description="The API key; the application key is the connection's password.")


class DatadogSource(IntervalSource):
    """Connection type ``http``: host ``https://api.datadoghq.com`` or another site's, password = application key, and
    ``api_key`` in the extra.

    A query is a Datadog query without rollup, such as ``sum:trace.http.request.hits{version:$backend}.as_count()``.
    """

    class Options(IntervalOptions):
        """What a release file says about Datadog beyond its connection."""

        @model_validator(mode="after")
        def _leaves_the_intervals_to_us(self) -> Self:
            for name, query in self.queries.items():
                for word, reason in _NOT_OURS.items():
                    if word in query.replace(" ", ""):
                        raise ValueError(f"{name}: remove {word.removesuffix('(')} from the query: {reason}")
            if self.interval % 1:
                raise ValueError("interval: Datadog knows whole seconds only")
            return self

    def points(self, query: str, backend: str, start: float, end: float, *, counts: bool) -> Points:
        """See IntervalSource; a limit of Datadog's is kept to, by this process, for as long as it says."""
        step = int(self.options.interval)
        asked = f"{filled(query, backend, plain_word)}.rollup({'sum' if counts else 'avg'}, {step})"
        # Datadog's end is included.
        span = urlencode({"from": int(start), "to": int(end) - 1, "query": asked})
        answer = self._ask(f"/api/v1/query?{span}")
        if not isinstance(answer, Mapping) or answer.get("status") != "ok" or answer.get("error"):
            said = answer.get("error") if isinstance(answer, Mapping) else None
            raise MetricSourceError(
                f"Datadog could not run the query {asked!r}: {str(said or 'no reason given')[:200]}."
            )
        try:
            series = only_series(list(answer["series"]), "Datadog", "remove `by {…}` from the query")
            if series is None:
                return {}
            if int(series.get("interval") or step) != step:
                raise MetricSourceError(
                    f"Datadog gave points of {series['interval']} s instead of {step} s; set interval to that."
                )
            read = ((moment / 1000, read_point(value, "Datadog")) for moment, value in series["pointlist"])
            return {moment: value for moment, value in read if value is not None and start <= moment < end}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise MetricSourceError("Datadog answered something that is no list of series.") from None

    @cached_property
    def _server(self) -> HttpServer:
        connection = find_connection(self.connection_id)
        extra = read_extra(connection, DatadogExtra)
        if not connection.password:
            raise ConnectionSettingsError(
                f"Connection {self.connection_id} has no password; it must be Datadog's application key."
            )
        keys = {"DD-API-KEY": extra.api_key, "DD-APPLICATION-KEY": connection.password}
        return http_server(
            connection, MetricSourceError, extra=extra.model_copy(update={"headers": {**extra.headers, **keys}})
        )

    def _ask(self, path: str) -> Any:
        with _quiet_lock:
            wait = _quiet_until.get(self.connection_id, 0.0) - time.monotonic()
        if wait > 0:
            raise MetricSourceError(f"Datadog asked to be left alone for {math.ceil(wait)} s more (rate limit).")
        reply = self._server.send("GET", path, headers={"Accept": "application/json"}, good=(200, 429))
        if reply.status == 429:
            raise self._limited(reply)
        try:
            return json.loads(reply.text)
        except (ValueError, RecursionError):
            raise MetricSourceError(f"{self._server.base_url} answered something that is not JSON.") from None

    def _limited(self, reply: Reply) -> MetricSourceError:
        headers = {name.lower(): value for name, value in reply.headers.items()}
        try:
            wait = min(max(float(headers["x-ratelimit-reset"]), 1.0), LONGEST_PAUSE)
        except (KeyError, ValueError):
            wait = 60.0
        with _quiet_lock:
            _quiet_until[self.connection_id] = time.monotonic() + wait
        limit, period = headers.get("x-ratelimit-limit", "?"), headers.get("x-ratelimit-period", "?")
        return MetricSourceError(
            f"Datadog's rate limit is used up ({limit} requests in {period} s); asking again in {math.ceil(wait)} s."
        )

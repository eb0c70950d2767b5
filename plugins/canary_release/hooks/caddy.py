"""Caddy's admin API: the weights of a reverse proxy's weighted round robin, exchanged under an entity tag.

API and handler: https://caddyserver.com/docs/api (``/id/``, ``If-Match``) and
https://caddyserver.com/docs/json/apps/http/servers/routes/handle/reverse_proxy/.  The configuration to copy is
``include/caddy/canary.json``.

With every change of its configuration Caddy closes idle connections, so that a client which asks on one has to ask
again (browsers and HTTP libraries do), and its old listening sockets together with the connections that wait there,
which costs a request now and then.  Its HTTP counters begin anew, and know no upstreams: its access log tells the sides
apart.
"""

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.connections import HttpServer, Strict, find_connection, http_server
from canary_release.hooks.weight_units import from_units, to_units

POLICY = "weighted_round_robin"
MOST_TRIES = 5  # of a change that somebody else's overtakes
CHANGED_SINCE = 412


@dataclass(frozen=True)
class Split:
    """The handler as Caddy has it. order: backends as its upstreams stand; units: their weights; tag: for If-Match."""

    order: tuple[str, ...]
    units: dict[str, int]
    tag: str


class CaddyHook(BaseHook):
    """Connection type ``http``: host and port of Caddy's admin API.

    Caddy serves each side its weight in a row, so weights are kept as small as their ratio allows: 99 and 1, not 9,900
    and 100.  The finest step is 0.01 %.
    """

    class Options(Strict):
        """What a release file says about a Caddy beyond its connection."""

        route: str = Field(min_length=1, description="The `@id` of the reverse_proxy handler that splits the traffic.")
        upstreams: dict[str, str] = Field(description="For each of the backends what the handler dials, `host:port`.")

    finest_step: Decimal = Decimal("0.01")

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What Caddy itself splits by now.

        Raises UnknownTargetError when it has no such handler or upstreams, LoadBalancerError when it cannot be asked or
        the handler splits by anything but weights.
        """
        return from_units(self._split().units, f"Caddy's handler {self.options.route}")

    def set_weights(self, weights: Weights) -> None:
        """Exchange both weights in one request, and only while the handler is what was read just before.

        Raises UnknownTargetError or LoadBalancerError before anything is written; LoadBalancerError, too, when somebody
        else kept changing the handler in between.
        """
        asked = to_units(weights, self.backends, self.finest_step)
        divisor = math.gcd(*asked.values())
        units = {name: unit // divisor for name, unit in asked.items()}
        for _ in range(MOST_TRIES):
            split = self._split()
            if split.units == units:
                # Each change costs idle connections and the counters.
                return
            policy = {"policy": POLICY, "weights": [units[name] for name in split.order]}
            if self._exchanged(policy, split.tag):
                return
        raise LoadBalancerError(
            f"Somebody else changed Caddy's handler {self.options.route} {MOST_TRIES} times while its weights were "
            f"being set; find out who."
        )

    @cached_property
    def _server(self) -> HttpServer:
        return http_server(find_connection(self.connection_id), LoadBalancerError, missing=UnknownTargetError)

    @property
    def _path(self) -> str:
        return f"/id/{quote(self.options.route, safe='')}"

    def _exchanged(self, policy: dict[str, Any], tag: str) -> bool:
        """False when the handler is no longer what the tag stands for."""
        reply = self._server.send(
            "PATCH",
            f"{self._path}/load_balancing/selection_policy",
            body=json.dumps(policy),
            headers={"Content-Type": "application/json", "If-Match": tag},
            good=(200, CHANGED_SINCE),
        )
        return reply.status != CHANGED_SINCE

    def _split(self) -> Split:
        reply = self._server.send("GET", self._path, headers={"Accept": "application/json"})
        place = f"{self._server.base_url}{self._path}"
        try:
            handler = json.loads(reply.text)
            dials = [str(one["dial"]) for one in handler["upstreams"]]
            policy = handler.get("load_balancing", {}).get("selection_policy", {})
            weights = [int(weight) for weight in policy.get("weights", [])]
            tag = reply.headers["Etag"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise LoadBalancerError(f"{place} is no reverse_proxy handler of a Caddy 2; check the `@id`.") from None
        order = self._names(dials, place)
        if policy.get("policy") != POLICY or len(weights) != len(dials) or any(weight < 0 for weight in weights):
            raise LoadBalancerError(
                f"{place} must split by {POLICY}, with a weight for each upstream; configure it so."
            )
        return Split(order, dict(zip(order, weights, strict=True)), tag)

    def _names(self, dials: list[str], place: str) -> tuple[str, ...]:
        """The backends in the order of the handler's upstreams."""
        named = self.options.upstreams
        if missing := [name for name in self.backends if named.get(name) not in dials]:
            raise UnknownTargetError(
                f"{place} has no upstream for {' and '.join(missing)}; it dials {', '.join(dials) or 'none'}. Compare "
                f"with `upstreams` in the release file."
            )
        names = {named[name]: name for name in self.backends}
        if len(names) != len(self.backends) or sorted(dials) != sorted(names):
            raise LoadBalancerError(f"{place} dials {', '.join(dials)}; it must dial each side once, and nobody else.")
        return tuple(names[dial] for dial in dials)

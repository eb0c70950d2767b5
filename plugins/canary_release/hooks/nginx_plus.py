"""NGINX Plus: both shares as one entry of a key-value zone, changed through its API without a reload.

The configuration to copy is ``include/nginx/canary-plus.conf``.  API:
https://nginx.org/en/docs/http/ngx_http_api_module.html (``/http/keyvals/``).  Tested against a strict fake of that API
and not against an NGINX Plus; the njs part is tested on a real nginx.
"""

import json
from decimal import Decimal
from functools import cached_property

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.connections import HttpServer, Strict, find_connection, http_server
from canary_release.hooks.nginx import checked_units
from canary_release.hooks.weight_units import from_units, to_units


class NginxPlusHook(BaseHook):
    """Connection type ``http``: host and port of the API. Shares are out of 10,000; the finest step is 0.01 %."""

    class Options(Strict):
        """What a release file says about an NGINX Plus beyond its connection."""

        route: str = Field(pattern=r"^[A-Za-z0-9_]+$", description="The service's name: the entry's key.")
        zone: str = Field("canary", pattern=r"^[A-Za-z0-9_-]+$", description="Name of the key-value zone.")
        api_version: int = Field(9, ge=1, description="Version of the API, as it stands in its path.")

    finest_step: Decimal = Decimal("0.01")

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What the zone holds by now. Raises UnknownTargetError when it has no such entry or backends in it,
        LoadBalancerError when it cannot be asked."""
        return from_units(self._units(), self._place)

    def set_weights(self, weights: Weights) -> None:
        """Change both shares in one request; they count from the next request on.

        Raises UnknownTargetError or LoadBalancerError before anything is written.
        """
        units = to_units(weights, self.backends, self.finest_step)
        self._units()
        entry = {self.options.route: json.dumps({name: units[name] for name in self.backends}, separators=(",", ":"))}
        headers = {"Content-Type": "application/json"}
        self._server.send("PATCH", self._path, body=json.dumps(entry), headers=headers, good=(204,))

    @cached_property
    def _server(self) -> HttpServer:
        return http_server(find_connection(self.connection_id), LoadBalancerError, missing=UnknownTargetError)

    @property
    def _path(self) -> str:
        return f"/api/{self.options.api_version}/http/keyvals/{self.options.zone}"

    @property
    def _place(self) -> str:
        return f"{self._server.base_url}{self._path}: {self.options.route}"

    def _units(self) -> dict[str, int]:
        entries = self._server.get_json(self._path)
        text = entries.get(self.options.route) if isinstance(entries, dict) else None
        if text is None:
            raise UnknownTargetError(f"{self._place} is no entry; add it once, see include/nginx/canary-plus.conf.")
        try:
            shares = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            raise LoadBalancerError(f"{self._place} is no JSON object of shares; correct or delete it.") from None
        return checked_units(shares, self.backends, self._place)

"""Caddy without a reload: the share stands in a small file that Caddy reads for every request.

Any change through Caddy's admin API replaces the whole configuration (caddyserver/caddy#3143) and closes connections,
see ``caddy.py``.  Here a matcher compares each request's random ``{http.request.uuid}`` with what ``{file.…}`` says
(https://caddyserver.com/docs/conventions#placeholders), so that a shift is one renamed file.  The lines for the
Caddyfile stand in ``include/releases/caddy-file.yaml``, and

    028f5c28 podcasts-green=100 podcasts-blue=9900

is a file: requests whose number is below the first word go to the first backend.  It is out of 16^8, so a share is
off by less than a billionth; the shares themselves stand behind it, and are what Caddy tells when it is asked.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.connections import HttpExtra, HttpServer, Strict, find_connection, http_server, read_extra
from canary_release.hooks.shared_file import exclusive, read_text, replace_text
from canary_release.hooks.weight_units import from_units, to_units

WHOLE = 10_000
NOBODY, EVERYBODY = "0", "g"  # "0 " is below every number, "g" above: both are compared as texts
_FILE = re.compile(r"([0-9a-f]{8}|0|g)((?: [A-Za-z0-9_.:-]+=\d{1,5}){2})\n?")


class CaddyFileExtra(HttpExtra):
    """What the extra of the connection may hold."""

    file: str = Field(pattern="^/", description="Absolute path of the file with the service's share.")


class CaddyFileHook(BaseHook):
    """Connection type ``http``: host and port where Caddy tells the shares; the extra's ``file`` is where they stand.

    Shares are out of 10,000, so that the finest step is 0.01 %.
    """

    class Options(Strict):
        """What a release file says about a Caddy beyond its connection."""

        route: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="The service's name in `/canary/<route>`.")

    finest_step: Decimal = Decimal("0.01")

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What Caddy itself shares out by now: it answers with the file as it has just read it.

        Raises UnknownTargetError when it knows no such route or backends, LoadBalancerError when it cannot be asked.
        """
        _, server = self._settings
        place = f"{server.base_url}/canary/{self.options.route}"
        return from_units(self._units(server.get_text(f"/canary/{self.options.route}"), place), place)

    def set_weights(self, weights: Weights) -> None:
        """Rename a file with both shares into place; they count from the next request on.

        Raises UnknownTargetError or LoadBalancerError before anything is written.
        """
        units = to_units(weights, self.backends, self.finest_step)
        file, _ = self._settings
        with exclusive(file):
            first, other = self._units(read_text(file), str(file))
            replace_text(file, f"{threshold(units[first])} {first}={units[first]} {other}={units[other]}\n")

    @cached_property
    def _settings(self) -> tuple[Path, HttpServer]:
        connection = find_connection(self.connection_id)
        extra = read_extra(connection, CaddyFileExtra)
        return Path(extra.file), http_server(connection, LoadBalancerError, missing=UnknownTargetError, extra=extra)

    def _units(self, text: str, place: str) -> Mapping[str, int]:
        """The shares by backend, the one below the threshold first; errors name ``place``."""
        found = _FILE.fullmatch(text)
        pairs = [pair.split("=") for pair in found[2].split()] if found else []
        units = {name: int(unit) for name, unit in pairs}
        if missing := [name for name in self.backends if units and name not in units]:
            raise UnknownTargetError(f"{place} has no share for {' and '.join(missing)}; it has {', '.join(units)}.")
        if found is None or len(units) != 2 or found[1] != threshold(units[pairs[0][0]]):
            raise LoadBalancerError(f"{place} holds no share as it was left; see include/releases/caddy-file.yaml.")
        return units


def threshold(units: int) -> str:
    """What a request's number has to be below, for ``units`` of 10,000 requests."""
    if units in (0, WHOLE):
        return EVERYBODY if units else NOBODY
    return f"{round(units * 16**8 / WHOLE):08x}"

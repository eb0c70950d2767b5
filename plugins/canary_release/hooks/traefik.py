"""Traefik's file provider: weights of a weighted service, written into the file and read back from Traefik's API.

Configuration and API: https://doc.traefik.io/traefik/ (file provider, weighted round robin, API).  Traefik watches the
file; with its default ``providersThrottleDuration`` of 2 s a write takes about that long to be in force.
"""

from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.connections import HttpExtra, HttpServer, Strict, find_connection, http_server, read_extra
from canary_release.hooks.shared_file import exclusive, read_text, replace_text
from canary_release.hooks.traefik_routing import FILE, Routing
from canary_release.hooks.weight_units import from_units, to_units

PROVIDER = FILE
MOST_LISTED = 5000


class TraefikExtra(HttpExtra):
    """What the extra of the connection may hold."""

    file: str = Field(description="Absolute path of the YAML or JSON file that Traefik's file provider watches.")


class TraefikHook(BaseHook):
    """Connection type ``http``: host and port of Traefik's API; the extra's ``file`` is what its file provider reads.

    Weights add up to 10,000 in the file, so that the finest step is 0.01 %.
    """

    class Options(Strict):
        """What a release file says about a Traefik beyond its connection."""

        route: str = Field(min_length=1, description="Name of the weighted service that splits the traffic.")

    finest_step: Decimal = Decimal("0.01")

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What Traefik itself routes by now, from its API and not from the file.

        Raises UnknownTargetError when Traefik has no such service or backends, LoadBalancerError with Traefik's words
        when the service or a router that uses it is not enabled, or when no router does.
        """
        route = self.options.route
        service = self._ask("services", route + PROVIDER)
        routers = service.get("usedBy") or [router.get("name") for router in self._routing().entrances(route)]
        if not isinstance(routers, list) or not routers:
            raise LoadBalancerError(f"No router of Traefik sends requests to the service {route}; add one.")
        for router in routers:
            self._ask("routers", str(router))
        try:
            entries = service["weighted"]["services"]
            units = {_bare(entry["name"]): int(entry.get("weight", 1)) for entry in entries}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise LoadBalancerError(f"Traefik's service {route} is no weighted service; make it one.") from None
        self._check_names(units, f"Traefik's service {route}")
        return from_units({name: units[_bare(name)] for name in self.backends}, f"Traefik's service {route}")

    def set_weights(self, weights: Weights) -> None:
        """Write both weights into the file, and nothing else. Traefik takes them over a moment later.

        Raises UnknownTargetError or LoadBalancerError before anything is written.
        """
        units = {_bare(name): unit for name, unit in to_units(weights, self.backends, self.finest_step).items()}
        with exclusive(self._file):
            replace_text(self._file, self._rewritten(read_text(self._file), units))

    def forced_by(self, canary: str) -> str:
        """The condition, such as Header(`X-Canary`, `always`), with which requests go to ``canary`` at any weight.

        A router must take them past the weighted service. Raises UnknownTargetError when none does, LoadBalancerError.
        """
        self.get_weights()
        return self._routing().forced_by(self.options.route, canary)

    def sticky_by(self) -> str:
        """The cookie of the weighted service. Raises UnknownTargetError when it has none, LoadBalancerError."""
        route = self.options.route
        weighted = self._ask("services", route + PROVIDER).get("weighted")
        sticky = weighted.get("sticky") if isinstance(weighted, dict) else None
        cookie = sticky.get("cookie") if isinstance(sticky, dict) else None
        if not isinstance(cookie, dict):
            raise UnknownTargetError(
                f"Traefik's service {route} keeps no client on its side; give it weighted.sticky.cookie.name."
            )
        return f"cookie {cookie.get('name') or 'with a name of its own'}"

    def mirrored_to(self, canary: str) -> str:
        """The service that gets copies, and the share of requests that are copied.

        Raises UnknownTargetError when the routers' service mirrors nothing to ``canary``, LoadBalancerError.
        """
        self.get_weights()
        return self._routing().mirrored_to(self.options.route, canary)

    @cached_property
    def _settings(self) -> tuple[Path, HttpServer]:
        connection = find_connection(self.connection_id)
        extra = read_extra(connection, TraefikExtra)
        file = Path(extra.file)
        if not file.is_absolute():
            raise ConnectionSettingsError(f"The file in connection {self.connection_id}'s extra must be absolute.")
        return file, http_server(connection, LoadBalancerError, missing=UnknownTargetError, extra=extra)

    @property
    def _file(self) -> Path:
        return self._settings[0]

    def _ask(self, kind: str, name: str) -> dict[str, Any]:
        server = self._settings[1]
        path = f"/api/http/{kind}/{quote(name, safe='@')}"
        answer = server.get_json(path)
        if not isinstance(answer, dict) or "status" not in answer:
            raise LoadBalancerError(f"{server.base_url}{path} does not answer as Traefik's API does; check the port.")
        if answer["status"] != "enabled":
            words = answer.get("error")
            said = "; ".join(map(str, words)) if isinstance(words, list) else "no reason given"
            raise LoadBalancerError(f"Traefik has {name} among its {kind} as {answer['status']}: {said}.")
        return answer

    def _routing(self) -> Routing:
        return Routing.read(self._list("routers"), self._list("services"))

    def _list(self, kind: str) -> list[dict[str, Any]]:
        server = self._settings[1]
        path = f"/api/http/{kind}?per_page={MOST_LISTED}"
        answer = server.get_json(path)
        if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
            raise LoadBalancerError(f"{server.base_url}{path} does not answer as Traefik's API does; check the port.")
        if len(answer) >= MOST_LISTED:
            raise LoadBalancerError(f"Traefik has {MOST_LISTED} {kind} or more, too many to look at one by one.")
        return answer

    def _rewritten(self, text: str, units: dict[str, int]) -> str:
        """The file's text with the two numbers exchanged in place: comments, order and layout stay."""
        try:
            before, nodes = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            words = " ".join(str(error).split())
            raise LoadBalancerError(f"{self._file} is neither YAML nor JSON: {words}.") from None
        rewritten = text
        marks = self._weight_marks(nodes)
        for name, (start, end) in sorted(marks.items(), key=lambda item: item[1], reverse=True):
            rewritten = f"{rewritten[:start]}{units[name]}{rewritten[end:]}"
        if not self._only_weights_differ(before, rewritten, units):
            # For example an anchor that other parts of the file refer to, or a key that stands there twice.
            raise LoadBalancerError(f"{self._file}: the weights of {self.options.route} cannot be changed alone.")
        return rewritten

    def _only_weights_differ(self, before: Any, rewritten: str, units: dict[str, int]) -> bool:
        try:
            for entry in before["http"]["services"][self.options.route]["weighted"]["services"]:
                entry["weight"] = units[_bare(entry["name"])]
            return bool(yaml.safe_load(rewritten) == before)
        except (yaml.YAMLError, KeyError, TypeError):
            return False

    def _weight_marks(self, nodes: Any) -> dict[str, tuple[int, int]]:
        """Where in the text each backend's weight stands: first and last character."""
        route = self.options.route
        place = f"{self._file}: http.services.{route}.weighted.services"
        entries = _child(nodes, "http", "services", route, "weighted", "services")
        if not isinstance(entries, yaml.SequenceNode):
            raise UnknownTargetError(f"{place} does not exist; the route must be a weighted service in this file.")
        found: dict[str, tuple[int, int]] = {}
        for entry in entries.value:
            name, weight = _child(entry, "name"), _child(entry, "weight")
            if isinstance(name, yaml.ScalarNode) and isinstance(weight, yaml.ScalarNode):
                found[_bare(name.value)] = (weight.start_mark.index, weight.end_mark.index)
        self._check_names(found, place)
        if len(entries.value) != len(found):
            raise LoadBalancerError(f"{place}: each entry needs its own name and weight, once.")
        return found

    def _check_names(self, found: dict[str, Any], place: str) -> None:
        if missing := [name for name in self.backends if _bare(name) not in found]:
            raise UnknownTargetError(f"{place} has no weight for {' and '.join(missing)}; it has {_listed(found)}.")
        if len(found) != len(self.backends):
            raise LoadBalancerError(f"{place} shares traffic with others, too: {_listed(found)}; leave the two only.")


def _bare(name: str) -> str:
    return str(name).removesuffix(PROVIDER)


def _listed(names: dict[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"


def _child(node: Any, *path: str) -> Any:
    """The node at a path of keys in a composed YAML document, None when it is not there."""
    for key in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for name, value in pairs if name.value == key), None)
    return node

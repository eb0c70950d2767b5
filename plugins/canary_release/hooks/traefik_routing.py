"""Which of Traefik's routers and services send requests where, from what its API lists.

https://doc.traefik.io/traefik/ (routers: rule and priority; services: weighted round robin, mirroring, sticky cookies).
"""

import re
from dataclasses import dataclass
from typing import Any

from canary_release.core.problems import UnknownTargetError

Json = dict[str, Any]

FILE = "@file"
# What a client can add to a request, whatever it asks for.
_ADDED = re.compile(r"(Header|HeaderRegexp|Query|QueryRegexp)\(")
_EVERYTHING = "PathPrefix(`/`)"
_QUOTES = "`\"'"


@dataclass(frozen=True)
class Routing:
    """routers, services: the rows of ``/api/http/routers`` and ``/api/http/services``."""

    routers: list[Json]
    services: dict[str, Json]

    @classmethod
    def read(cls, routers: list[Json], services: list[Json]) -> "Routing":
        return cls(routers, {str(service.get("name")): service for service in services})

    def entrances(self, route: str) -> list[Json]:
        """The routers that send requests to a weighted service, directly or through a mirroring service."""
        wanted = {route + FILE, *(name for name, _ in self._mirrorings(route))}
        return [router for router in self.routers if _service_of(router) in wanted]

    def forced_by(self, route: str, canary: str) -> str:
        """The condition with which requests go to ``canary`` past the weighted service. UnknownTargetError."""
        found: set[str] = set()
        for entrance in self.entrances(route):
            extras = {extra for router in self.routers if (extra := self._passes(router, entrance, canary))}
            if not extras:
                rule, priority = entrance.get("rule"), entrance.get("priority")
                raise UnknownTargetError(
                    f"Traefik has no router that sends chosen requests of {entrance.get('name')} to {canary}; add one "
                    f"with the rule {rule} && Header(`X-Canary`, `always`), the same entry points and TLS, a priority "
                    f"above {priority}, and {canary} as its service."
                )
            found |= extras
        return " or ".join(sorted(found))

    def mirrored_to(self, route: str, canary: str) -> str:
        """The service that gets copies, and how many. UnknownTargetError."""
        copies: set[str] = set()
        mirrorings = dict(self._mirrorings(route))
        for entrance in self.entrances(route):
            mirrors = mirrorings.get(_service_of(entrance), [])
            to_canary = {
                f"{mirror['name']}, {mirror['percent']} % of the requests"
                for mirror in mirrors
                if mirror.get("percent") and self._is(canary, _full(str(mirror.get("name")), "file"))
            }
            if not to_canary:
                raise UnknownTargetError(
                    f"Traefik's router {entrance.get('name')} sends no copies of its requests to {canary}; let it use "
                    f"a mirroring service of {route} with {canary}, or a service with the same servers, as its mirror."
                )
            copies |= to_canary
        return " and ".join(sorted(copies))

    def _passes(self, router: Json, entrance: Json, canary: str) -> str:
        """What a request needs so that ``router`` takes it from ``entrance`` to ``canary``; empty when it does not."""
        asked, usual = conjuncts(str(router.get("rule", ""))), conjuncts(str(entrance.get("rule", "")))
        extra = asked - usual
        taken = (
            router.get("status") == "enabled"
            and usual <= asked
            and all(_ADDED.match(part) for part in extra)
            and set(entrance.get("entryPoints") or []) <= set(router.get("entryPoints") or [])
            and bool(router.get("tls")) == bool(entrance.get("tls"))
            and router.get("priority", 0) > entrance.get("priority", 0)
            and self._is(canary, _service_of(router))
        )
        return " && ".join(sorted(extra)) if taken else ""

    def _is(self, backend: str, service: str) -> bool:
        """A service of its own over the backend's servers keeps forced and copied requests out of its counters."""
        own = _full(backend, "file")
        servers = self._servers(own)
        return service == own or (bool(servers) and self._servers(service) == servers)

    def _servers(self, service: str) -> set[str]:
        found = self.services.get(service, {})
        servers = (found.get("loadBalancer") or {}).get("servers") or []
        return {str(server.get("url")) for server in servers} if found.get("status") == "enabled" else set()

    def _mirrorings(self, route: str) -> list[tuple[str, list[Json]]]:
        return [
            (name, service["mirroring"].get("mirrors") or [])
            for name, service in self.services.items()
            if service.get("status") == "enabled"
            and isinstance(service.get("mirroring"), dict)
            and _full(str(service["mirroring"].get("service")), str(service.get("provider"))) == route + FILE
        ]


def conjuncts(rule: str) -> frozenset[str]:
    """The parts of a rule that must all hold, without blanks; a rule with ``||`` outside of parentheses is one part.

    What matches every request is left out.
    """
    parts = _split(_without_blanks(rule))
    return frozenset(part for part in parts if part != _EVERYTHING)


def _without_blanks(rule: str) -> str:
    pieces = re.split(r"(`[^`]*`|\"[^\"]*\")", rule)
    return "".join(piece if piece[:1] in _QUOTES else "".join(piece.split()) for piece in pieces if piece)


def _split(rule: str) -> list[str]:
    """At each ``&&`` of the outermost level."""
    depth, start, quote, cuts = 0, 0, "", []
    for place, character in enumerate(rule):
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES:
            quote = character
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif depth == 0 and rule.startswith("||", place):
            return [rule]
        elif depth == 0 and rule.startswith("&&", place):
            cuts.append(rule[start:place])
            start = place + 2
    parts = [*cuts, rule[start:]]
    if len(parts) > 1:
        return [inner for part in parts for inner in _split(part)]
    return _unwrapped(parts[0])


def _unwrapped(part: str) -> list[str]:
    """``(a && b)`` is a and b; ``(a || b)`` stays one part, written as it is without its parentheses."""
    return _split(part[1:-1]) if part.startswith("(") and part.endswith(")") else [part]


def _service_of(router: Json) -> str:
    return _full(str(router.get("service")), str(router.get("provider")))


def _full(name: str, provider: str) -> str:
    return name if "@" in name else f"{name}@{provider}"

"""An HTTPRoute as far as it is read, and what its rules do beside sharing out traffic.

https://gateway-api.sigs.k8s.io/reference/spec/ (HTTPRouteRule, HTTPRouteMatch and its order of precedence,
SessionPersistence of the experimental channel, HTTPRequestMirrorFilter, RouteStatus).
"""

from collections.abc import Iterator, Sequence
from decimal import Decimal

from pydantic import Field

from canary_release.hooks.kubernetes_api import Metadata, Shape


class Reference(Shape):
    name: str
    kind: str = "Service"
    namespace: str | None = None
    weight: int = 1


class Condition(Shape):
    name: str
    value: str
    type: str = "Exact"


class PathMatch(Shape):
    type: str = "PathPrefix"
    value: str = "/"


class Match(Shape):
    path: PathMatch = PathMatch()
    method: str | None = None
    headers: Sequence[Condition] = ()
    queryParams: Sequence[Condition] = ()


class Fraction(Shape):
    numerator: int
    denominator: int = Field(100, ge=1)


class Mirror(Shape):
    backendRef: Reference
    percent: int = 100
    fraction: Fraction | None = None


class Filter(Shape):
    requestMirror: Mirror | None = None


class Session(Shape):
    sessionName: str | None = None
    type: str = "Cookie"


class Rule(Shape):
    backendRefs: Sequence[Reference] = ()
    matches: Sequence[Match] = ()
    filters: Sequence[Filter] = ()
    sessionPersistence: Session | None = None


class Spec(Shape):
    rules: Sequence[Rule] = ()


class Said(Shape):
    type: str
    status: str
    observedGeneration: int | None = None
    message: str = ""
    reason: str = ""


class Parent(Shape):
    conditions: Sequence[Said] = ()


class Status(Shape):
    parents: Sequence[Parent] = ()


class HttpRoute(Shape):
    metadata: Metadata = Metadata()
    spec: Spec
    status: Status = Status()


def forcing(rules: Sequence[Rule], index: int, canary: str) -> list[set[str]]:
    """For each match of the rule ``index``: what else a request needs so that another rule takes it to ``canary``.

    An empty set where none does.  Between rules of a route the match with more headers, then with more query
    parameters wins, when paths and methods are the same.
    """
    others = [
        match
        for place, rule in enumerate(rules)
        if place != index and _goes_to(rule, canary)
        for match in _matches(rule)
    ]
    return [{words for other in others if (words := _beyond(match, other))} for match in _matches(rules[index])]


def session_of(rule: Rule) -> str:
    """``cookie version``, or empty without one."""
    session = rule.sessionPersistence
    return f"{session.type.lower()} {session.sessionName or 'with a name that the gateway chose'}" if session else ""


def copies_to(rule: Rule, canary: str) -> str:
    """``shop-green, 10 % of the requests``, or empty when ``canary`` gets no copies."""
    for mirror in (entry.requestMirror for entry in rule.filters if entry.requestMirror):
        share = _percent(mirror)
        if _is_service(mirror.backendRef, canary) and share > 0:
            return f"{canary}, {share.normalize():f} % of the requests"
    return ""


def _percent(mirror: Mirror) -> Decimal:
    if mirror.fraction:
        return Decimal(100 * mirror.fraction.numerator) / mirror.fraction.denominator
    return Decimal(mirror.percent)


def _goes_to(rule: Rule, canary: str) -> bool:
    entries = rule.backendRefs
    return len(entries) == 1 and _is_service(entries[0], canary) and entries[0].weight > 0


def _is_service(reference: Reference, name: str) -> bool:
    """A Service of the route's own namespace."""
    return (reference.name, reference.kind, reference.namespace) == (name, "Service", None)


def _beyond(match: Match, other: Match) -> str:
    """What ``other`` asks for on top of ``match``; empty when it is not the same with something on top."""
    if (match.path, match.method) != (other.path, other.method):
        return ""
    usual, asked = set(_conditions(match)), set(_conditions(other))
    return " and ".join(sorted(asked - usual)) if usual <= asked else ""


def _conditions(match: Match) -> Iterator[str]:
    for kind, conditions in (("header", match.headers), ("query", match.queryParams)):
        for one in conditions:
            # The names of headers are the same in any case.
            name = one.name.lower() if kind == "header" else one.name
            yield f"{kind} {name}{' like' if one.type == 'RegularExpression' else ''} {one.value}"


def _matches(rule: Rule) -> Sequence[Match]:
    return rule.matches or [Match()]

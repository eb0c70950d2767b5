"""Istio outside a canary controller: the weights of a VirtualService's two destinations.

https://istio.io/latest/docs/reference/config/networking/virtual-service/ (HTTPRouteDestination.weight).  The two add up
to 100, so the finest step is 1 %.  Istio tells no one when its proxies have taken a change over: what is read back is
what the API server holds.
"""

from collections.abc import Sequence
from decimal import Decimal

from canary_release.core.values import Weights
from canary_release.hooks.kubernetes_api import Json, ObjectOptions, RouteHook, Shape
from canary_release.hooks.weight_units import from_units, to_units


class Destination(Shape):
    host: str
    subset: str = ""

    @property
    def name(self) -> str:
        return self.subset or self.host


class Entry(Shape):
    destination: Destination
    weight: int = 0


class HttpRule(Shape):
    route: Sequence[Entry] = ()


class Spec(Shape):
    http: Sequence[HttpRule] = ()


class VirtualService(Shape):
    spec: Spec


class IstioHook(RouteHook):
    """Backends are the destinations' subsets, or their hosts where they have no subset."""

    GROUP, PLURAL, SHAPE = "networking.istio.io/v1", "virtualservices", VirtualService
    finest_step: Decimal = Decimal(1)

    class Options(ObjectOptions):
        """Which VirtualService splits the traffic, and by which of its http rules."""

    def get_weights(self) -> Weights:
        """Raises UnknownTargetError for a missing object or destination, LoadBalancerError for anything else."""
        entries = self._entries(self.route.read())
        return from_units({name: entry.get("weight", 0) for name, entry in entries.items()}, self.route.where)

    def set_weights(self, weights: Weights) -> None:
        """Replace both weights in one write."""
        units = to_units(weights, self.backends, self.finest_step)

        def edit(service: Json) -> None:
            for name, entry in self._entries(service).items():
                entry["weight"] = units[name]

        self.route.change(edit)

    def _entries(self, service: Json) -> dict[str, Json]:
        rules = service["spec"].get("http") or []
        here = rules[self.options.rule] if self.options.rule < len(rules) else {}
        return self.two_entries(here.get("route"), lambda entry: Entry.model_validate(entry).destination.name)

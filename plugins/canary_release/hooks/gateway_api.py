"""Kubernetes Gateway API: the weights of an HTTPRoute's two backendRefs.

https://gateway-api.sigs.k8s.io/reference/spec/ (HTTPRoute, HTTPBackendRef.weight 0 to 1,000,000, RouteStatus).  The
gateway's controller says in the route's status which generation it took over; until then nothing counts as done.
"""

import time
from collections.abc import Sequence
from decimal import Decimal

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.gateway_rules import HttpRoute, Rule, copies_to, forcing, session_of
from canary_release.hooks.kubernetes_api import Json, ObjectOptions, RouteHook
from canary_release.hooks.weight_units import from_units, to_units

SETTLE_SECONDS = 10.0
_PAUSE = 0.05
_CONDITIONS = ("Accepted", "ResolvedRefs")


class GatewayApiHook(RouteHook):
    """Backends are the names of the rule's two Services. Weights add up to 10,000: the finest step is 0.01 %."""

    GROUP, PLURAL, SHAPE = "gateway.networking.k8s.io/v1", "httproutes", HttpRoute
    finest_step: Decimal = Decimal("0.01")

    class Options(ObjectOptions):
        """Which HTTPRoute splits the traffic, and by which of its rules."""

    def get_weights(self) -> Weights:
        """The weights that every gateway of the route has taken over; waits up to 10 s for a change under way.

        Raises UnknownTargetError for a missing route or backend, LoadBalancerError when a gateway refuses the route.
        """
        entries = self._entries(self._taken_over(self.route.read()))
        return from_units({name: entry.get("weight", 1) for name, entry in entries.items()}, self.route.where)

    def set_weights(self, weights: Weights) -> None:
        """Replace both weights in one write, then wait until the gateways say that they took it over."""
        units = to_units(weights, self.backends, self.finest_step)

        def edit(route: Json) -> None:
            for name, entry in self._entries(route).items():
                entry["weight"] = units[name]

        self._taken_over(self.route.change(edit))

    def forced_by(self, canary: str) -> str:
        """The header or query parameter with which another rule takes requests to ``canary`` at any weight.

        Raises UnknownTargetError when not every match of our rule has such a way past it, LoadBalancerError.
        """
        rules = self._rules()
        ways = forcing(rules, self.options.rule, canary)
        if not all(ways):
            raise UnknownTargetError(
                f"{self.route.where} has no rule that takes chosen requests of rule {self.options.rule} to {canary} "
                f"alone; add one with the same matches, each with a header such as x-canary on top."
            )
        return " or ".join(sorted(set().union(*ways)))

    def sticky_by(self) -> str:
        """The cookie or header of the rule's sessions. Raises UnknownTargetError without, LoadBalancerError."""
        session = session_of(self._rules()[self.options.rule])
        if not session:
            raise UnknownTargetError(
                f"{self.route.where} keeps no client on its side; give rule {self.options.rule} a sessionPersistence, "
                f"if your gateway knows it."
            )
        return session

    def mirrored_to(self, canary: str) -> str:
        """The Service that gets copies, and how many. Raises UnknownTargetError when it is not ``canary``,
        LoadBalancerError.
        """
        copies = copies_to(self._rules()[self.options.rule], canary)
        if not copies:
            raise UnknownTargetError(
                f"{self.route.where} sends no copies of requests to {canary}; give rule {self.options.rule} a filter "
                f"RequestMirror with it as the backendRef."
            )
        return copies

    def _rules(self) -> Sequence[Rule]:
        """The rules that the gateways have taken over, ours among them."""
        route = self._taken_over(self.route.read())
        self._entries(route)
        return HttpRoute.model_validate(route).spec.rules

    def _entries(self, route: Json) -> dict[str, Json]:
        rules = route["spec"].get("rules") or []
        here = rules[self.options.rule] if self.options.rule < len(rules) else {}
        return self.two_entries(here.get("backendRefs"), lambda entry: str(entry.get("name")))

    def _taken_over(self, route: Json) -> Json:
        until = time.monotonic() + SETTLE_SECONDS
        while waiting := self._waits_for(route):
            if time.monotonic() > until:
                raise LoadBalancerError(f"{self.route.where}: {waiting}, for {SETTLE_SECONDS:g} s by now.")
            time.sleep(_PAUSE)
            route = self.route.read()
        return route

    def _waits_for(self, route: Json) -> str:
        """What is still missing, in words; empty when every gateway has this generation. Raises when one refuses it."""
        known = HttpRoute.model_validate(route)
        generation = known.metadata.generation
        if not known.status.parents:
            return "no gateway has said that it took the route over"
        for parent in known.status.parents:
            said = {condition.type: condition for condition in parent.conditions}
            for kind in _CONDITIONS:
                condition = said.get(kind)
                if condition is None or condition.observedGeneration != generation:
                    return f"its gateway has not looked at generation {generation} yet ({kind})"
                if condition.status != "True":
                    words = condition.message or condition.reason or "no reason given"
                    raise LoadBalancerError(f"{self.route.where} is not in force, {kind} is not true: {words}.")
        return ""

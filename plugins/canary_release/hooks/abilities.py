"""What only some load balancers can do, and whether one does it as it is configured now.

The protocols in ``core/ports.py`` are the declaration: a type has an ability when its hook has the protocol's methods.
"""

from collections.abc import Iterable
from typing import Any

from canary_release.core.ports import ForcesCanary, KeepsClients, KeepsLease, LoadBalancer, Mirrors
from canary_release.core.problems import UnknownTargetError
from canary_release.core.release import Ability

_PROTOCOLS: dict[Ability, Any] = {
    Ability.LEASE: KeepsLease,
    Ability.FORCED_CANARY: ForcesCanary,
    Ability.STICKY: KeepsClients,
    Ability.MIRROR: Mirrors,
}


def abilities_of(hook: type[Any]) -> frozenset[Ability]:
    """What the hooks of a class can do."""
    return frozenset(ability for ability, protocol in _PROTOCOLS.items() if issubclass(hook, protocol))


def check_abilities(balancer: LoadBalancer, needs: Iterable[Ability], *, canary: str) -> dict[Ability, str]:
    """How the load balancer does each of ``needs`` now, in its own words, such as ``cookie shop_version``.

    Reads and writes nothing else. Raises UnknownTargetError, with the cure, for what it is not configured to do, and
    LoadBalancerError when it cannot be asked.
    """
    return {ability: _words(balancer, ability, canary) for ability in needs}


def _words(balancer: Any, ability: Ability, canary: str) -> str:
    if not isinstance(balancer, _PROTOCOLS[ability]):
        raise UnknownTargetError(f"{type(balancer).__name__} has no {ability}; take it out of load_balancer.needs.")
    match ability:
        case Ability.FORCED_CANARY:
            return str(balancer.forced_by(canary))
        case Ability.STICKY:
            return str(balancer.sticky_by())
        case Ability.MIRROR:
            return str(balancer.mirrored_to(canary))
        case Ability.LEASE:
            # Nothing is read: each raise begins with a lease that the load balancer has taken.
            return "renewed before every raise and after every evaluation"

"""Percentages as the whole numbers that load balancers take, exactly or not at all."""

from collections.abc import Mapping
from decimal import Decimal

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import FULL, NONE, Weights, plain


def to_units(weights: Weights, backends: tuple[str, str], finest_step: Decimal) -> dict[str, int]:
    """Each backend's share as a whole number of finest steps.

    Raises UnknownTargetError for other names than ``backends``, LoadBalancerError for shares that are below 0, do not
    add up to 100 or are no multiple of ``finest_step`` (percent): nothing is rounded.
    """
    if set(weights.shares) != set(backends):
        asked = ", ".join(sorted(weights.shares)) or "none"
        raise UnknownTargetError(f"Weights were asked for {asked}; the backends are {' and '.join(backends)}.")
    for name, share in weights.shares.items():
        # The range comes first: the remainder of a huge number is an error of its own.
        if not share.is_finite() or not NONE <= share <= FULL or share % finest_step:
            raise LoadBalancerError(
                f"{name} cannot get {share} %: this load balancer sets multiples of {plain(finest_step)} %, 0 to 100."
            )
    if sum(weights.shares.values()) != FULL:
        raise LoadBalancerError(f"The weights {weights} do not add up to 100 %.")
    return {name: int(share / finest_step) for name, share in weights.shares.items()}


def from_units(units: Mapping[str, int], where: str) -> Weights:
    """What whole numbers mean as shares of 100; LoadBalancerError naming ``where`` when they share nothing."""
    total = sum(units.values())
    if total <= 0 or any(unit < 0 for unit in units.values()):
        raise LoadBalancerError(f"{where} has weights that share out nothing: {dict(units)}.")
    *first, last = units
    shares = {name: FULL * units[name] / total for name in first}
    # The rest, so that thirds, too, add up to 100.
    return Weights({**shares, last: FULL - sum(shares.values(), NONE)})

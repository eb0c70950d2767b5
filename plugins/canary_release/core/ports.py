"""What the control part needs from the outside, as small protocols; hooks implement them.

An ability that only some load balancers have is a protocol of its own, never a stub.
"""

from decimal import Decimal
from typing import Protocol, runtime_checkable

from canary_release.core.values import Cursor, Weights, Window


class Clock(Protocol):
    """Wall-clock time and waiting, replaceable in tests."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def sleep(self, seconds: float) -> None: ...


class LoadBalancer(Protocol):
    """Something that splits traffic between two backends.

    ``finest_step`` is the smallest share in percent that it can set exactly; a weight that is no multiple of it is
    refused, never rounded.
    """

    finest_step: Decimal

    def get_weights(self) -> Weights:
        """What the load balancer itself says now. Raises LoadBalancerError."""

    def set_weights(self, weights: Weights) -> None:
        """Ask for these absolute weights, both sides at once where the API can. Raises LoadBalancerError.

        Returning does not mean that they are in force: the caller reads back.
        """


class MetricSource(Protocol):
    """Something that counts requests, errors and latency for both sides."""

    def read(self, cursor: Cursor | None) -> tuple[list[Window], Cursor]:
        """Counts since ``cursor``, and the cursor to go on from. Raises MetricSourceError.

        With ``None`` it takes a baseline: no windows, only a cursor.
        """


@runtime_checkable
class RemembersHistory(Protocol):
    """A metric source that can be asked about the past, from which noise is learned before a rollout starts."""

    def history(self, start: float, end: float) -> list[Window]: ...


@runtime_checkable
class RemembersInstances(Protocol):
    """One that also tells the service's instances apart, so that it can be learned how far each of them wanders."""

    def history_of_instances(self, start: float, end: float) -> list[dict[str, Window]]:
        """As ``history``, moment by moment, a window for each instance; empty when they cannot be told apart."""


@runtime_checkable
class KeepsLease(Protocol):
    """A load balancer that takes the canary off by itself when nobody renews its lease: nothing of ours has to live."""

    def renew_lease(self, until: float, safe: str) -> None:
        """From ``until`` (seconds since the epoch) on it gives everything to ``safe``, unless renewed before.

        Called before every raise and after every evaluation. Raises LoadBalancerError.
        """

    def end_lease(self, safe: str) -> None:
        """It gives everything to ``safe`` at once and for good: after a rollback, and after a promotion."""


@runtime_checkable
class ForcesCanary(Protocol):
    """A load balancer that can let chosen requests reach the canary whatever its weight."""

    def forced_by(self, canary: str) -> str:
        """What such a request carries, in the load balancer's words, as it is configured now.

        Raises UnknownTargetError, with the cure, when no request is forced to ``canary``; LoadBalancerError.
        """


@runtime_checkable
class KeepsClients(Protocol):
    """A load balancer that can keep a client on the side that it met first."""

    def sticky_by(self) -> str:
        """What it knows a client by, such as ``cookie version``, as it is configured now.

        Raises UnknownTargetError, with the cure, when every request is shared out anew; LoadBalancerError.
        """


@runtime_checkable
class Mirrors(Protocol):
    """A load balancer that can send copies of requests to the canary and throw the answers away."""

    def mirrored_to(self, canary: str) -> str:
        """Who gets the copies and how many, as it is configured now.

        Raises UnknownTargetError, with the cure, when none go to ``canary``; LoadBalancerError.
        """

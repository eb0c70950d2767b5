"""One load balancer under test, as every suite that runs against all of them sees it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from canary_release.core.ports import LoadBalancer


@dataclass
class Case:
    """One load balancer under test. configuration: all it holds apart from the two weights, to be compared.

    stranger: a hook that names a backend it does not have.  other_actor: a second, independent hook.
    leased: weights stand only as long as a lease does, and a restart ends it.
    forgets: a restart brings back what the configuration says, everything to the stable side.
    closes_idle: a shift closes idle connections; a client that just then asks on one has to ask again.
    resets: a shift closes a listening socket together with the connections that wait to be accepted, so that even a
        client that asks again may lose a request without a byte of an answer, at most one a shift.
    tested_against: the real program with its version, or whose fake it is, for the table in the README.
    """

    balancer: LoadBalancer
    other_actor: LoadBalancer
    stranger: LoadBalancer
    configuration: Callable[[], Any]
    restart: Callable[[], None]
    url: str = ""
    leased: bool = False
    forgets: bool = False
    closes_idle: bool = False
    resets: bool = False
    tested_against: str = "itself"

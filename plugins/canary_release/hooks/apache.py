"""Apache httpd's mod_proxy_balancer: load factors of a balancer's two members, set through its balancer manager.

https://httpd.apache.org/docs/2.4/mod/mod_proxy_balancer.html.  The manager tells its state as XML and takes a change
of one member at a time, with a nonce and a Referer of its own address.  What it does not like it leaves as it was, with
the status 200, so every answer is read.  Changes are in memory that all of Apache's processes share and count at once.

A factor is 1 to 100, so the finest step is 1 %.  A member that shall get nothing drains: one that is disabled loses the
requests which were just on their way to it, and Apache then takes it for broken for a minute.
"""

import re
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from urllib.parse import urlencode

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.connections import HttpServer, Strict, find_connection, http_server
from canary_release.hooks.weight_units import from_units, to_units

NAMESPACE = "{http://httpd.apache.org}"
OUT = {"Drn", "Dis"}
KNOWN = {"Init", "Ok", "Err", "Ignerr", *OUT}  # "Err": found broken, and looked at again after `retry` seconds
_one_writer = threading.Lock()  # of this process: a write is two requests


@dataclass(frozen=True)
class Member:
    """One member. url: what the manager calls it; units: of 100 shares, 0 when it drains or is disabled."""

    url: str
    units: Decimal


class ApacheHook(BaseHook):
    """Connection type ``http``: host and port where the balancer manager answers, a login if it asks for one."""

    class Options(Strict):
        """What a release file says about an Apache beyond its connection."""

        balancer: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="The name in `balancer://<name>`.")
        path: str = Field("/balancer-manager", pattern=r"^/[^\s?#]*$", description="Where the manager is.")

    finest_step: Decimal = Decimal(1)

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What Apache itself shares out by now.

        Raises UnknownTargetError when it has no such balancer or members, LoadBalancerError when it cannot be asked, or
        something else than factors decides (members that are stopped or standing by, sticky sessions).
        """
        members, _ = self._read()
        # In hundredths: factors have two decimals.
        return from_units({name: int(100 * members[name].units) for name in self.backends}, self._place)

    def set_weights(self, weights: Weights) -> None:
        """Set the side that gains before the other, so that never both have nothing; between the two requests, some
        milliseconds, the gaining side has less than it will.

        Raises UnknownTargetError or LoadBalancerError before anything is written, and LoadBalancerError when Apache
        leaves a member as it was.
        """
        units = to_units(weights, self.backends, self.finest_step)
        with _one_writer:
            members, nonce = self._read()
            # The gaining side first.
            for name in sorted(self.backends, key=lambda name: members[name].units - units[name]):
                self._write(name, members[name], units[name], nonce)

    @cached_property
    def _server(self) -> HttpServer:
        return http_server(find_connection(self.connection_id), LoadBalancerError, missing=UnknownTargetError)

    @property
    def _place(self) -> str:
        return f"Apache's balancer://{self.options.balancer} at {self._server.base_url}{self.options.path}"

    @property
    def _headers(self) -> dict[str, str]:
        """Apache takes parameters only from a page of its own."""
        return {"Referer": self._server.base_url + self.options.path}

    def _read(self) -> tuple[dict[str, Member], str]:
        """The two members by name, and the nonce that a change needs."""
        return self._told(self._server.send("GET", f"{self.options.path}?xml=1", headers=self._headers).text)

    def _write(self, name: str, member: Member, units: int, nonce: str) -> None:
        change = {"w_lf": str(units), "w_status_D": "0", "w_status_N": "0"} if units else {"w_status_N": "1"}
        form = {"b": self.options.balancer, "w": member.url, "nonce": nonce, "xml": "1", **change}
        headers = {**self._headers, "Content-Type": "application/x-www-form-urlencoded"}
        text = self._server.send("POST", self.options.path, body=urlencode(form), headers=headers).text
        if self._told(text)[0][name].units != units:
            raise LoadBalancerError(
                f"{self._place} left {name} as it was; does a proxy in front of the manager change Host or Referer?"
            )

    def _told(self, text: str) -> tuple[dict[str, Member], str]:
        try:
            if "<!DOCTYPE" in text:
                raise ValueError
            balancers = {_text(one, "name"): one for one in ElementTree.fromstring(text).iter(f"{NAMESPACE}balancer")}
        except (ElementTree.ParseError, ValueError):
            raise LoadBalancerError(
                f"{self._place} does not answer as a balancer manager does; check port and path."
            ) from None
        balancer = balancers.get(f"balancer://{self.options.balancer}")
        if balancer is None:
            raise UnknownTargetError(f"{self._place} does not exist; there is {', '.join(balancers) or 'none'}.")
        if _text(balancer, "stickysession"):
            raise LoadBalancerError(f"{self._place} has sticky sessions, which a side of weight 0 keeps; remove them.")
        workers = {_text(one, "route"): one for one in balancer.iter(f"{NAMESPACE}worker")}
        self._check_names(workers, len(list(balancer.iter(f"{NAMESPACE}worker"))))
        return {name: self._member(name, workers[name]) for name in self.backends}, _text(balancer, "nonce")

    def _check_names(self, workers: Mapping[str, object], count: int) -> None:
        listed = ", ".join(sorted(workers)) or "none"
        if missing := [name for name in self.backends if name not in workers]:
            raise UnknownTargetError(
                f"{self._place} has no member with route={' and '.join(missing)}; it has {listed}."
            )
        if count != len(self.backends):
            raise LoadBalancerError(f"{self._place} shares traffic with others, too: {listed}; leave the two only.")

    def _member(self, name: str, worker: ElementTree.Element) -> Member:
        states = set(_text(worker, "status").split())
        if not states <= KNOWN:
            raise LoadBalancerError(f"{self._place} has {name} as {' '.join(sorted(states))}; make it Ok or draining.")
        factor = _text(worker, "loadfactor")
        if not re.fullmatch(r"\d{1,3}\.\d\d", factor):
            raise LoadBalancerError(f"{self._place} gives {name} a load factor that is no number of two decimals.")
        return Member(_text(worker, "name"), Decimal(0) if states & OUT else Decimal(factor))


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(f"{NAMESPACE}{name}") or "").strip()

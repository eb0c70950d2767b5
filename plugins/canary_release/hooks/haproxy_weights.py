"""HAProxy's server weights: for a backend whose two servers are the two sides, changed through the stats socket.

The configuration to copy is ``include/haproxy/weights.cfg``.  Runtime API: https://docs.haproxy.org/2.8/management.html
(section 9.3: set server, show servers state, show stat).

One weight is 0 to 256, and a share is one weight of the sum of both.  The two always add up to 200, so that every
multiple of 0.5 % is exact; 0.1 %, which would need a sum of 1000, is refused.  The side that gains is raised before the
other is lowered: in between the share is somewhere between old and new, while the other order would pass an instant
with no server at all, which HAProxy answers with 503.

Weights in HAProxy's memory are lost with a restart or reload.  With ``state_file`` each change is kept in the file that
HAProxy's ``server-state-file`` names.
"""

import csv
import io
import random
import re
import time
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import FULL, Weights
from canary_release.hooks.connections import Strict, find_connection, read_extra
from canary_release.hooks.haproxy_socket import StatsSocket
from canary_release.hooks.shared_file import exclusive, replace_text
from canary_release.hooks.weight_units import from_units, to_units

FINEST_STEP = Decimal("0.5")
SUM = int(FULL / FINEST_STEP)
MOST_TRIES = 10  # of a change that somebody else's runs into
LONGEST_PAUSE = 0.02  # seconds after the first try, twice that after the second, and so on
WORDS = 200  # characters of an answer that an error quotes
NAME = r"^[A-Za-z0-9_.:-]+$"  # anything else could be a command of its own
COLUMNS = ("be_id", "srv_name", "srv_admin_state", "srv_uweight")
OUT_OF_ROTATION = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20  # srv_admin_state: all ways to maintenance or draining


class HaproxyWeightsExtra(Strict):
    """What the extra of the connection may hold."""

    socket: str | None = Field(None, pattern="^/", description="UNIX socket, when the connection has no host and port.")
    state_file: str | None = Field(
        None, pattern="^/", description="The file of HAProxy's `server-state-file`, so that weights outlive a restart."
    )


@dataclass(frozen=True)
class Server:
    """A server as HAProxy has it. proxy: HAProxy's number of its backend; weight: 0 to 256; rotates: not in maintenance
    and not draining."""

    proxy: str
    weight: int
    rotates: bool


class HaproxyWeightsHook(BaseHook):
    """Connection type ``generic``: host and port of HAProxy's stats socket, or ``socket`` in the extra."""

    class Options(Strict):
        """What a release file says about a HAProxy beyond its connection."""

        proxy: str = Field(pattern=NAME, description="HAProxy's `backend` whose two servers are the two sides.")

    finest_step: Decimal = FINEST_STEP

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        """What HAProxy itself balances by now.

        Raises UnknownTargetError when it has no such backend or servers, LoadBalancerError when it cannot be asked,
        when the backend does not balance by ``roundrobin`` or a server was taken out of rotation.
        """
        return from_units(self._checked_units(), f"HAProxy's backend {self.options.proxy}")

    def set_weights(self, weights: Weights) -> None:
        """Raise one side, then lower the other. It counts from the next request on.

        Raises UnknownTargetError or LoadBalancerError before anything is written, LoadBalancerError when somebody else
        kept changing the weights in between, or when only ``state_file`` could not be written.
        """
        asked = to_units(weights, self.backends, self.finest_step)
        held = self._checked_units()
        for tried in range(1, MOST_TRIES + 1):
            for name in sorted(asked, key=lambda name: held[name] - asked[name]):
                self._write(name, asked[name])
            # Another writer's two steps may have come between ours: a whole split must stand at the end.
            held = self._units(self._servers())
            if sum(held.values()) == SUM:
                self._keep()
                return
            # Not all at the same time again.
            time.sleep(random.uniform(0, tried * LONGEST_PAUSE))
        raise LoadBalancerError(f"Somebody else keeps changing the weights of {self.options.proxy}; find out who.")

    @cached_property
    def _settings(self) -> tuple[HaproxyWeightsExtra, StatsSocket]:
        connection = find_connection(self.connection_id)
        name = self.connection_id
        if connection.conn_type != "generic":
            raise ConnectionSettingsError(f"Connection {name} has type {connection.conn_type}; it must be generic.")
        extra = read_extra(connection, HaproxyWeightsExtra)
        if extra.socket is not None and not connection.host:
            return extra, StatsSocket(name, extra.socket)
        if extra.socket is not None or not connection.host or not connection.port:
            raise ConnectionSettingsError(f"Connection {name} needs either host and port, or socket in its extra.")
        return extra, StatsSocket(name, (connection.host, connection.port))

    @property
    def _socket(self) -> StatsSocket:
        return self._settings[1]

    def _checked_units(self) -> dict[str, int]:
        """Weights by backend, of a proxy that follows them."""
        servers = self._servers()
        units = self._units(servers)
        self._check_algorithm(servers[self.backends[0]].proxy)
        return units

    def _units(self, servers: dict[str, Server]) -> dict[str, int]:
        """Weights by backend, both in rotation."""
        listed = ", ".join(sorted(servers))[:WORDS] or "none"
        place = f"{self._socket}: backend {self.options.proxy}"
        if missing := [name for name in self.backends if name not in servers]:
            raise UnknownTargetError(f"{place} has no server {' and '.join(missing)}; it has {listed}.")
        if len(servers) != len(self.backends):
            raise LoadBalancerError(f"{place} shares traffic with others, too: {listed}; leave the two only.")
        if resting := [name for name in self.backends if not servers[name].rotates]:
            raise LoadBalancerError(f"{place}: {' and '.join(resting)} is in maintenance or draining; set it ready.")
        return {name: servers[name].weight for name in self.backends}

    def _servers(self) -> dict[str, Server]:
        proxy = self.options.proxy
        answer = self._socket.ask(f"show servers state {proxy}")
        lines = answer.strip().splitlines()
        if len(lines) < 2 or not lines[1].startswith("# "):
            raise self._refusal(f"show the servers of {proxy}", answer)
        columns = lines[1][2:].split()
        try:
            number, name, state, weight = (columns.index(column) for column in COLUMNS)
            rows = [line.split() for line in lines[2:]]
            rotates = [not int(row[state]) & OUT_OF_ROTATION for row in rows]
            return {
                row[name]: Server(row[number], int(row[weight]), turning)
                for row, turning in zip(rows, rotates, strict=True)
            }
        except (ValueError, IndexError):
            raise self._refusal(f"show the servers of {proxy}", answer) from None

    def _check_algorithm(self, number: str) -> None:
        """Only ``roundrobin`` follows weights exactly: ``random`` draws two and takes the less busy one.

        number: the backend's; a frontend may have the same name.
        """
        proxy = self.options.proxy
        answer = self._socket.ask(f"show stat {number} 2 -1")
        rows = list(csv.DictReader(io.StringIO(answer.strip().removeprefix("# "))))
        if len(rows) != 1 or rows[0].get("pxname") != proxy:
            raise self._refusal(f"show the backend {proxy}", answer)
        algorithm = rows[0].get("algo")
        if algorithm != "roundrobin":
            raise LoadBalancerError(
                f"{self._socket}: backend {proxy} balances by {algorithm or 'something it does not tell'}, which does "
                f"not follow weights exactly; write `balance roundrobin`, and give the stats socket `level admin`."
            )

    def _write(self, name: str, weight: int) -> None:
        if not re.match(NAME, name):
            raise UnknownTargetError(f"HAProxy cannot have a server {name!r}; correct the release file.")
        command = f"set server {self.options.proxy}/{name} weight {weight}"
        answer = self._socket.ask(command)
        if answer.strip():
            raise self._refusal(command, answer)

    def _keep(self) -> None:
        """Put the state of all servers where HAProxy looks for it when it starts."""
        if self._settings[0].state_file is None:
            return
        file = Path(self._settings[0].state_file)
        with exclusive(file):
            state = self._socket.ask("show servers state")
            if not state.startswith("1\n"):
                raise self._refusal("show the state of all servers", state)
            replace_text(file, state.strip() + "\n")

    def _refusal(self, what: str, answer: str) -> LoadBalancerError:
        """HAProxy answers every error in words and without a status: the error for them."""
        words = "".join(c for c in " ".join(answer.split())[:WORDS] if c.isprintable()) or "nothing"
        if "No such server" in answer or "find backend" in answer or "No such backend" in answer:
            return UnknownTargetError(f"{self._socket} will not {what}: {words}")
        if "ermission denied" in answer or "Unknown command" in answer:
            return LoadBalancerError(f"{self._socket} will not {what}: {words}. Its stats socket needs `level admin`.")
        return LoadBalancerError(f"{self._socket} will not {what}: {words}")

"""HAProxy's runtime API: the canary's share and its lease as entries of a map, decided anew for every request.

The configuration to copy is ``include/haproxy/canary.cfg``.  Runtime API: https://docs.haproxy.org/2.8/management.html
(section 9.3: set map, show map, show backend, set var, get var).  Three entries hold the state of one service, named
after the one of its two backends that the configuration's ``use_backend`` names:

    <backend>.share   0 to 10000, the requests out of 10,000 that it gets while the lease lives
    <backend>.until   the lease's end in whole seconds since the epoch, by HAProxy's clock
    <backend>.after   0 or 10000, what it gets once the lease is over

Every change that moves traffic is one ``set map`` of one number.  Weights and leases are different entries, so that a
renewal and a rollback at the same moment cannot undo each other.  Replacing the whole map in one commit would be
atomic, too, but takes the entries of all other services along.
"""

import math
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from airflow.sdk import BaseHook
from pydantic import Field

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.connections import Strict, find_connection, read_extra
from canary_release.hooks.shared_file import exclusive, read_text, replace_text
from canary_release.hooks.weight_units import from_units, to_units

WHOLE = 10_000
LARGEST_SKEW = 2.0  # seconds between HAProxy's clock and ours
LONGEST_LEASE = 366 * 86_400.0  # seconds, as in a release file; an instant in milliseconds is far beyond
CONNECT_SECONDS = 3.0
WHOLE_SECONDS = 10.0
LARGEST_ANSWER = 5 * 1024 * 1024  # bytes
WORDS = 200  # characters of an answer that an error quotes

# The very function that ends the lease in the configuration, and not the host's clock or HAProxy's uptime: those differ
# from it when the host's clock was set after HAProxy started.
ASK_CLOCK = "experimental-mode on; set var proc.canary_clock expr date(0,ms); get var proc.canary_clock"
CLOCK = re.compile(r"^proc\.canary_clock: type=sint value=<(\d+)>", re.MULTILINE)
ENTRY = re.compile(r"0x[0-9a-f]+ (\S+) (.*)")
# Anything else could be a command of its own.
PROXY_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
FIELDS = ("share", "until", "after")


class HaproxyExtra(Strict):
    """What the extra of the connection may hold."""

    map_file: str = Field(
        pattern=r"^/[A-Za-z0-9._/@+-]+$", description="Absolute path of the map as HAProxy's configuration spells it."
    )
    file: str | None = Field(None, pattern="^/", description="The same file as Airflow reaches it; default: map_file.")
    socket: str | None = Field(None, pattern="^/", description="UNIX socket, when the connection has no host and port.")


@dataclass(frozen=True)
class Split:
    """The entries of one service. share, after: of 10,000, for ``backend``; until: seconds since the epoch."""

    backend: str
    share: int
    until: int
    after: int

    def lives(self, now: float) -> bool:
        """Is the lease running at ``now``? HAProxy compares whole seconds."""
        return math.floor(now) < self.until

    def in_force(self, now: float) -> int:
        return self.share if self.lives(now) else self.after


class HaproxyHook(BaseHook):
    """Connection type ``generic``: host and port of HAProxy's stats socket, or ``socket`` in the extra.

    A share between nothing and everything needs a lease: without one, ``set_weights`` accepts only what is in force.
    One HAProxy; a second one behind the same address would need a connection and a lease of its own.
    """

    class Options(Strict):
        """It has none: the map's entries are named after the backends."""

    finest_step: Decimal = Decimal("0.01")

    def __init__(
        self, connection_id: str, backends: tuple[str, str], options: Options, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options
        self.clock = clock

    def get_weights(self) -> Weights:
        """What HAProxy decides by at this moment of its own clock: after the lease's end, the safe side.

        Raises UnknownTargetError when it has no such backend, map or entries, LoadBalancerError when it cannot be asked
        or the entries are no shares.
        """
        self._check_backends()
        # The clock comes first: a lease renewed in between must not look as if it had ended.
        now = self._now()
        split = self._split()
        share = split.in_force(now)
        units = {name: share if name == split.backend else WHOLE - share for name in self.backends}
        return from_units(units, f"The map {self._extra.map_file}")

    def set_weights(self, weights: Weights) -> None:
        """Change the share in one write. It counts from the next request on, for as long as the lease lives.

        Raises UnknownTargetError or LoadBalancerError before anything is written, LoadBalancerError when no lease is
        running and the weights are not those in force.
        """
        units = to_units(weights, self.backends, self.finest_step)
        self._check_backends()
        now = self._now()
        split = self._split()
        asked = units[split.backend]
        if not split.lives(now) and asked != split.after:
            raise LoadBalancerError(
                f"{self._where} runs no lease for {split.backend} (the last ended at {split.until}), so it would not "
                f"follow the weights {weights}; renew the lease first."
            )
        self._write(split.backend, "share", asked)

    def renew_lease(self, until: float, safe: str) -> None:
        """Let the weights stand until ``until`` (seconds since the epoch, rounded down), then give all to ``safe``.

        A lease that has ended begins anew, with everything on ``safe``: weights of before do not come back.  What
        HAProxy finds in its file after a restart is seen to first.  Raises LoadBalancerError without a change when
        ``until`` is not in the future, when the clocks differ by more than 2 s, or when no lease is running and the
        other backend holds the traffic; UnknownTargetError when ``safe`` is neither backend.
        """
        now = self._checked_now()
        ends = self._checked_end(until, now)
        split = self._split()
        safe_share = self._share_of(safe, split.backend)
        lives = split.lives(now)
        if not lives and split.after != safe_share:
            raise LoadBalancerError(
                f"{self._where}: {safe} cannot be the safe side, since no lease is running and it does not have all "
                f"the traffic; see who moved it, and give it everything before a release starts."
            )
        if not lives or split.after != safe_share:
            self._keep_in_file(split.backend, safe_share)
        if not lives:
            self._write(split.backend, "share", safe_share)
        if split.after != safe_share:
            self._write(split.backend, "after", safe_share)
        self._write(split.backend, "until", ends)

    def end_lease(self, safe: str) -> None:
        """Give everything to ``safe`` now, whatever the lease and HAProxy's clock say, and in the file for a restart.

        The first write moves the traffic while the lease lives, the second for good: no moment in between is less safe.
        Raises LoadBalancerError, also when only the file could not be written.
        """
        backend = self._backend_of(self._entries())
        safe_share = self._share_of(safe, backend)
        self._write(backend, "share", safe_share)
        self._write(backend, "after", safe_share)
        self._write(backend, "until", 0)
        self._keep_in_file(backend, safe_share)

    @cached_property
    def _settings(self) -> tuple[HaproxyExtra, str | tuple[str, int]]:
        """The extra, and the address of the stats socket: a path, or host and port."""
        connection = find_connection(self.connection_id)
        name = self.connection_id
        if connection.conn_type != "generic":
            raise ConnectionSettingsError(f"Connection {name} has type {connection.conn_type}; it must be generic.")
        extra = read_extra(connection, HaproxyExtra)
        if extra.socket is not None and not connection.host:
            return extra, extra.socket
        if extra.socket is not None or not connection.host or not connection.port:
            raise ConnectionSettingsError(f"Connection {name} needs either host and port, or socket in its extra.")
        return extra, (connection.host, connection.port)

    @property
    def _extra(self) -> HaproxyExtra:
        return self._settings[0]

    @property
    def _where(self) -> str:
        address = self._settings[1]
        return f"HAProxy at {address if isinstance(address, str) else f'{address[0]}:{address[1]}'}"

    def _check_backends(self) -> None:
        answer = self._ask("show backend")
        if not answer.startswith("# name\n"):
            raise self._refusal("list its backends", answer)
        known = answer.split()[2:]
        if missing := [name for name in self.backends if name not in known]:
            listed = ", ".join(known)[:WORDS] or "none"
            raise UnknownTargetError(f"{self._where} has no backend {' and '.join(missing)}; it has {listed}.")

    def _now(self) -> float:
        """HAProxy's clock, seconds since the epoch."""
        answer = self._ask(ASK_CLOCK)
        found = CLOCK.search(answer)
        if found is None:
            raise self._refusal("be asked for its clock", answer)
        return int(found[1]) / 1000

    def _checked_now(self) -> float:
        """HAProxy's clock when it agrees with ours: only then does a lease end when its giver thinks it does."""
        before = self.clock()
        now = self._now()
        after = self.clock()
        # Between the two looks at ours it may stand anywhere.
        skew = min(now - before, 0.0) or max(now - after, 0.0)
        if abs(skew) > LARGEST_SKEW:
            word = "ahead of" if skew > 0 else "behind"
            raise LoadBalancerError(
                f"The clock of {self._where} is {abs(skew):.0f} s {word} ours, so no lease is given: it would not end "
                f"when it should; set both by NTP."
            )
        return now

    def _checked_end(self, until: float, now: float) -> int:
        if not math.isfinite(until) or not now < math.floor(until) <= now + LONGEST_LEASE:
            raise LoadBalancerError(
                f"A lease until {until} was asked for; for {self._where} it is {now:.0f}: give an instant in the "
                f"future, in seconds since the epoch."
            )
        return math.floor(until)

    def _entries(self) -> dict[str, str]:
        """The map by name. UnknownTargetError when HAProxy has no such map."""
        map_file = self._extra.map_file
        answer = self._ask(f"show map {map_file}")
        entries: dict[str, str] = {}
        for line in filter(None, answer.split("\n")):
            found = ENTRY.fullmatch(line)
            if found is None:
                raise self._refusal(f"show the map {map_file}", answer)
            if found[1] in entries and found[1] in self._keys:
                raise LoadBalancerError(f"The map {map_file} has {found[1]} twice; delete one of the lines.")
            entries[found[1]] = found[2]
        return entries

    def _split(self) -> Split:
        entries = self._entries()
        backend = self._backend_of(entries)
        numbers: dict[str, int] = {}
        for name in FIELDS:
            text = entries[f"{backend}.{name}"]
            if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or (name != "until" and int(text) > WHOLE):
                raise LoadBalancerError(
                    f"The map {self._extra.map_file} has {text[:WORDS]!r} for {backend}.{name}; shares are 0 to "
                    f"{WHOLE}, instants seconds since the epoch."
                )
            numbers[name] = int(text)
        return Split(backend, **numbers)

    def _backend_of(self, entries: dict[str, str]) -> str:
        """The one of the two backends that the map's entries are named after."""
        complete = [name for name in self.backends if all(f"{name}.{field}" in entries for field in FIELDS)]
        if len(complete) == 1:
            return complete[0]
        state = "entries for both" if complete else "no complete entries for either"
        raise UnknownTargetError(
            f"The map {self._extra.map_file} has {state} of {' and '.join(self.backends)}; it needs .share, .until and "
            f".after of the one that use_backend names."
        )

    @cached_property
    def _keys(self) -> set[str]:
        return {f"{backend}.{field}" for backend in self.backends for field in FIELDS}

    def _share_of(self, safe: str, backend: str) -> int:
        if safe not in self.backends:
            raise UnknownTargetError(f"{safe} cannot be the safe side; the backends are {' and '.join(self.backends)}.")
        return WHOLE if safe == backend else 0

    def _write(self, backend: str, field: str, number: int) -> None:
        if not PROXY_NAME.fullmatch(backend):
            raise UnknownTargetError(f"HAProxy cannot have a backend {backend!r}; correct the release file.")
        command = f"set map {self._extra.map_file} {backend}.{field} {number}"
        answer = self._ask(command)
        if answer.strip():
            raise self._refusal(command, answer)

    def _keep_in_file(self, backend: str, share: int) -> None:
        """Let the file say what shall hold after a restart: everything as ``share`` says, and no lease.

        Written only when it says something else, so that a rollback does not depend on a full disk.
        """
        file = Path(self._extra.file or self._extra.map_file)
        wanted = {f"{backend}.share": share, f"{backend}.until": 0, f"{backend}.after": share}
        if _with_numbers(text := read_text(file), wanted, file) == text:
            return
        with exclusive(file):
            replace_text(file, _with_numbers(read_text(file), wanted, file))

    def _refusal(self, what: str, answer: str) -> LoadBalancerError:
        """HAProxy answers every error in words and without a status: the error for them."""
        words = "".join(c for c in " ".join(answer.split())[:WORDS] if c.isprintable()) or "nothing"
        if "Unknown map identifier" in answer:
            return UnknownTargetError(
                f"{self._where} has no map {self._extra.map_file}; write map_file as its configuration spells it."
            )
        if "entry not found" in answer:
            return UnknownTargetError(f"{self._where} has no such entry ({what}): put it into the file, and reload.")
        if "ermission denied" in answer or "experimental mode" in answer or "Unknown command" in answer:
            return LoadBalancerError(
                f"{self._where} will not {what}: {words}. It must be HAProxy 2.4 or newer, and its stats socket needs "
                f"`level admin`."
            )
        return LoadBalancerError(f"{self._where} will not {what}: {words}.")

    def _ask(self, command: str) -> str:
        """The whole answer to one line. HAProxy closes the connection after it."""
        deadline = time.monotonic() + WHOLE_SECONDS
        answer = bytearray()
        try:
            with self._connect() as connection:
                connection.sendall(command.encode() + b"\n")
                while chunk := self._receive(connection, deadline):
                    answer += chunk
                    if len(answer) > LARGEST_ANSWER:
                        raise LoadBalancerError(f"{self._where} answered more than {LARGEST_ANSWER // 2**20} MiB.")
        except TimeoutError:
            raise LoadBalancerError(
                f"{self._where} did not answer in time ({CONNECT_SECONDS:g} s to connect, {WHOLE_SECONDS:g} s in all)."
            ) from None
        except OSError as error:
            raise LoadBalancerError(
                f"{self._where} cannot be reached ({error.strerror or error}); check that it runs and what connection "
                f"{self.connection_id} says."
            ) from None
        text = answer.decode(errors="replace")
        if not text.endswith("\n"):
            raise LoadBalancerError(f"{self._where} broke off its answer, or is no HAProxy; check the port.")
        return text

    def _connect(self) -> socket.socket:
        address = self._settings[1]
        if not isinstance(address, str):
            return socket.create_connection(address, timeout=CONNECT_SECONDS)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(address)
        except OSError:
            connection.close()
            raise
        return connection

    @staticmethod
    def _receive(connection: socket.socket, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        return connection.recv(64 * 1024)


def _with_numbers(text: str, wanted: dict[str, int], file: Path) -> str:
    """The map file's text with these numbers exchanged in place; UnknownTargetError when a line is not there once."""
    for key, number in wanted.items():
        line = re.compile(rf"^([ \t]*{re.escape(key)}[ \t]+)\S+", re.MULTILINE)
        text, count = line.subn(rf"\g<1>{number}", text)
        if count != 1:
            raise UnknownTargetError(f"{file} has {count} lines for {key}; it needs exactly one, such as `{key} 0`.")
    return text

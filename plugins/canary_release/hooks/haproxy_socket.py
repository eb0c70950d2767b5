"""One line to HAProxy's stats socket, and its whole answer (management guide, section 9.3)."""

import socket
import time
from dataclasses import dataclass

from canary_release.core.problems import LoadBalancerError

CONNECT_SECONDS = 3.0
WHOLE_SECONDS = 10.0
LARGEST_ANSWER = 5 * 1024 * 1024  # bytes


@dataclass(frozen=True)
class StatsSocket:
    """The stats socket that a connection names: a path, or host and port."""

    connection_id: str
    address: str | tuple[str, int]

    def __str__(self) -> str:
        address = self.address
        return f"HAProxy at {address if isinstance(address, str) else f'{address[0]}:{address[1]}'}"

    def ask(self, command: str) -> str:
        """HAProxy closes the connection after its answer, and errors are words in it. Raises LoadBalancerError."""
        deadline = time.monotonic() + WHOLE_SECONDS
        answer = bytearray()
        try:
            with self._connected() as connection:
                connection.sendall(command.encode() + b"\n")
                while chunk := _received(connection, deadline):
                    answer += chunk
                    if len(answer) > LARGEST_ANSWER:
                        raise LoadBalancerError(f"{self} answered more than {LARGEST_ANSWER // 2**20} MiB.")
        except TimeoutError:
            raise LoadBalancerError(
                f"{self} did not answer in time ({CONNECT_SECONDS:g} s to connect, {WHOLE_SECONDS:g} s in all)."
            ) from None
        except OSError as error:
            raise LoadBalancerError(
                f"{self} cannot be reached ({error.strerror or error}); check that it runs and what connection "
                f"{self.connection_id} says."
            ) from None
        text = answer.decode(errors="replace")
        if not text.endswith("\n"):
            raise LoadBalancerError(f"{self} broke off its answer, or is no HAProxy; check the port.")
        return text

    def _connected(self) -> socket.socket:
        if not isinstance(self.address, str):
            return socket.create_connection(self.address, timeout=CONNECT_SECONDS)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(self.address)
        except OSError:
            connection.close()
            raise
        return connection


def _received(connection: socket.socket, deadline: float) -> bytes:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
    return connection.recv(64 * 1024)

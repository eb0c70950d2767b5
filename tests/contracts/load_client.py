"""Closed-loop clients that count what they got, so that a metric source's counts can be compared with the truth."""

import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from contracts.waiting import wait_until

UNANSWERED = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class Client:
    """One keep-alive connection. ``ask`` gives the body's text and the status of one GET.

    ask_again: once, on a new connection, when one that was in use before closes without a byte of an answer: what
    every browser and every HTTP library with a pool does (RFC 9112, section 9.3.1), since a server may close an idle
    connection whenever it likes.  ``asked_again`` counts it.
    """

    def __init__(self, url: str, *, ask_again: bool = False) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
        self._ask_again = ask_again
        self.asked_again = 0

    def ask(self, path: str = "/") -> tuple[str, int]:
        in_use = self._connection.sock is not None
        try:
            self._connection.request("GET", path)
            response = self._connection.getresponse()
        except UNANSWERED:
            if not in_use or not self._ask_again:
                raise
            self.asked_again += 1
            self._connection.close()
            return self.ask(path)
        return response.read().decode(), response.status

    def close(self) -> None:
        self._connection.close()


def ask_many(url: str, count: int) -> Counter[tuple[str, int]]:
    """How often each (body, status) came in ``count`` requests, one after the other."""
    client = Client(url)
    try:
        return Counter(client.ask() for _ in range(count))
    finally:
        client.close()


class Load:
    """What the clients of ``under_load`` have seen so far."""

    def __init__(self) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.failures: list[str] = []
        self.unanswered = 0  # of the failures: the connection was closed without a byte of an answer
        self.asked_again = 0

    @property
    def total(self) -> int:
        return sum(self.answers.values())

    def wait_for_more(self, count: int) -> None:
        """Return when so many answers more than now have come."""
        goal = self.total + count
        wait_until(lambda: self.total >= goal, f"{count} more answers")


@contextmanager
def under_load(url: str, clients: int = 4, pause: float = 0.002, *, ask_again: bool = False) -> Iterator[Load]:
    """Ask from several threads, ``pause`` seconds after each answer, until the block ends.

    A request fails when it gets no answer; clients never try again, but for what ``Client.ask_again`` says.
    """
    load, over, lock = Load(), threading.Event(), threading.Lock()

    def ask_on() -> None:
        client = Client(url, ask_again=ask_again)
        while not over.wait(pause):
            try:
                answer = client.ask()
            except (OSError, http.client.HTTPException) as error:
                with lock:
                    load.failures.append(f"{type(error).__name__}: {error}")
                    load.unanswered += isinstance(error, UNANSWERED)
                client.close()
                continue
            with lock:
                load.answers[answer] += 1
        client.close()
        with lock:
            load.asked_again += client.asked_again

    threads = [threading.Thread(target=ask_on, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join()

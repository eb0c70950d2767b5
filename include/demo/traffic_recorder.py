"""Counts what clients see while it happens, and closes one record a second. Knows no network and no clock."""

from dataclasses import dataclass, field

from demo.traffic_log import Answers, Second


@dataclass
class _Open:
    """A record that still grows."""

    answers: dict[tuple[str, str], "_OpenAnswers"] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    held_back: int = 0

    def closed(self, second: int) -> Second:
        answers = tuple(own.closed(*key) for key, own in self.answers.items())
        return Second(second=second, answers=answers, lost=dict(self.lost), held_back=self.held_back)


@dataclass
class _OpenAnswers:
    first: float
    last: float = 0.0
    requests: int = 0
    errors: int = 0
    latency_ms: dict[int, int] = field(default_factory=dict)

    def add(self, at: float, *, error: bool, seconds: float) -> None:
        self.last = at
        self.requests += 1
        if error:
            self.errors += 1
            return
        millisecond = int(seconds * 1000)
        self.latency_ms[millisecond] = self.latency_ms.get(millisecond, 0) + 1

    def closed(self, version: str, backend: str) -> Answers:
        latency_ms = dict(sorted(self.latency_ms.items()))
        return Answers(version, backend, self.requests, self.errors, latency_ms, self.first, self.last)


class Recorder:
    """Every ``at`` is in seconds since the epoch and must not be smaller than the one before."""

    def __init__(self, start: float) -> None:
        self._second = int(start)
        self._open = _Open()
        self._all = _Open()
        self._closed: list[Second] = []

    def answer(self, at: float, *, version: str, backend: str, error: bool, seconds: float) -> None:
        """The application answered after ``seconds``."""
        for record in self._records(at):
            own = record.answers.get((version, backend))
            if own is None:
                own = record.answers[version, backend] = _OpenAnswers(first=at)
            own.add(at, error=error, seconds=seconds)

    def lose(self, at: float, reason: str) -> None:
        """A request got no answer of the application."""
        for record in self._records(at):
            record.lost[reason] = record.lost.get(reason, 0) + 1

    def hold_back(self, at: float, requests: int) -> None:
        """These requests were due and are not sent."""
        for record in self._records(at):
            record.held_back += requests

    def close_until(self, at: float) -> list[Second]:
        """The records that are complete now, each given once, empty ones included."""
        self._move_to(at)
        closed, self._closed = self._closed, []
        return closed

    def close_all(self, at: float) -> list[Second]:
        """As ``close_until``, and the second that has begun, too: for the end."""
        self._move_to(at)
        self._move_to(self._second + 1)
        return self.close_until(at)

    def total(self) -> Second:
        """Everything since the start, the running second included, under the running second."""
        return self._all.closed(self._second)

    def _records(self, at: float) -> tuple[_Open, _Open]:
        self._move_to(at)
        return self._open, self._all

    def _move_to(self, at: float) -> None:
        while self._second < int(at):
            self._closed.append(self._open.closed(self._second))
            self._second += 1
            self._open = _Open()

"""What the clients saw, second by second, and what follows from it: shares, hurt and lost requests, exposure.

Pure functions over records; `traffic.py` writes one record a second as a line of JSON, also when nothing happened.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from canary_release.core.problems import CanaryError


class TrafficLogError(CanaryError):
    """A traffic log, or a record of it, that cannot be read."""


@dataclass(frozen=True)
class Answers:
    """What the clients got from one version on one backend.

    requests: answered ones, errors included.  errors: answers with a 5xx status that the application gave itself.
    latency_ms: answers that were no errors, by latency in whole milliseconds, rounded down.
    first, last: when the first and the last answer arrived, seconds since the epoch.
    """

    version: str
    backend: str
    requests: int
    errors: int
    latency_ms: Mapping[int, int]
    first: float
    last: float


@dataclass(frozen=True)
class Second:
    """All answers that arrived within one second (``second`` = whole seconds since the epoch).

    lost: requests without an answer of the application, by reason: ``refused``, ``reset``, ``timeout``, ``cut``, or
        the status that the load balancer answered instead.
    held_back: requests that were due but not sent, because too many were open already; they are no one's loss, but
        the rate was not what was asked for.
    """

    second: int
    answers: tuple[Answers, ...] = ()
    lost: Mapping[str, int] = field(default_factory=dict)
    held_back: int = 0


def newest(seconds: Sequence[Second], count: int) -> list[Second]:
    """The records of the last ``count`` seconds, counted back from the newest record."""
    return [each for each in seconds if each.second > seconds[-1].second - count] if seconds else []


def between(seconds: Iterable[Second], start: float, end: float) -> list[Second]:
    """The records of the seconds that overlap the time from ``start`` to ``end``, seconds since the epoch."""
    return [each for each in seconds if each.second < end and each.second + 1 > start]


def versions(seconds: Iterable[Second]) -> list[str]:
    """The versions that answered, in the order in which they appeared."""
    return list(dict.fromkeys(answers.version for each in seconds for answers in each.answers))


def answers_of(seconds: Iterable[Second], version: str | None = None, *, backend: str | None = None) -> Answers | None:
    """All answers of a version (of a backend; of everyone) as one, or None when there was none."""
    found = [
        answers
        for each in seconds
        for answers in each.answers
        if version in (None, answers.version) and backend in (None, answers.backend)
    ]
    if not found:
        return None
    latency: dict[int, int] = {}
    for answers in found:
        for millisecond, requests in answers.latency_ms.items():
            latency[millisecond] = latency.get(millisecond, 0) + requests
    return Answers(
        version=version or "",
        backend=backend or "",
        requests=sum(answers.requests for answers in found),
        errors=sum(answers.errors for answers in found),
        latency_ms=dict(sorted(latency.items())),
        first=min(answers.first for answers in found),
        last=max(answers.last for answers in found),
    )


def share_observed(
    seconds: Iterable[Second], version: str | None = None, *, backend: str | None = None
) -> float | None:
    """The share of the answered requests that a version or backend answered, 0 to 1; None without any answer."""
    seconds = list(seconds)
    everyone = answers_of(seconds)
    if everyone is None:
        return None
    own = answers_of(seconds, version, backend=backend)
    return own.requests / everyone.requests if own else 0.0


def hurt(seconds: Iterable[Second], version: str, *, slow_after: float) -> int:
    """Requests to a version that failed, or that took ``slow_after`` seconds or longer; each is counted once.

    Exact for whole milliseconds, which is how finely latency is recorded.
    """
    own = answers_of(seconds, version)
    if own is None:
        return 0
    # Without the rounding 2.007 s would be 2007.0000000000002 ms, and its own millisecond would not count.
    limit = round(slow_after * 1000, 6)
    return own.errors + sum(count for millisecond, count in own.latency_ms.items() if millisecond >= limit)


def exposure(seconds: Iterable[Second], version: str) -> float:
    """Seconds from the first to the last answer of a version; 0 when it gave none or one."""
    own = answers_of(seconds, version)
    return own.last - own.first if own else 0.0


def lost(seconds: Iterable[Second]) -> int:
    """Requests that got no answer of the application, for whatever reason."""
    return sum(lost_by_reason(seconds).values())


def lost_by_reason(seconds: Iterable[Second]) -> dict[str, int]:
    """Lost requests by reason; see ``Second.lost``."""
    found: dict[str, int] = {}
    for each in seconds:
        for reason, count in each.lost.items():
            found[reason] = found.get(reason, 0) + count
    return found


def error_rate(seconds: Iterable[Second], version: str) -> float | None:
    """The share of a version's answers that were errors, 0 to 1; None without any answer."""
    own = answers_of(seconds, version)
    return own.errors / own.requests if own else None


def latency(seconds: Iterable[Second], version: str, quantile: float) -> float | None:
    """A quantile (0 to 1) of the latency of a version's good answers in seconds; None when there was none.

    The smallest recorded millisecond that at least this share of the answers does not exceed (nearest rank).
    """
    own = answers_of(seconds, version)
    if own is None or not own.latency_ms:
        return None
    rank = max(1, math.ceil(quantile * sum(own.latency_ms.values())))
    seen = 0
    for millisecond in sorted(own.latency_ms):
        seen += own.latency_ms[millisecond]
        if seen >= rank:
            break
    return millisecond / 1000


def to_json(second: Second) -> dict[str, Any]:
    """A record as plain JSON values."""
    return {
        "second": second.second,
        "answers": [answers_to_json(answers) for answers in second.answers],
        "lost": dict(second.lost),
        "held_back": second.held_back,
    }


def answers_to_json(answers: Answers) -> dict[str, Any]:
    return {**vars(answers), "latency_ms": {str(millisecond): n for millisecond, n in answers.latency_ms.items()}}


def from_json(value: Any) -> Second:
    """The inverse of ``to_json``. Raises TrafficLogError when it is no record."""
    try:
        return Second(
            second=int(value["second"]),
            answers=tuple(_answers_from_json(answers) for answers in value["answers"]),
            lost={str(reason): int(count) for reason, count in value["lost"].items()},
            held_back=int(value["held_back"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TrafficLogError(f"this is no record of a second of traffic ({error!r}): {str(value)[:80]}") from None


def _answers_from_json(value: Any) -> Answers:
    return Answers(
        version=str(value["version"]),
        backend=str(value["backend"]),
        requests=int(value["requests"]),
        errors=int(value["errors"]),
        latency_ms={int(millisecond): int(count) for millisecond, count in value["latency_ms"].items()},
        first=float(value["first"]),
        last=float(value["last"]),
    )


def read_log(path: Path) -> list[Second]:
    """The records of a log. A last line that is still being written is left out.

    Raises TrafficLogError, which names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TrafficLogError(f"{path}: the traffic log cannot be read ({error}).") from error
    records = []
    for number, line in enumerate(lines[:-1], start=1):
        try:
            records.append(from_json(json.loads(line)))
        except (ValueError, RecursionError, TrafficLogError) as error:
            raise TrafficLogError(f"{path}:{number}: {error}") from None
    return records

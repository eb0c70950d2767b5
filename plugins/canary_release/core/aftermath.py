"""What a finished rollout did to its users: how many requests it hurt, from when to when, and how fast it was undone.

A bad request is one that failed, or one slower than the limit of a latency check allows. "Above stable" takes away
what stable's own share of bad requests would have given at the same time.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

from canary_release.core.release import Check, CheckKind, Direction, Limit, LimitKind
from canary_release.core.values import Counts, Window
from canary_release.core.weigh import label


@dataclass(frozen=True)
class Shown:
    """What the load balancer gave the canary from an instant on: seconds since the epoch, percent."""

    at: float
    percent: float


@dataclass(frozen=True)
class Aftermath:
    """Instants are seconds since the epoch, durations seconds, weights percent; None where there is nothing to say.

    requests, errors: on the canary.  errors_above_stable, slow_above_stable: beyond what stable would have given,
    negative when the canary was better; None without a stable to compare with.  first_harm_at: only of rollouts that
    went back because of a check.  seconds_to_zero: from first_harm_at to weight 0 read back.
    seconds_from_evidence: from the end of the window that decided to weight 0 read back.
    seconds_to_full: from the start to everything on the canary, read back.
    users: whose traffic the canary's requests were, where it is known how many requests a user makes; of them, or of
    all users where one user's requests go to both sides, users_hurt_least to users_hurt_most were hurt.
    """

    requests: int = 0
    errors: int = 0
    errors_above_stable: float | None = None
    slow_above_stable: float | None = None
    highest_weight: float = 0.0
    exposed_seconds: float = 0.0
    first_harm_at: float | None = None
    zero_at: float | None = None
    seconds_to_zero: float | None = None
    seconds_from_evidence: float | None = None
    seconds_to_full: float | None = None
    users: int | None = None
    users_hurt_least: int | None = None
    users_hurt_most: int | None = None

    @property
    def hurt(self) -> int:
        """Requests that failed or were too slow beyond what stable would have given."""
        return round(max(self.errors_above_stable or 0.0, 0.0) + max(self.slow_above_stable or 0.0, 0.0))

    def for_users(self, requests_each: float, *, sticky: bool) -> "Aftermath":
        """The same with the figures of users, who make so many requests each; unknown (0) leaves them out.

        sticky: whether all requests of a user go to one side, so that no more can be hurt than saw the canary.
        """
        if requests_each <= 0 or not self.requests:
            return self
        users = max(round(self.requests / requests_each), 1)
        most = min(self.hurt, users) if sticky else self.hurt
        least = min(math.ceil(self.hurt / requests_each), most)
        return replace(self, users=users, users_hurt_least=least, users_hurt_most=most)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Aftermath":
        """Keys that this version does not know are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: given for name, given in value.items() if name in known})


def aftermath(
    windows: Sequence[Window],
    shown: Sequence[Shown],
    checks: Sequence[Check],
    *,
    started_at: float,
    ended_at: float,
    decided: int | None = None,
    blamed: str | None = None,
) -> Aftermath:
    """Of a rollout that is over.

    shown: every read-back, oldest first.  decided: index of the window after which the canary had to go back, None
    when it did not, or not because of a check.  blamed: label of the check that was to blame.
    """
    usable = [window for window in windows if window.broken is None]
    of_latency = next((check for check in checks if check.kind is CheckKind.LATENCY), None)
    at_fault = next((check for check in checks if label(check) == blamed), None)
    harm_from = _first_harm(usable, at_fault, decided) if decided is not None else None
    zero_at = _zero_after(shown) if decided is not None else None
    decided_at = next((window.end for window in windows if window.index == decided), None)
    return Aftermath(
        requests=sum(window.canary.requests for window in usable if window.canary),
        errors=sum(window.canary.errors for window in usable if window.canary),
        errors_above_stable=_total([excess for _, excess in _excess(usable, None)]),
        slow_above_stable=_total([excess for _, excess in _excess(usable, of_latency)]) if of_latency else None,
        highest_weight=max((each.percent for each in shown), default=0.0),
        exposed_seconds=_exposed(shown, ended_at),
        first_harm_at=harm_from,
        zero_at=zero_at,
        seconds_to_zero=_between(harm_from, zero_at),
        seconds_from_evidence=_between(decided_at, zero_at),
        seconds_to_full=_between(started_at, next((each.at for each in shown if each.percent == 100.0), None)),
    )


def _first_harm(windows: Sequence[Window], check: Check | None, decided: int | None) -> float | None:
    """When the canary began to be worse than the check allows, or where that never shows, worse than stable."""
    until = [window for window in windows if decided is None or window.index <= decided]
    beyond_limit = _excess(until, check, allowed=True) if check is not None else []
    return _change_point(beyond_limit) or _change_point(_excess(until, check))


def _change_point(excesses: Sequence[tuple[Window, float]]) -> float | None:
    """The start of the window after which the summed excess was least (Page's CUSUM estimate, 1954)."""
    total, least = 0.0, 0.0
    found: float | None = None
    for window, excess in excesses:
        if found is None:
            found = window.start
        total += excess
        if total <= least:
            least, found = total, None
    return found if total > least else None


def _excess(windows: Sequence[Window], check: Check | None, *, allowed: bool = False) -> list[tuple[Window, float]]:
    """For each window the canary's bad requests beyond stable's share of them in that step, or ever before.

    allowed: beyond the share that the check allows instead.
    """
    slower_than = _threshold(check, windows) if check is not None and check.kind is CheckKind.LATENCY else None
    rows = [(window, _bad(window, window.canary, check, slower_than)) for window in windows]
    shares: dict[int, tuple[float, float]] = {}
    for window in windows:
        bad, of = _bad(window, window.stable, check, slower_than)
        before = shares.get(window.step, (0.0, 0.0))
        shares[window.step] = (before[0] + bad, before[1] + of)
    found, last = [], None
    for window, (bad, of) in rows:
        stable_bad, stable_of = shares[window.step]
        # Without any traffic on stable, as in the last step, its share before that counts.
        last = stable_bad / stable_of if stable_of > 0 else last
        if last is not None and of > 0:
            found.append((window, bad - of * (_allowed_share(check, last) if allowed and check is not None else last)))
    return found


def _allowed_share(check: Check, stable: float) -> float:
    """The share of bad requests that the canary may have when stable has this one."""
    if check.kind is CheckKind.LATENCY:
        return max(1.0 - (check.quantile or 0.5), stable)
    higher = check.direction is Direction.HIGHER_IS_BETTER
    good = 1.0 - stable if higher else stable
    bounds = [] if check.absolute is None else [check.absolute.amount]
    if check.max_change is not None:
        bounds.append(beyond(good, check.max_change, higher_is_better=higher))
    if higher:
        return 1.0 - max(bounds, default=good)
    return max(min(bounds, default=good), stable)


def _bad(window: Window, side: Counts | None, check: Check | None, slower_than: float | None) -> tuple[float, float]:
    """(bad requests, requests) of one side; zeros where it was not read."""
    if side is None:
        return 0.0, 0.0
    if slower_than is not None:
        if len(side.buckets) != len(window.edges) + 1:
            return 0.0, 0.0
        return float(sum(side.buckets[bisect_left(window.edges, slower_than) + 1 :])), float(sum(side.buckets))
    if check is not None and check.metric in side.proportions:
        events, of = side.proportions[check.metric]
        return float(of - events if check.direction is Direction.HIGHER_IS_BETTER else events), float(of)
    return float(side.errors), float(side.requests)


def _threshold(check: Check, windows: Sequence[Window]) -> float | None:
    """The edge in seconds from which on a request is too slow: stable's own quantile plus the limit."""
    placed = [(window, window.stable) for window in windows if window.edges and window.stable and window.stable.buckets]
    if not placed:
        return None
    edges = placed[0][0].edges
    pooled = [0.0] * (len(edges) + 1)
    for window, side in placed:
        if window.edges == edges and len(side.buckets) == len(pooled):
            pooled = [so_far + count for so_far, count in zip(pooled, side.buckets, strict=True)]
    allowed = _allowed(check, stable_quantile(edges, pooled, check.quantile or 0.5))
    return None if allowed is None else edges[min(bisect_left(edges, allowed), len(edges) - 1)]


def stable_quantile(edges: Sequence[float], buckets: Sequence[float], quantile: float) -> float | None:
    """A quantile in seconds from bucket counts, linear inside a bucket; the last edge when it lies beyond."""
    wanted, below, low = quantile * sum(buckets), 0.0, 0.0
    if wanted <= 0:
        return None
    for edge, count in zip(edges, buckets, strict=False):
        if count and below + count >= wanted:
            return low + (edge - low) * (wanted - below) / count
        below, low = below + count, edge
    return low


def _allowed(check: Check, stable: float | None) -> float | None:
    bounds = [] if check.absolute is None else [check.absolute.amount]
    if check.max_change is not None and stable is not None:
        bounds.append(beyond(stable, check.max_change))
    return min(bounds, default=None)


def beyond(stable: float, limit: Limit, *, higher_is_better: bool = False) -> float:
    """How far the canary's metric may be when stable's is this."""
    sign = -1.0 if higher_is_better else 1.0
    return stable * (1.0 + sign * limit.amount) if limit.kind is LimitKind.RELATIVE else stable + sign * limit.amount


def _exposed(shown: Sequence[Shown], until: float) -> float:
    ends = [*shown, Shown(until, 0.0)]
    return sum(max(later.at - earlier.at, 0.0) for earlier, later in pairwise(ends) if earlier.percent > 0)


def _zero_after(shown: Sequence[Shown]) -> float | None:
    exposed = False
    for each in shown:
        if exposed and each.percent == 0:
            return each.at
        exposed = exposed or each.percent > 0
    return None


def _total(excesses: Sequence[float]) -> float | None:
    return sum(excesses) if excesses else None


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start

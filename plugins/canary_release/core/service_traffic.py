"""What is known of a service's traffic before a rollout: how many requests, how many fail, how slow they are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from statistics import median

from canary_release.core.problems import FrameError, UnitError
from canary_release.core.release import Check
from canary_release.core.suggest import shown
from canary_release.core.values import Counts, Window

ERROR_RATE = "error_rate"
_RATE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?) ?/ ?(s|min|h)")
_PER = {"s": 1.0, "min": 60.0, "h": 3600.0}
_LEAST_SHARE = 1e-6  # a service never fails, or always does, only as far as anybody has looked


@dataclass(frozen=True)
class ServiceTraffic:
    """A service's own traffic, both sides together.

    rate: requests a second.  proportions: for each metric how many a request (1 for error_rate) and which share of
    them are events.  edges: latency bucket edges in seconds; slower: share of requests slower than each edge.
    instances, canary_instances: how many serve it, and a canary of it, None when unknown.  seconds: how long it was
    watched, 0 when it was told.
    """

    rate: float
    proportions: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    edges: tuple[float, ...] = ()
    slower: tuple[float, ...] = ()
    instances: int | None = None
    seconds: float = 0.0
    canary_instances: int | None = None

    @classmethod
    def told(cls, rate: float, error_rate: float | None) -> "ServiceTraffic":
        """rate: requests a second; error_rate: a share, 0 to 1."""
        return cls(rate, {} if error_rate is None else {ERROR_RATE: (1.0, _inside(error_rate))})

    @property
    def error_rate(self) -> float | None:
        return self.proportions[ERROR_RATE][1] if ERROR_RATE in self.proportions else None


def traffic_of(windows: Sequence[Window], checks: Sequence[Check]) -> ServiceTraffic:
    """The traffic in windows from before a rollout, or of past ones; events and latency are those of stable.

    Among n, no event at all is taken as half of one, and nothing but events as all but half of one. Latency is that of
    the windows with the first window's buckets. FrameError when no window has requests.
    """
    pairs = [
        (window, window.stable)
        for window in windows
        if window.broken is None and window.stable is not None and window.seconds > 0
    ]
    seconds = sum(window.seconds for window, _ in pairs)
    own = sum(stable.requests for _, stable in pairs)
    if not own:
        raise FrameError("the history has no window with requests on stable; record at least an hour of traffic.")
    events = {ERROR_RATE: (sum(stable.errors for _, stable in pairs), own)}
    for name in {check.metric for check in checks} - {ERROR_RATE}:
        given = [stable.proportions[name] for _, stable in pairs if name in stable.proportions]
        events[name] = (sum(some for some, _ in given), sum(of for _, of in given))
    edges, slower = _latency(pairs)
    instances = [stable.instances for _, stable in pairs if stable.instances]
    canaries = [window.canary for window, _ in pairs if window.canary and window.canary.requests]
    of_canary = [canary.instances for canary in canaries if canary.instances]
    return ServiceTraffic(
        rate=(own + sum(window.canary.requests for window, _ in pairs if window.canary)) / seconds,
        proportions={name: (of / own, min(max(x, 0.5), of - 0.5) / of) for name, (x, of) in events.items() if of > 0},
        edges=edges,
        slower=slower,
        instances=round(median(instances)) if instances else None,
        seconds=seconds,
        canary_instances=round(median(of_canary)) if of_canary else None,
    )


def _latency(pairs: Sequence[tuple[Window, Counts]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bucket edges, and the share slower than each; half a request is added so that no share is 0."""
    edges = next((window.edges for window, stable in pairs if stable.buckets), ())
    rows = [stable.buckets for window, stable in pairs if window.edges == edges and stable.buckets]
    summed = [sum(column) for column in zip(*rows, strict=True)]
    total = sum(summed)
    if not total:
        return (), ()
    faster = accumulate(summed[:-1])
    return edges, tuple((total - below + 0.5) / (total + 1.0) for below in faster)


def read_rate(text: str) -> float:
    """Requests a second in ``40/s``, ``2400/min`` or ``10000/h``. UnitError for anything else, and for none."""
    match = _RATE.fullmatch(text.strip())
    rate = float(match[1]) / _PER[match[2]] if match else 0.0
    if not rate > 0:
        raise UnitError(f"{shown(text)} is no rate of requests; write it as `40/s`, `2400/min` or `10000/h`")
    return rate


def _inside(share: float) -> float:
    return min(max(share, _LEAST_SHARE), 1.0 - _LEAST_SHARE)

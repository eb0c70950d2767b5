"""Windows that cannot be true: the side that should have little of the traffic has most of it."""

from dataclasses import replace

from canary_release.core.values import Window

FEWEST_REQUESTS = 50
_LITTLE, _MOST = 0.25, 0.7


def not_contradicting(window: Window) -> Window:
    """The window, broken when its counts and its weight contradict each other: then the labels may be swapped.

    Judged so, a bad canary would be the good side. Weights near one half are left alone: there it cannot be told.
    """
    if window.broken is not None or window.stable is None or window.canary is None:
        return window
    total = window.stable.requests + window.canary.requests
    if total < FEWEST_REQUESTS:
        return window
    share = window.canary.requests / total
    if (window.weight <= _LITTLE and share >= _MOST) or (window.weight >= 1 - _LITTLE and share <= 1 - _MOST):
        why = (
            f"the canary has {share:.0%} of the requests at a weight of {window.weight:.1%}: "
            "the metrics contradict the weight, their labels may be swapped"
        )
        return replace(window, broken=why)
    return window

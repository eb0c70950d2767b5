"""Waiting for a condition, with an end."""

import time
from collections.abc import Callable
from typing import TypeVar

FoundT = TypeVar("FoundT")


def wait_for(what: str, look: Callable[[], FoundT | None], seconds: float, *, every: float = 0.1) -> FoundT:
    """The first true thing that ``look`` gives; AssertionError naming ``what`` when there was none in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(every)
    assert found is not None
    return found

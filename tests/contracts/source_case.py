"""One metric source under test, as the suite that runs against all of them sees it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from canary_release.core.ports import MetricSource


@dataclass
class Case:
    """One metric source under test. happen: make n requests be counted, in a window of their own for a record.

    make: a new source over the same data, as another process would have.  connection: the Airflow connection to what it
    reads.  latency: whether it knows response times.  interval: seconds of a window, 0 where a look ends one.
    """

    make: Callable[[], MetricSource]
    happen: Callable[[], Counter[str]]
    connection: str = ""
    latency: bool = True
    interval: float = 0.0

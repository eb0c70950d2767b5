"""The versions of the shop that the demo releases, and the shop that they are released to."""

from dataclasses import dataclass

INSTANCES = 8  # of each side: how far one of them may wander by itself must not hide what a version does
USUAL_ERRORS = 0.003  # no service is without


@dataclass(frozen=True)
class Release:
    """A release of the demo: its version, what is wrong with it, and how it must end."""

    version: str
    title: str
    ends: str
    error_rate: float = 0.0
    slow_by: float = 0.0


RELEASES = (
    Release("v2", "a good version", ends="promoted", error_rate=USUAL_ERRORS),
    Release("v3", "a version that answers every fifth request with an error", ends="rolled_back", error_rate=0.2),
    Release("v4", "a version whose pages are 60 % slower", ends="rolled_back", error_rate=USUAL_ERRORS, slow_by=0.6),
)

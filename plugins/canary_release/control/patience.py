"""One failed call is not a failed release: ask again for a few seconds before it counts."""

from collections.abc import Callable
from typing import TypeVar

from canary_release.core.ports import Clock
from canary_release.core.problems import LedgerError, LoadBalancerError, MetricSourceError, UnknownTargetError

AnswerT = TypeVar("AnswerT")

SECONDS = 8.0
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 2.0


def patiently(clock: Clock, ask: Callable[[], AnswerT], *, seconds: float = SECONDS) -> AnswerT:
    """``ask()``, again while it raises, once in any case and for ``seconds`` at most; then its error.

    What is unknown to the other side stays unknown, so that is not asked again. ``ask`` must be something that may be
    done twice: an answer that got lost is no proof that nothing was done.
    """
    began, pause, asked = clock.now(), _FIRST_PAUSE, 0
    while True:
        asked += 1
        try:
            return ask()
        except UnknownTargetError:
            raise
        except (LedgerError, LoadBalancerError, MetricSourceError):
            if asked > 1 and clock.now() - began + pause >= seconds:
                raise
        clock.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)

"""The herald as everything that must not depend on it has it: made when there is something to tell.

The guardian gives traffic back while whatever only people need is broken, and then people are simply not told.
"""

import logging
from typing import TYPE_CHECKING

from canary_release.control.desk import Desk, Herald
from canary_release.ledger.notice_log import due
from canary_release.ledger.records import Rollout

if TYPE_CHECKING:
    from canary_release.core.notice_events import Event

log = logging.getLogger(__name__)


class LateHerald:
    """Never raises."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._herald: Herald | None = None
        self._broken = False

    def tell(self, event: "Event", rollout: Rollout, *, step: int | None = None, why: str = "") -> None:
        if (herald := self._made()) is not None:
            herald.tell(event, rollout, step=step, why=why)

    def page(self, service: str, why: str) -> None:
        if (herald := self._made()) is not None:
            herald.page(service, why)

    def retry(self) -> None:
        if self._herald is None and not self._anything_due():
            return
        if (herald := self._made()) is not None:
            herald.retry()

    def wait(self, seconds: float) -> None:
        if self._herald is not None:
            self._herald.wait(seconds)

    def _anything_due(self) -> bool:
        try:
            return bool(due(self._desk.ledger, now=self._desk.clock.now()))
        except Exception as error:  # noqa: BLE001
            log.warning("the ledger does not say what is to be told: %s", error)
            return False

    def _made(self) -> Herald | None:
        if self._herald is None and not self._broken:
            try:
                from canary_release.control.notices import Notices

                self._herald = Notices(self._desk)
            except Exception as error:  # noqa: BLE001  a package that is broken there must still take canaries off
                self._broken = True
                log.error("nobody can be told anything: %s: %s", type(error).__name__, error)
        return self._herald

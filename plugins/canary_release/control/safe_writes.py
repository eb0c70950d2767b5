"""Writing weights so that nothing is believed until the load balancer itself says it.

A raise is authorised and recorded by the ledger before it happens. A lowering needs nobody's permission: it happens
even when the ledger cannot be reached, and it is tried until the load balancer says that it is in force.
"""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

from canary_release.control.patience import patiently
from canary_release.core.ports import Clock, KeepsLease, LoadBalancer
from canary_release.core.problems import (
    ConnectionSettingsError,
    LoadBalancerError,
    RefusedError,
    UnknownTargetError,
)
from canary_release.core.values import FULL, NONE, Weights
from canary_release.ledger.records import Rollout
from canary_release.ledger.store import Ledger

log = logging.getLogger(__name__)

READ_BACK_SECONDS = 10.0
PAGE_AFTER = 60.0
PAGE_AGAIN = 300.0
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
# In the first minute nothing counts but the traffic; after that a load balancer that refuses must not be run down.
EAGER_SECONDS = 60.0
_FIRST_RETRY = 0.5
_LONGEST_EAGER_RETRY = 1.0
_LONGEST_RETRY = 30.0

Page = Callable[[str, str], None]
"""Wakes a person: (service, sentence)."""


@dataclass(frozen=True)
class Written:
    """A write that the load balancer confirmed. seconds: from asking to the equal read-back."""

    asked: Weights
    read_back: Weights
    seconds: float
    at: float
    attempts: int = 1


class SafeWriter:
    """Writes the weights of one service, for one actor (a task, a trigger, the guardian, a person)."""

    def __init__(self, ledger: Ledger, balancer: LoadBalancer, clock: Clock, *, actor: str, page: Page) -> None:
        self._ledger = ledger
        self._balancer = balancer
        self._clock = clock
        self._actor = actor
        self._page = page

    def raise_weight(self, rollout: Rollout, *, step: int, weights: Weights, why: str, lease_until: float) -> Written:
        """Raise the canary's weight for a step. RefusedError before, LoadBalancerError during or after the write.

        Authority is looked at three times: with the intent, right before the write (this process may have slept in
        between), and after it: a raise that overtook an abort takes itself back.
        """
        intent = patiently(
            self._clock,
            lambda: self._ledger.intend_raise(
                rollout,
                step=step,
                weights=weights,
                why=why,
                actor=self._actor,
                at=self._clock.now(),
                lease_until=lease_until,
            ),
        )
        written = patiently(self._clock, lambda: self._raise_once(rollout, weights, lease_until))
        self._observed(intent, written)
        patiently(self._clock, lambda: self._ledger.may_stand(rollout, at=self._clock.now()))
        return written

    def _raise_once(self, rollout: Rollout, weights: Weights, lease_until: float) -> Written:
        self.renew_lease(rollout, lease_until)
        self._ledger.may_stand(rollout, at=self._clock.now())
        return self._write_and_confirm(weights)

    def renew_lease(self, rollout: Rollout, until: float) -> None:
        """Where the load balancer itself can take the canary off, tell it until when it need not."""
        if isinstance(self._balancer, KeepsLease):
            self._balancer.renew_lease(until, rollout.safe_side)

    def end_lease(self, rollout: Rollout) -> None:
        """Where the load balancer keeps a lease, end it: the rollout's safe side has everything from now on."""
        self._end_lease(rollout.safe_side)

    def to_safe_side(
        self, service: str, rollout: Rollout | None, *, safe: str, other: str, why: str, patience: float | None
    ) -> Written:
        """Give everything to ``safe`` and see it in force.

        patience: seconds to keep trying; None means for ever, and wakes somebody after a minute. Raises
        LoadBalancerError when it runs out.
        """
        weights = Weights({safe: FULL, other: NONE})
        intent = self._intend_lower(service, rollout, weights, why)
        if rollout is not None and self._has_swapped(rollout, safe):
            # Promotion was committed before our intent could bar it: the other side is the proven one now.
            safe, other = other, safe
            weights = Weights({safe: FULL, other: NONE})
        began, attempts, pause, next_page = self._clock.now(), 0, _FIRST_RETRY, PAGE_AFTER
        while True:
            attempts += 1
            try:
                written = self._lower_once(weights, safe)
                break
            except (LoadBalancerError, ConnectionSettingsError) as error:
                spent = self._clock.now() - began
                if patience is not None and spent >= patience:
                    raise
                sentence = f"NOT back on {safe} after {spent:.0f} s: {error}"
            wait = random.uniform(pause / 2, pause)
            log.error("%s: %s; trying again in %.1f s", service, sentence, wait)
            if spent >= next_page:
                next_page = spent + PAGE_AGAIN
                self._wake(service, sentence)
            self._clock.sleep(wait)
            pause = min(pause * 2, _LONGEST_EAGER_RETRY if spent < EAGER_SECONDS else _LONGEST_RETRY)
        done = Written(weights, written.read_back, self._clock.now() - began, written.at, attempts)
        if intent is not None:
            self._observed(intent, done)
        return done

    def _lower_once(self, weights: Weights, safe: str) -> Written:
        """Either of the two writes moves the traffic, so one that fails does not keep the other from being tried."""
        trouble: LoadBalancerError | None = None
        try:
            self._end_lease(safe)
        except LoadBalancerError as error:
            trouble = error
        written = self._write_and_confirm(weights, insist=True)
        if trouble is not None:
            raise trouble
        return written

    def _has_swapped(self, rollout: Rollout, safe: str) -> bool:
        try:
            return self._ledger.rollout(rollout.id).safe_side != safe
        except Exception:  # noqa: BLE001  whatever is wrong with the ledger, the side that was named is lowered
            return False

    def confirm_way_back(self, expected: Weights | None = None) -> Written:
        """Write the weights that are in force once more and read them back: proof that a rollback can be written.

        expected: what they were when the service was looked at. RefusedError, and nothing is written, when somebody
        has moved them since then. A load balancer without compare-and-set leaves the time of one call between this
        look and the write.
        """
        seen = self._balancer.get_weights()
        if expected is not None and seen != expected:
            raise RefusedError(
                f"somebody else moved the weights meanwhile: they were {expected} and are {seen}. "
                "See who did, then start again."
            )
        return self._write_and_confirm(seen)

    def _write_and_confirm(self, weights: Weights, *, insist: bool = False) -> Written:
        """insist: a read-back that fails is asked for again, instead of writing once more."""
        began = self._clock.now()
        self._balancer.set_weights(weights)
        pause = _FIRST_PAUSE
        while True:
            seen = self._read_back(began, insist=insist)
            now = self._clock.now()
            if seen == weights:
                return Written(weights, weights, now - began, now)
            if now - began >= READ_BACK_SECONDS:
                raise LoadBalancerError(
                    f"asked for {weights}; {now - began:.0f} s later the load balancer still says {seen}."
                )
            self._clock.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def _read_back(self, began: float, *, insist: bool) -> Weights | None:
        """What the load balancer says; None when it could not be asked and there is still time to."""
        try:
            return self._balancer.get_weights()
        except UnknownTargetError:
            raise
        except LoadBalancerError:
            if not insist or self._clock.now() - began >= READ_BACK_SECONDS:
                raise
            return None

    def _end_lease(self, safe: str) -> None:
        if isinstance(self._balancer, KeepsLease):
            self._balancer.end_lease(safe)

    def _wake(self, service: str, sentence: str) -> None:
        try:
            self._page(service, sentence)
        except Exception as error:  # noqa: BLE001  a broken pager must not end the rollback
            log.error("%s: nobody could be woken: %s", service, error)

    def _intend_lower(self, service: str, rollout: Rollout | None, weights: Weights, why: str) -> int | None:
        try:
            return self._ledger.intend_lower(
                service, rollout, weights=weights, why=why, actor=self._actor, at=self._clock.now()
            )
        except Exception as error:  # noqa: BLE001  no fault of the ledger may keep the canary up
            log.error("%s: taking the canary off without a record of the intent: %s", service, error)
            return None

    def _observed(self, intent: int, written: Written) -> None:
        try:
            self._ledger.observe_weights(
                intent, weights=written.read_back, at=written.at, seconds=written.seconds, actor=self._actor
            )
        except Exception as error:  # noqa: BLE001  they are in force; the record can only be missed
            log.error("the weights %s are in force, but could not be recorded: %s", written.read_back, error)

"""The herald: tells people what happened, once, and never stands in the way of a rollout.

What is to be told is written into the ledger first and sent in the background, one after the other for each channel. A
notice that could not be sent is tried again at the next occasion (something else is told, a guardian looks), a bounded
number of times.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from canary_release.control.costs import cost_of
from canary_release.control.desk import Desk, plan_of
from canary_release.control.outbox import Outbox
from canary_release.core.notice import Facts, Notice, filled, notice_of
from canary_release.core.notice_events import Event
from canary_release.core.problems import CanaryError, LedgerError
from canary_release.core.release import Channel, Release
from canary_release.hooks.airflow_pages import report_url, run_url
from canary_release.hooks.notice_channels import send
from canary_release.ledger.notice_log import Told, claim, due, failed, offer, sent
from canary_release.ledger.records import Rollout, State

log = logging.getLogger(__name__)

PAGE_AGAIN = 300.0  # seconds in which one service pages once, however many processes notice it
_LONGEST_CHANNEL = 128  # in the ledger
_ENDS: tuple[Event, ...] = ("promoted", "rolled_back", "failed", "guardian")
# What must be told even where it cannot be written down that it was.
_URGENT: tuple[Event, ...] = ("page", "failed", "guardian", "rolled_back")
_BEFORE = 600.0  # seconds of a dashboard before the rollout began


class Notices:
    """Tells the channels of each rollout's frozen release file.

    send: hands a notice to a channel; raises when it was not accepted.
    """

    def __init__(self, desk: Desk, *, send: Callable[[Channel, Notice], None] = send) -> None:
        self._desk = desk
        self._send = send
        self._boxes: dict[str, Outbox] = {}
        self._waiting: set[tuple[str, str]] = set()
        self._unrecorded: set[tuple[str, str]] = set()
        self._known: dict[str, Rollout] = {}

    def tell(self, event: Event, rollout: Rollout, *, step: int | None = None, why: str = "") -> None:
        """Tell everybody who hears of ``event``. Never raises, and does not wait for an answer."""
        try:
            self._tell(event, rollout, rollout.step if step is None else step, why)
            self.retry()
        except Exception as error:  # noqa: BLE001  nothing that is told may change what is done
            log.warning("%s: nobody could be told %s: %s", rollout.id, event, error)

    def page(self, service: str, why: str) -> None:
        """Wake the people of a service: something is not safe and does not become so by itself. Never raises.

        Returns at once, even while the ledger does not answer: whoever pages goes on trying to take the canary off.
        """
        self._box("page").put(partial(self._page, service, why))

    def _page(self, service: str, why: str) -> None:
        rollout = self._known.get(service)
        try:
            ledger = self._desk.ledger
            rollout = ledger.active(service) or next(iter(ledger.history(service, limit=1)), None)
        except Exception as error:  # noqa: BLE001
            log.warning("%s: the ledger does not say whom to page: %s", service, error)
        if rollout is not None:
            self.tell("page", rollout, why=why)

    def retry(self) -> None:
        """Try what was not sent yet and is due. Never raises."""
        try:
            for told in due(self._desk.ledger, now=self._desk.clock.now()):
                self._again(told)
        except Exception as error:  # noqa: BLE001
            log.warning("notices that were not sent could not be tried again: %s", error)

    def wait(self, seconds: float) -> None:
        """Wait until everything that is being sent was answered, ``seconds`` at most."""
        until = time.monotonic() + seconds
        # What pages is put into the other boxes by its own.
        for name in ("page", *list(self._boxes)):
            self._box(name).wait(until)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _tell(self, event: Event, rollout: Rollout, step: int, why: str) -> None:
        if rollout.dry_run:
            return
        self._known[rollout.service] = rollout
        channels = [one for one in self._desk.release(rollout).notify if _hears(one, event)]
        if not channels:
            return
        now = self._desk.clock.now()
        key = _key(event, rollout, step, now)
        try:
            for channel in channels:
                self._put(self._offered(event, rollout, channel, key, now), channel, rollout, step, why)
        except LedgerError as error:
            log.warning("%s: telling %s without a record: %s", rollout.id, event, error)
            for channel in channels:
                self._without_record(event, rollout, channel, key, step, why)

    def _offered(self, event: Event, rollout: Rollout, channel: Channel, key: str, at: float) -> Told:
        name = channel.name[:_LONGEST_CHANNEL]
        offer(
            self._desk.ledger, channel=name, key=key, service=rollout.service, rollout_id=rollout.id, event=event, at=at
        )
        return Told(name, key, rollout.service, rollout.id, event, at, None, 0, "")

    def _again(self, told: Told) -> None:
        if told.rollout_id is None:
            return
        rollout = self._desk.ledger.rollout(told.rollout_id)
        named = [one for one in self._desk.release(rollout).notify if one.name[:_LONGEST_CHANNEL] == told.channel]
        if named:
            self._put(told, named[0], rollout, _step_in(told.key, rollout), "")

    def _without_record(self, event: Event, rollout: Rollout, channel: Channel, key: str, step: int, why: str) -> None:
        if event in _URGENT and (channel.name, key) not in self._unrecorded:
            self._unrecorded.add((channel.name, key))
            told = Told(channel.name, key, rollout.service, rollout.id, event, self._desk.clock.now(), None, 0, "")
            self._put(told, channel, rollout, step, why, recorded=False)

    def _put(
        self, told: Told, channel: Channel, rollout: Rollout, step: int, why: str, *, recorded: bool = True
    ) -> None:
        name = (told.channel, told.key)
        if name in self._waiting:
            return
        self._waiting.add(name)
        if not self._box(told.channel).put(partial(self._deliver, told, channel, rollout, step, why, recorded)):
            self._waiting.discard(name)
            log.warning("%s: too much waits for %s already, so it is told later", told.key, channel.name)

    def _box(self, name: str) -> Outbox:
        return self._boxes.setdefault(name, Outbox(f"notices {name}"))

    def _deliver(self, told: Told, channel: Channel, rollout: Rollout, step: int, why: str, recorded: bool) -> None:
        """Send one notice, unless another process was faster, and record what came of it."""
        try:
            # Not before its turn: what waits here for long may be told by others.
            if recorded and not claim(self._desk.ledger, told):
                return
            problem = self._sent(told, channel, rollout, step, why)
            if recorded and problem:
                failed(self._desk.ledger, told, problem)
            elif recorded:
                sent(self._desk.ledger, told, at=self._desk.clock.now())
        except LedgerError as error:
            log.warning("%s: whether %s was told is not recorded: %s", told.key, channel.name, error)
        finally:
            self._waiting.discard((told.channel, told.key))

    def _sent(self, told: Told, channel: Channel, rollout: Rollout, step: int, why: str) -> str:
        """Empty when it was accepted, else what went wrong."""
        try:
            self._send(channel, notice_of(self._facts(told, rollout, step, why)))
        except Exception as error:  # noqa: BLE001  whatever a provider raises
            problem = str(error) if isinstance(error, CanaryError) else type(error).__name__
            log.warning("%s: %s was not told of %s: %s", rollout.id, channel.name, told.event, problem)
            return problem
        return ""

    def _facts(self, told: Told, rollout: Rollout, step: int, why: str) -> Facts:
        event: Event = told.event  # type: ignore[assignment]  # written by tell
        weights = tuple(one.weight for one in plan_of(rollout).weight_steps)
        facts = Facts(
            event=event,
            service=rollout.service,
            version=rollout.version,
            old_version=rollout.old_version,
            rollout=rollout.id,
            key=told.key,
            at=told.at,
            weights=weights,
            step=step,
            weight=weights[rollout.step] if 0 <= rollout.step < len(weights) else None,
            started_by=rollout.started_by,
            reason=rollout.reason,
            why=why or rollout.outcome_reason,
            links=links_of(rollout, self._desk.release(rollout), told.at),
        )
        try:
            return self._with_evidence(facts, rollout, step)
        except LedgerError:
            return facts

    def _with_evidence(self, facts: Facts, rollout: Rollout, step: int) -> Facts:
        decisions = [one for one in self._desk.ledger.decisions(rollout.id) if one.judgement is not None]
        of_step = [one for one in decisions if one.step == step] or decisions
        cost = cost_of(self._desk, rollout)
        return replace(
            facts,
            judgement=of_step[-1].judgement if of_step else None,
            exposed=cost.exposed_seconds or None,
            hurt=cost.hurt,
            users_hurt=None if cost.users_hurt_most is None else (cost.users_hurt_least or 0, cost.users_hurt_most),
        )


def links_of(rollout: Rollout, release: Release, until: float) -> dict[str, str]:
    """Label to URL of everything a person may want to see of a rollout; empty URLs where a place is not known."""
    links = release.links
    start, end = rollout.started_at - _BEFORE, rollout.ended_at or until
    named = {"dashboard": links.dashboard, "runbook": links.runbook, "load balancer": links.load_balancer}
    places = {"report": report_url(rollout.id), "log": run_url(rollout.dag_id, rollout.run_id)}
    return places | {
        label: filled(url, service=rollout.service, version=rollout.version, start=start, end=end) if url else ""
        for label, url in named.items()
    }


def end_event(rollout: Rollout, verdict: str | None, *, actor: str) -> Event:
    """How an end is told. verdict: of the rollout's last decision."""
    if rollout.state in (State.PROMOTED, State.PROMOTING):
        return "promoted"
    if verdict == "fail":
        return "rolled_back"
    return "guardian" if actor.startswith("guardian") else "failed"


def _hears(channel: Channel, event: Event) -> bool:
    """Whoever wants to know of failures also wants to know that the guardian had to act."""
    return event in channel.on or (event == "guardian" and "failed" in channel.on)


def _key(event: Event, rollout: Rollout, step: int, now: float) -> str:
    if event in _ENDS:
        return f"{rollout.id} ended"
    if event == "page":
        return f"{rollout.id} page {int(now // PAGE_AGAIN)}"
    return f"{rollout.id} {event} {step}" if event in ("step", "approval") else f"{rollout.id} {event}"


def _step_in(key: str, rollout: Rollout) -> int:
    last = key.rpartition(" ")[2]
    return int(last) if last.isdigit() and " page " not in key else rollout.step

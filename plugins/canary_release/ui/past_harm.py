"""What rollouts did to their users: computed from the ledger, and kept there once a rollout is over."""

import logging
from collections.abc import Sequence
from functools import lru_cache

from canary_release.control.costs import cost
from canary_release.control.real_desk import read_frozen
from canary_release.core.aftermath import Aftermath
from canary_release.core.problems import CanaryError
from canary_release.core.release import Release
from canary_release.core.units import say_duration
from canary_release.core.values import Window
from canary_release.ledger import overview
from canary_release.ledger.records import DecisionRecord, Rollout, Write
from canary_release.ledger.store import Ledger

log = logging.getLogger(__name__)


def release_of(rollout: Rollout) -> Release | None:
    """The frozen release file, None when this version cannot read it any more."""
    return frozen_release(rollout.release_text, rollout.release_name)


@lru_cache(maxsize=64)
def frozen_release(text: str, name: str) -> Release | None:
    """From its text in the ledger; the same."""
    try:
        return read_frozen(text, name)
    except CanaryError:
        return None


def harm_of(
    rollout: Rollout,
    windows: Sequence[Window],
    writes: Sequence[Write],
    decisions: Sequence[DecisionRecord],
    *,
    now: float,
) -> Aftermath:
    """Of a rollout in progress: what it did so far."""
    if rollout.summary is not None:
        return Aftermath.from_json(rollout.summary)
    return cost(rollout, release_of(rollout), windows, writes, decisions, now=now)


def keep_harm(ledger: Ledger, rollout: Rollout, harm: Aftermath) -> None:
    """Of a rollout that is over. A ledger that cannot be written only costs the next look the same work."""
    if rollout.summary is not None or not rollout.state.final or rollout.dry_run:
        return
    try:
        overview.keep_summary(ledger, rollout.id, harm.to_json())
    except CanaryError as error:
        log.warning("%s: its summary was not kept: %s", rollout.id, error)


def keep_missing(ledger: Ledger, since: float, limit: int) -> None:
    """Of the newest ``limit`` finished rollouts that nobody has looked at yet. Raises nothing that is expected."""
    try:
        for rollout_id in overview.without_summary(ledger, since, limit):
            rollout = ledger.rollout(rollout_id)
            told = (ledger.windows(rollout_id), ledger.writes(rollout_id), ledger.decisions(rollout_id))
            keep_harm(ledger, rollout, harm_of(rollout, *told, now=rollout.ended_at or rollout.started_at))
    except CanaryError as error:
        log.warning("what finished rollouts did was not kept: %s", error)


def harm_sentences(harm: Aftermath) -> list[str]:
    """For people; empty when the canary never had traffic."""
    if harm.exposed_seconds <= 0:
        return ["The canary never had traffic, so no user saw it."]
    said = [f"At most {harm.highest_weight:g} % of the traffic, for {say_duration(harm.exposed_seconds)}."]
    said[0] += f" {harm.requests:,} requests in all."
    if harm.errors_above_stable is not None:
        said.append(f"{_more(harm.errors_above_stable)} failed than would have on stable ({harm.errors:,} in all).")
    if harm.slow_above_stable is not None:
        said.append(f"{_more(harm.slow_above_stable)} were too slow than would have been on stable.")
    if harm.requests:
        said.append(_users(harm))
    if harm.seconds_to_zero is not None:
        evidence = harm.seconds_from_evidence
        after = f", {evidence:.1f} s after the evidence sufficed" if evidence is not None else ""
        said.append(f"From the first harm to weight 0 read back: {say_duration(harm.seconds_to_zero)}{after}.")
    return said


def _users(harm: Aftermath) -> str:
    if harm.users is None:
        return "In users: not known; requests_per_user in the release file would tell."
    seen = f"At the release file's requests_per_user that is the traffic of about {_count(harm.users, 'user')}"
    least, most = harm.users_hurt_least or 0, harm.users_hurt_most or 0
    if most == 0:
        return f"{seen}; none was hurt."
    return f"{seen}; hurt: {least:,} to {most:,}." if least < most else f"{seen}; hurt: {most:,}."


def _more(excess: float) -> str:
    count = round(abs(excess))
    if count == 0:
        return "No more requests"
    return f"{count:,} {'fewer' if excess < 0 else 'more'} request{'' if count == 1 else 's'}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"

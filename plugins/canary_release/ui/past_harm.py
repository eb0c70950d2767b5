"""What rollouts did to their users: computed from the ledger, and kept there once a rollout is over."""

import logging
from collections.abc import Sequence
from functools import lru_cache

from canary_release.control.real_desk import read_frozen
from canary_release.core.aftermath import Aftermath, Shown, aftermath
from canary_release.core.problems import CanaryError
from canary_release.core.release import Release
from canary_release.core.units import show_duration
from canary_release.core.values import Decision, Window
from canary_release.ledger import overview
from canary_release.ledger.records import DecisionRecord, Rollout, Write
from canary_release.ledger.store import Ledger

log = logging.getLogger(__name__)


def release_of(rollout: Rollout) -> Release | None:
    """The frozen release file, None when this version cannot read it any more."""
    return _parsed(rollout.release_text, rollout.release_name)


@lru_cache(maxsize=64)
def _parsed(text: str, name: str) -> Release | None:
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
    release = release_of(rollout)
    shown = [
        Shown(write.read_back_at, float(write.read_back.shares.get(rollout.canary, 0)))
        for write in writes
        if write.read_back is not None and write.read_back_at is not None
    ]
    back = next((each for each in decisions if each.decision == Decision.ROLL_BACK and each.window >= 0), None)
    return aftermath(
        windows,
        shown,
        release.checks if release is not None else (),
        started_at=rollout.started_at,
        ended_at=rollout.ended_at or now,
        decided=back.window if back is not None else None,
        blamed=(back.judgement or {}).get("blamed") if back is not None else None,
    )


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
    exposed = show_duration(max(harm.exposed_seconds, 1))
    said = [f"At most {harm.highest_weight:g} % of the traffic, for {exposed}; {harm.requests:,} requests in all."]
    if harm.errors_above_stable is not None:
        said.append(f"{_more(harm.errors_above_stable)} than on stable failed ({harm.errors:,} in all).")
    if harm.slow_above_stable is not None:
        said.append(f"{_more(harm.slow_above_stable)} than on stable were too slow.")
    if harm.seconds_to_zero is not None:
        evidence = harm.seconds_from_evidence
        after = f", {evidence:.1f} s after the evidence sufficed" if evidence is not None else ""
        said.append(f"From the first harm to weight 0 read back: {show_duration(harm.seconds_to_zero)}{after}.")
    return said


def _more(excess: float) -> str:
    count = round(abs(excess))
    if count == 0:
        return "No more requests"
    return f"{count:,} {'fewer' if excess < 0 else 'more'} request{'' if count == 1 else 's'}"

"""Past rollouts under other rules: which would have ended otherwise, when, and what that would have spared.

The counts are those that were recorded, at the weights that were in force. A record ends where its rollout ended, so
rules that would have gone on longer have no counts to be judged by: their end is ``unknown``, never guessed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import pandas as pd

from canary_release.core.frames import frame_from_windows
from canary_release.core.release import Release, Step
from canary_release.core.replay import replay
from canary_release.core.values import Counts, Decision, Window, plain
from canary_release.core.weigh import NoiseOf

PROMOTED, ROLLED_BACK, UNKNOWN = "promoted", "rolled_back", "unknown"

COLUMNS = [
    "rollout",
    "version",
    "started",
    "windows",
    "was",
    "was_window",
    "would",
    "would_window",
    "changed",
    "requests_spared",
    "errors_spared",
    "errors_a_window_beyond",
    "note",
]


@dataclass(frozen=True)
class RecordedRollout:
    """A past rollout.

    started: epoch seconds.  was: ``promoted`` or ``rolled_back``.  was_window: the window after which that was
    decided, None when it was not decided by a verdict (a person aborted it, a lease ran out).  was_note: why it ended.
    noise: what had been learned of the service when it started.
    """

    rollout: str
    version: str
    started: float
    was: str
    was_window: int | None
    was_note: str
    windows: Sequence[Window]
    noise: NoiseOf = None


@dataclass(frozen=True)
class _End:
    """at: place of the last window that counts."""

    would: str
    at: int
    note: str


def backtest(release: Release, recorded: Sequence[RecordedRollout]) -> pd.DataFrame:
    """One row a rollout, in the given order; columns as in COLUMNS.

    would: how it would have ended with this release file: promoted, rolled_back, or unknown after ``would_window``.
    requests_spared, errors_spared: what the canary got after the earlier rollback, and the errors among them beyond
    stable's own rate; 0 when nothing ends earlier, missing when the end is unknown.
    errors_a_window_beyond: where the end is unknown, the errors beyond stable's rate in the last recorded step, a
    window: what each further window would have cost.  Rollouts without windows are left out.
    Raises FrameError and ReleaseFileError.
    """
    rows = [_row(release, one) for one in recorded if one.windows]
    return pd.DataFrame(rows, columns=COLUMNS).astype(
        {"was_window": "Int64", "would_window": "Int64", "requests_spared": "Int64", "changed": bool}
    )


def summary(table: pd.DataFrame) -> str:
    """``of 12 rollouts 2 would have ended otherwise: ...``"""
    certain = table[table.would != UNKNOWN]
    changed = certain[certain.changed]
    earlier = changed[(changed.was == ROLLED_BACK) & (changed.would == ROLLED_BACK)]
    stopped = changed[(changed.was == PROMOTED) & (changed.would == ROLLED_BACK)]
    released = changed[(changed.was == ROLLED_BACK) & (changed.would == PROMOTED)]
    parts = [
        f"{len(rows)} {text}"
        for rows, text in (
            (stopped, "promoted then, rolled back now"),
            (earlier, "rolled back at another window"),
            (released, "rolled back then, promoted now"),
        )
        if len(rows)
    ]
    spared, errors = int(changed.requests_spared.sum()), float(changed.errors_spared.sum())
    cost = f"; {spared:,} requests and about {errors:,.0f} errors spared" if spared else ""
    unknown = int((table.would == UNKNOWN).sum())
    beyond = f"; {unknown} unknown, because the new rules would have gone on beyond the recording" if unknown else ""
    said = f": {', '.join(parts)}" if parts else ""
    return f"of {len(table)} rollouts {len(changed)} would have ended otherwise{said}{cost}{beyond}"


def _row(release: Release, one: RecordedRollout) -> tuple[object, ...]:
    said = replay(release, frame_from_windows(one.windows), noise=one.noise)
    end = _end(release, one, said.decision.tolist())
    would_window = one.windows[end.at].index if one.windows[end.at].index >= 0 else end.at
    excess = _excess_errors(one.windows)
    earlier = end.would == ROLLED_BACK and end.at < len(one.windows) - 1
    spared = sum(_requests(window.canary) for window in one.windows[end.at + 1 :])
    changed = end.would != one.was or (one.was == ROLLED_BACK and would_window != one.was_window)
    note = end.note or (said.reason.iloc[end.at] if end.would == ROLLED_BACK else "")
    if one.was == ROLLED_BACK and one.was_window is None:
        note = f"{note} It was ended by other means: {one.was_note}".strip()
    unknown = end.would == UNKNOWN
    return (
        one.rollout,
        one.version,
        one.started,
        len(one.windows),
        one.was,
        one.was_window,
        end.would,
        would_window,
        changed,
        None if unknown else spared if earlier else 0,
        None if unknown else sum(excess[end.at + 1 :]) if earlier else 0.0,
        _mean_of_last_step(one.windows, excess) if unknown else None,
        note,
    )


def _end(release: Release, one: RecordedRollout, decisions: Sequence[str]) -> _End:
    back = next((at for at, decision in enumerate(decisions) if decision == Decision.ROLL_BACK), None)
    if back is not None:
        return _End(ROLLED_BACK, back, "")
    weights = [step.weight for step in release.steps if isinstance(step, Step)]
    known = {round(float(weight) / 100.0, 9) for weight in weights}
    foreign = 0
    for last, places in _segments(one.windows):
        if round(one.windows[last].weight, 9) not in known:
            foreign += len(places)
            continue
        if not any(decisions[at] in (Decision.ADVANCE, Decision.PROMOTE) for at in places):
            return _End(UNKNOWN, last, _held_sentence(one, last))
    last = len(one.windows) - 1
    seen = {round(window.weight, 9) for window in one.windows}
    missing = [plain(weight) for weight in weights if round(float(weight) / 100.0, 9) not in seen]
    if missing:
        number = _number(one, last)
        said = f"unknown after window {number}: it would have gone on, and nothing was recorded at {missing[0]} %."
        return _End(UNKNOWN, last, said)
    note = f"{foreign} windows at weights that the file does not have were judged for harm only." if foreign else ""
    return _End(PROMOTED, last, note)


def _held_sentence(one: RecordedRollout, last: int) -> str:
    weight = f"{100 * one.windows[last].weight:g} %"
    number = _number(one, last)
    if last == len(one.windows) - 1:
        return f"unknown after window {number}: it would have gone on at {weight}, where the recording ends."
    return f"unknown after window {number}: it would have stayed at {weight}, where the recording goes on."


def _number(one: RecordedRollout, at: int) -> int:
    return one.windows[at].index if one.windows[at].index >= 0 else at


def _segments(windows: Sequence[Window]) -> Iterator[tuple[int, list[int]]]:
    """Each step's last place, and all its places."""
    for _, group in groupby(range(len(windows)), key=lambda at: windows[at].step):
        places = list(group)
        yield places[-1], places


def _excess_errors(windows: Sequence[Window]) -> list[float]:
    """The canary's errors beyond stable's rate in the same window; beyond the last known rate without traffic there."""
    rate, found = 0.0, []
    for window in windows:
        if window.broken is None and window.stable is not None and window.stable.requests > 0:
            rate = window.stable.errors / window.stable.requests
        canary = window.canary if window.broken is None else None
        found.append(0.0 if canary is None else canary.errors - rate * canary.requests)
    return found


def _mean_of_last_step(windows: Sequence[Window], excess: Sequence[float]) -> float:
    own = [value for window, value in zip(windows, excess, strict=True) if window.step == windows[-1].step]
    return sum(own) / len(own)


def _requests(counts: Counts | None) -> int:
    return counts.requests if counts is not None else 0

"""A recorded rollout judged again, window by window: no state, no clock, the same answer every time."""

from collections.abc import Sequence

import pandas as pd

from canary_release.core.decide import Facts, canary_requests, decide_on
from canary_release.core.frames import windows_from_frame
from canary_release.core.judge import Judgements, judge
from canary_release.core.release import Release, Step
from canary_release.core.values import Verdict, Window

COLUMNS = ["window", "decision", "verdict", "evidence", "reason"]


def replay(release: Release, windows: pd.DataFrame, history: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row a window: ``window``, ``decision``, ``verdict``, ``evidence`` (sum of a_i E_i), ``reason``.

    windows: a frame as `frames` describes it. Windows belong to the step of the release that has their weight; at other
    weights they are judged as well, and only hold or roll back. history: stable's frame from before the rollout, one
    row a window and instance; noise is not learned from it yet, so the safe defaults hold with it and without it.
    Raises FrameError and ReleaseFileError.
    """
    recorded = windows_from_frame(windows)
    steps = [step for step in release.steps if isinstance(step, Step)]
    said = judge(release, recorded)
    places = _places(recorded, steps)
    rows = []
    for at, facts in enumerate(_facts(recorded, said)):
        ruling = decide_on(release, steps, places[at], facts)
        evidence = float(said.evidence[at])
        rows.append((recorded[at].index, str(ruling.decision), str(facts.verdict), evidence, ruling.reason))
    return pd.DataFrame(rows, columns=COLUMNS)


def _places(windows: Sequence[Window], steps: Sequence[Step]) -> list[int | None]:
    weights = {round(float(step.weight) / 100.0, 9): place for place, step in enumerate(steps)}
    return [weights.get(round(window.weight, 9)) if window.weight == window.weight else None for window in windows]


def _facts(windows: Sequence[Window], said: Judgements) -> list[Facts]:
    facts = []
    step, began, requests = None, 0.0, 0
    blind_since: float | None = None
    for at, window in enumerate(windows):
        if window.step != step:
            step, began, requests = window.step, window.start, 0
        requests += canary_requests(window)
        verdict = said.verdict(at)
        if verdict is not Verdict.NO_DATA:
            blind_since = None
        elif blind_since is None:
            blind_since = window.start
        facts.append(
            Facts(
                verdict=verdict,
                sentence=said.sentence(at),
                baked=window.end - began,
                requests=requests,
                blind=0.0 if blind_since is None else window.end - blind_since,
                failing=said.failing(at),
            )
        )
    return facts

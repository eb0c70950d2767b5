"""A recorded rollout judged again, window by window: no state, no clock, the same answer every time."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from canary_release.core.decide import DUE, Facts, decide_on
from canary_release.core.frames import record_from_frame
from canary_release.core.judge import judge
from canary_release.core.judgements import Judgements
from canary_release.core.noise_learning import learn
from canary_release.core.record import CANARY, Record
from canary_release.core.release import Release, Step
from canary_release.core.values import Verdict
from canary_release.core.weigh import NoiseOf

COLUMNS = ["window", "decision", "verdict", "evidence", "reason"]


def replay(
    release: Release, windows: pd.DataFrame, history: pd.DataFrame | None = None, *, noise: NoiseOf = None
) -> pd.DataFrame:
    """One row a window: ``window``, ``decision``, ``verdict``, ``evidence`` (sum of a_i E_i), ``reason``.

    windows: a frame as `frames` describes it. Windows belong to the step of the release that has their weight; at other
    weights they are judged as well, and only hold or roll back. history: stable's frame from before the rollout, best
    one row a window and instance; noise is learned from it. noise: what had been learned, where there is no history;
    defaults hold without both. Raises FrameError and
    ReleaseFileError.
    """
    frame, _ = judged_again(release, windows, history, noise=noise)
    return frame


def judged_again(
    release: Release, windows: pd.DataFrame, history: pd.DataFrame | None = None, *, noise: NoiseOf = None
) -> tuple[pd.DataFrame, Judgements]:
    """The rows of ``replay``, and the judgements that they are from, one a row."""
    recorded = record_from_frame(windows)
    steps = [step for step in release.steps if isinstance(step, Step)]
    said = judge(release, recorded, noise=noise if history is None else learn(release, history))
    places = _places(recorded, steps)
    rows = []
    for at, facts in enumerate(_facts(recorded, said)):
        ruling = decide_on(release, steps, places[at], facts)
        rows.append((int(recorded.index[at]), str(ruling.decision), str(facts.verdict), ruling.reason))
    frame = pd.DataFrame(rows, columns=["window", "decision", "verdict", "reason"])
    return frame.assign(evidence=said.evidence)[COLUMNS], said


def _places(recorded: Record, steps: Sequence[Step]) -> list[int | None]:
    weights = {round(float(step.weight) / 100.0, 9): place for place, step in enumerate(steps)}
    return [weights.get(round(weight, 9)) if weight == weight else None for weight in recorded.weight.tolist()]


def _facts(recorded: Record, said: Judgements) -> Iterator[Facts]:
    requests = np.nan_to_num(recorded.requests[:, CANARY])
    sound = np.array([broken is None for broken in recorded.broken], dtype=bool)
    counted = np.where(sound, requests, 0.0).tolist()
    everyone = recorded.requests.sum(axis=1)  # NaN where a side is absent, which is not above 0
    unseen = (recorded.requests[:, CANARY] == 0) & (everyone * np.nan_to_num(recorded.weight) >= DUE)
    usable = (sound & (everyone > 0) & ~unseen).tolist()
    columns = zip(recorded.step.tolist(), recorded.start.tolist(), recorded.end.tolist(), counted, usable, strict=True)
    current, baked, looks, total = None, 0.0, 0, 0.0
    blind_since: float | None = None
    for at, (step, start, end, came, seen) in enumerate(columns):
        if step != current:
            current, baked, looks, total = step, 0.0, 0, 0.0
        total += came
        baked += (end - start) * seen
        looks += seen
        verdict = said.verdict(at)
        if verdict is not Verdict.NO_DATA:
            blind_since = None
        elif blind_since is None:
            blind_since = start
        yield Facts(
            verdict=verdict,
            sentence=said.sentence(at),
            baked=baked,
            looks=looks,
            requests=int(total),
            blind=0.0 if blind_since is None else end - blind_since,
            failing=said.failing(at),
            leaning=said.leaning(at),
            holds=said.holds(at),
        )

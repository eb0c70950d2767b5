"""The judge: windows in, verdicts out; a pure function of (release, noise, windows so far)."""

from collections.abc import Sequence

from canary_release.core.judge_state import JudgeState
from canary_release.core.judgements import Judgements
from canary_release.core.record import Record
from canary_release.core.release import Release
from canary_release.core.values import Window
from canary_release.core.weigh import NoiseOf


def judge(release: Release, windows: Sequence[Window] | Record, *, noise: NoiseOf = None) -> Judgements:
    """One judgement a window, in order; the last is the current one.

    The windows are those of the whole rollout so far. noise: what was learned of the service, for all checks or by the
    check's label; safe defaults without it. A judgement never depends on later windows. Raises ReleaseFileError for a
    limit that its check cannot have.
    """
    return JudgeState(release, noise).fold(windows)

"""A step whose bake must contain the service's peak hours does not end before it has seen them."""

from collections.abc import Sequence

from canary_release.core.decide import Ruling
from canary_release.core.release import Release, Step
from canary_release.core.release_calendar import peak_needed, peak_seen
from canary_release.core.release_window import describe
from canary_release.core.units import show_duration
from canary_release.core.values import Decision, Window


def after_peak(release: Release, step: Step, index: int, windows: Sequence[Window], ruling: Ruling) -> Ruling:
    """The ruling, or a hold while the bake of step ``index`` has not seen the peak. A rollback is never held back.

    windows: of the whole rollout, placed in their steps.
    """
    peak = release.calendar.peak
    if not step.must_contain_peak or peak is None or ruling.decision not in (Decision.ADVANCE, Decision.PROMOTE):
        return ruling
    seen, needed = peak_seen(peak, (window for window in windows if window.step == index)), peak_needed(peak)
    if seen >= needed:
        return ruling
    why = f"it has seen {show_duration(seen)} of the peak ({describe(peak)}), {show_duration(needed)} needed"
    return Ruling(Decision.HOLD, f"the bake goes on: {why}. {ruling.reason}")

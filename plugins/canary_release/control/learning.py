"""What can be learned of a service before its first user meets the canary: its traffic, and its noise.

From the metric source when it remembers the past, else from the service's own past rollouts in the ledger, else
nothing. A history that cannot be read never stops a rollout: the judge's defaults are the careful side.
What needs pandas is imported by the functions that need it, since every parsing of a DAG file imports this module.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from canary_release.control.desk import Desk
from canary_release.core.noise_report import Baseline, NoiseReport
from canary_release.core.ports import MetricSource, RemembersHistory, RemembersInstances
from canary_release.core.problems import CanaryError, FrameError
from canary_release.core.release import Release
from canary_release.core.service_traffic import ServiceTraffic, read_rate, traffic_of
from canary_release.core.units import read_percent
from canary_release.core.values import Window
from canary_release.ledger.records import Rollout

if TYPE_CHECKING:
    import pandas as pd

HISTORY_SECONDS = 6 * 3600.0
PAST_ROLLOUTS = 5


@dataclass(frozen=True)
class Learned:
    """traffic: None when nothing is known of it.  noise: None when none was learned, so that the judge's defaults hold.
    sentences: where it comes from, and what was learned.
    """

    traffic: ServiceTraffic | None
    noise: NoiseReport | None
    sentences: tuple[str, ...]


def told(rate: str, error_rate: str | None) -> Learned:
    """What a person says of a service, such as ``40/s`` and ``0.5%``. UnitError when it cannot be read."""
    share = None if error_rate is None else float(read_percent(error_rate)) / 100.0
    traffic = ServiceTraffic.told(read_rate(rate), share)
    noise = "nothing is known of its noise: the judge begins with careful defaults and learns during the rollout"
    return Learned(traffic, None, (noise,))


def learn_for(desk: Desk, rollout: Rollout, release: Release, *, actor: str) -> tuple[Rollout, Learned]:
    """Learn the service of a rollout that has just begun, and keep its noise in the ledger. Raises LedgerError."""
    learned = learn_service(desk, release, stable=rollout.stable, canary=rollout.canary)
    if learned.noise is not None:
        rollout = desk.ledger.set_noise(rollout, learned.noise.to_json(), actor=actor, at=desk.clock.now())
    return rollout, learned


def noise_of_rollout(rollout: Rollout) -> NoiseReport | None:
    """What was learned when the rollout started; None when nothing was. Raises LedgerError."""
    return None if rollout.noise is None else NoiseReport.from_json(rollout.noise)


def learn_service(desk: Desk, release: Release, *, stable: str, canary: str) -> Learned:
    """Everything that can be known now. Raises LedgerError; a metric source that fails is only said."""
    from canary_release.control.past_rollouts import remembered_windows

    source = desk.source(release, stable=stable, canary=canary)
    try:
        moments = _moments_apart(source, desk.clock.now())
        apart = _table_apart(moments)
        if apart is not None:
            return _learn_apart(release, apart)
        asked = _of_the_only_one(moments) or source_history(source, desk.clock.now())
    except CanaryError as error:
        asked, why = [], f"the metric source's history could not be read ({error})"
    else:
        forgets = not isinstance(source, RemembersHistory)
        why = "the metric source does not remember" if forgets else "the metric source's history is empty"
    if asked:
        return learn_windows(release, asked, f"from {_hours(asked)} of history of the metric source")
    remembered = remembered_windows(desk.ledger, release.service, rollouts=PAST_ROLLOUTS)
    if not remembered:
        said = f"nothing is known of the service's own traffic: {why}, and the ledger has no past rollout of it"
        return Learned(None, None, (said,))
    origin = f"from {_hours(remembered)} of stable's traffic in past rollouts ({why})"
    found = learn_windows(release, remembered, origin)
    return found if found.noise is None else replace(found, noise=without_baseline(found.noise))


def learn_windows(release: Release, windows: Sequence[Window], origin: str) -> Learned:
    """What windows from before a rollout teach. origin: the sentence that says where they come from."""
    from canary_release.core.noise_learning import learn

    try:
        traffic = traffic_of(windows, release.checks)
        noise = learn(release, windows)
    except FrameError as error:
        return Learned(None, None, (f"{origin}: {error}",))
    return Learned(traffic, noise, (origin, *noise.sentences))


def learn_frame(release: Release, history: "pd.DataFrame", origin: str) -> Learned:
    """What a table of windows teaches, best one row for each window and instance. FrameError when it is none."""
    from canary_release.core.frames import windows_from_frame
    from canary_release.core.noise_learning import learn

    traffic = traffic_of(windows_from_frame(history), release.checks)
    noise = learn(release, history)
    return Learned(traffic, noise, (origin, *noise.sentences))


def without_baseline(noise: NoiseReport) -> NoiseReport:
    """Noise lasts; how stable was doing days ago says nothing of how it is doing now."""
    edges = noise.baseline.edges
    return replace(noise, baseline=Baseline(edges=edges, slower=(0.0,) * len(edges)))


def source_history(source: MetricSource, now: float) -> list[Window]:
    """The last hours of the service as its metric source remembers them, none when it does not. MetricSourceError.

    The side that had the traffic is handed on as stable, since the sides have swapped with every promotion.
    """
    if not isinstance(source, RemembersHistory):
        return []
    return _numbered(source.history(now - HISTORY_SECONDS, now))


def _numbered(windows: Iterable[Window]) -> list[Window]:
    return [replace(_busier_as_stable(window), index=place) for place, window in enumerate(windows)]


def _moments_apart(source: MetricSource, now: float) -> list[dict[str, Window]]:
    """The last hours by instance; none where the source cannot tell instances apart. Raises MetricSourceError."""
    if not isinstance(source, RemembersInstances):
        return []
    return list(source.history_of_instances(now - HISTORY_SECONDS, now))


def _of_the_only_one(moments: Sequence[dict[str, Window]]) -> list[Window]:
    """The service's own windows where it has one instance; none where there are several, or none."""
    if len({name for moment in moments for name in moment}) > 1:
        return []
    return _numbered(window for moment in moments for window in moment.values())


def _table_apart(moments: Sequence[dict[str, Window]]) -> "pd.DataFrame | None":
    """A row for each window and instance of the side that had the traffic; None with fewer than two of these."""
    of_instance: dict[str, list[Window]] = {}
    for place, moment in enumerate(moments):
        swapped = _requests(moment.values(), "canary") > _requests(moment.values(), "stable")
        # An instance that was away for a while comes back with a window longer than the others'.
        spans = Counter((window.start, window.end) for window in moment.values()).most_common(1)
        for name, window in moment.items():
            own = window.canary if swapped else window.stable
            alike = (window.start, window.end) == spans[0][0]
            if alike and (own is not None or window.broken is not None):
                of_instance.setdefault(name, []).append(replace(window, index=place, stable=own, canary=None))
    if len(of_instance) < 2:
        return None
    import pandas as pd

    from canary_release.core.frames import frame_from_windows

    tables = [frame_from_windows(windows).assign(instance=name) for name, windows in of_instance.items()]
    table: pd.DataFrame = pd.concat(tables, ignore_index=True)
    return table[table["side"] == "stable"].reset_index(drop=True)


def _requests(windows: Iterable[Window], side: str) -> int:
    counts = (getattr(window, side) for window in windows)
    return sum(count.requests for count in counts if count is not None)


def _learn_apart(release: Release, table: "pd.DataFrame") -> Learned:
    ends = table.drop_duplicates("window")
    seconds, instances = float((ends["end"] - ends["start"]).sum()), table["instance"].nunique()
    origin = f"from {_duration(seconds)} of history of {instances} instances from the metric source"
    try:
        return learn_frame(release, table, origin)
    except FrameError as error:
        return Learned(None, None, (f"{origin}: {error}",))


def _busier_as_stable(window: Window) -> Window:
    stable, canary = window.stable, window.canary
    if canary is not None and (stable is None or canary.requests > stable.requests):
        return replace(window, stable=canary, canary=stable)
    return window


def _hours(windows: Sequence[Window]) -> str:
    return _duration(sum(max(window.seconds, 0.0) for window in windows))


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"

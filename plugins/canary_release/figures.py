"""Our figures as metrics of Airflow: StatsD or OpenTelemetry, whatever its configuration says.

Every metric has the tag ``service``. docs/metrics.md says what each of them means.
"""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from canary_release.core.values import Weights
from canary_release.ledger.records import Rollout, State

if TYPE_CHECKING:
    from canary_release.core.judgement import Judgement
    from canary_release.core.notice_events import Event

GAUGES = (
    "canary.weight",
    "canary.phase",
    "canary.evidence",
    "canary.check.value",
    "canary.check.evidence",
    "canary.guardian.last_tick",
)
COUNTERS = ("canary.finished",)
TIMERS = ("canary.duration", "canary.harm_to_zero", "canary.rollback_latency")
PHASES = {
    State.RUNNING: 1,
    State.PROMOTING: 2,
    State.ROLLING_BACK: 3,
    State.PROMOTED: 0,
    State.ROLLED_BACK: 0,
    State.DRY_RUN: 0,
}
"""canary.phase: 0 nothing in progress, 1 running, 2 promoting, 3 rolling back."""


class AirflowFigures:
    """Sends through Airflow's Stats. A process that is not Airflow's begins them by Airflow's configuration."""

    def weight(self, rollout: Rollout, read_back: Weights) -> None:
        """The canary's share in percent as the load balancer reads it back."""
        _gauge("canary.weight", float(read_back[rollout.canary]), service=rollout.service)

    def phase(self, rollout: Rollout) -> None:
        _gauge("canary.phase", PHASES[rollout.state], service=rollout.service)

    def looked(self, rollout: Rollout, index: int, judgement: "Judgement | None") -> None:
        """What one look saw: both sides of every check, and the evidence."""
        self.phase(rollout)
        if judgement is None:
            return
        _gauge("canary.evidence", judgement.evidence, service=rollout.service)
        for check in judgement.checks:
            names = {"service": rollout.service, "check": check.check.replace(" ", "_")}
            _gauge("canary.check.evidence", check.evidence / check.needed, **names)
            for side, value in (("canary", check.canary), ("stable", check.stable)):
                if value is not None:
                    _gauge("canary.check.value", value, side=side, **names)

    def rollback_latency(self, rollout: Rollout, seconds: float) -> None:
        """From the end of the window that crossed the line to weight 0 read back."""
        _timing("canary.rollback_latency", seconds, service=rollout.service)

    def harm_to_zero(self, rollout: Rollout, seconds: float) -> None:
        """From the first harm to weight 0 read back."""
        _timing("canary.harm_to_zero", seconds, service=rollout.service)

    def ended(self, rollout: Rollout, outcome: "Event") -> None:
        """outcome: promoted, rolled_back (by the evidence), failed, guardian."""
        self.phase(rollout)
        _stats().incr("canary.finished", tags={"service": rollout.service, "outcome": outcome})
        if rollout.ended_at is not None:
            _timing("canary.duration", rollout.ended_at - rollout.started_at, service=rollout.service)

    def guarded(self, now: float) -> None:
        """now: seconds since the epoch."""
        _gauge("canary.guardian.last_tick", now)


def _gauge(name: str, value: float, **tags: str) -> None:
    _stats().gauge(name, value, tags=tags)


def _timing(name: str, seconds: float, **tags: str) -> None:
    """In milliseconds, as StatsD has it."""
    _stats().timing(name, 1000.0 * max(0.0, seconds), tags=tags)


@cache
def _stats() -> Any:
    from airflow.sdk.observability import stats

    if not _begun():
        from airflow.sdk.configuration import conf
        from airflow.sdk.observability.metrics import stats_utils

        factory: Callable[[], Any] = stats_utils.get_stats_factory()
        stats.initialize(factory=factory, export_legacy_names=conf.getboolean("metrics", "legacy_names_on"))
    return stats


def _begun() -> bool:
    """Whether the process is one of Airflow's, which begin their metrics by themselves."""
    from airflow.sdk._shared.observability.metrics import stats as state

    return state._factory is not None

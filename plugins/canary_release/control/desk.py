"""What every act of the control part works with: the ledger, a clock, and the way to a release's hooks.

Everything is handed in, so that the same code runs in a task, a trigger, the guardian, a terminal and a simulation.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from canary_release.control.patience import patiently
from canary_release.control.safe_writes import Page, SafeWriter
from canary_release.core.plan import Plan
from canary_release.core.ports import Clock, LoadBalancer, MetricSource
from canary_release.core.problems import RefusedError
from canary_release.core.release import Release, Step
from canary_release.core.values import Weights
from canary_release.ledger.records import Rollout
from canary_release.ledger.store import Ledger

if TYPE_CHECKING:
    from canary_release.core.judgement import Judgement
    from canary_release.core.notice_events import Event


def log_page(service: str, sentence: str) -> None:
    """Without anybody to wake, the log is all there is."""
    logging.getLogger(__name__).critical("PAGE  %s: %s", service, sentence)


class Herald(Protocol):
    """Tells people what happened. Never raises, and nothing waits for it unless it says so."""

    def tell(self, event: "Event", rollout: Rollout, *, step: int | None = None, why: str = "") -> None: ...

    def page(self, service: str, why: str) -> None: ...

    def retry(self) -> None:
        """Try again what could not be told yet."""

    def wait(self, seconds: float) -> None:
        """Until what is being told was answered, at most so long; for processes that end soon."""


class Figures(Protocol):
    """Sends metrics. What it raises is caught by who calls it."""

    def weight(self, rollout: Rollout, read_back: Weights) -> None: ...

    def phase(self, rollout: Rollout) -> None: ...

    def looked(self, rollout: Rollout, index: int, judgement: "Judgement | None") -> None: ...

    def rollback_latency(self, rollout: Rollout, seconds: float) -> None: ...

    def harm_to_zero(self, rollout: Rollout, seconds: float) -> None: ...

    def ended(self, rollout: Rollout, outcome: "Event") -> None: ...

    def guarded(self, now: float) -> None: ...


@dataclass
class Desk:
    """The outside, handed in.

    balancer_of(release), source_of(release, stable, canary): make the hooks; they are made once a release file and
        kept, since resolving a connection may be slow.
    read_release(text, name): parse a frozen release file.  page(service, sentence): wake somebody.
    herald: tells people, figures: sends metrics; without one nobody is told and nothing is measured.
    """

    ledger: Ledger
    clock: Clock
    balancer_of: Callable[[Release], LoadBalancer]
    source_of: Callable[[Release, str, str], MetricSource]
    read_release: Callable[[str, str], Release]
    page: Page = log_page
    herald: Herald | None = None
    figures: Figures | None = None
    _balancers: dict[str, LoadBalancer] = field(default_factory=dict)
    _sources: dict[tuple[str, str], MetricSource] = field(default_factory=dict)
    _releases: dict[str, Release] = field(default_factory=dict)

    def release(self, rollout: Rollout) -> Release:
        """The release file as it was when the rollout started."""
        key = rollout.release_sha256
        if key not in self._releases:
            self._releases[key] = self.read_release(rollout.release_text, rollout.release_name)
        return self._releases[key]

    def balancer(self, release: Release) -> LoadBalancer:
        if release.sha256 not in self._balancers:
            self._balancers[release.sha256] = self.balancer_of(release)
        return self._balancers[release.sha256]

    def source(self, release: Release, *, stable: str, canary: str) -> MetricSource:
        key = (release.sha256, canary)
        if key not in self._sources:
            self._sources[key] = self.source_of(release, stable, canary)
        return self._sources[key]

    def writer(self, release: Release, *, actor: str) -> SafeWriter:
        return SafeWriter(self.ledger, self.balancer(release), self.clock, actor=actor, page=self.wake)

    def tell(
        self, event: "Event", rollout: Rollout, *, step: int | None = None, why: str = "", wait: float = 0.0
    ) -> None:
        """Tell people. wait: seconds for their servers' answers, where this process ends soon; else it goes on."""
        if self.herald is not None:
            self.herald.tell(event, rollout, step=step, why=why)
            self.herald.wait(wait)

    def wake(self, service: str, sentence: str) -> None:
        """Page: something is not safe and does not become so by itself."""
        self.page(service, sentence)
        if self.herald is not None:
            self.herald.page(service, sentence)

    def rollout_of_run(self, dag_id: str, run_id: str) -> Rollout:
        """RefusedError when the run's start never got as far as the ledger, LedgerError when it stays away."""
        rollout = patiently(self.clock, lambda: self.ledger.rollout_of_run(dag_id, run_id))
        if rollout is None:
            raise RefusedError(f"run {run_id} of {dag_id} has no rollout in the ledger: its start did not succeed.")
        return rollout


def plan_of(rollout: Rollout) -> Plan:
    return Plan.from_json(rollout.plan)


def step_of(rollout: Rollout, index: int) -> Step:
    """The plan's weight step with this index. RefusedError when the frozen plan has no such step."""
    steps = plan_of(rollout).weight_steps
    if not 0 <= index < len(steps):
        raise RefusedError(f"the plan of {rollout.id} has {len(steps)} steps; there is no step {index + 1}.")
    return steps[index]


def weights_for(rollout: Rollout, step: Step) -> Weights:
    return Weights.split(stable=rollout.stable, canary=rollout.canary, canary_percent=step.weight)

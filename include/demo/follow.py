"""Following one release of the demo: what ledger, proxy and clients say, as snapshots for the live table."""

import time
from collections.abc import Iterator

from canary_release.control.desk import plan_of
from canary_release.core.release import CheckKind
from canary_release.core.values import Decision, Verdict, Weights
from canary_release.ledger.records import DecisionRecord, Rollout
from canary_release.ledger.store import Ledger
from demo import traffic_log
from demo.airflow_api import Run
from demo.live_table import CheckState, ReleaseResult, Snapshot
from demo.stage import DAG_ID, Stage
from demo.traffic_log import Second
from demo.versions import Release

LOOK_SECONDS = 0.5
SHARE_SECONDS = 4


class Follower:
    """Triggers a release through Airflow's REST API and watches it until its run is over."""

    def __init__(self, stage: Stage, ledger: Ledger) -> None:
        self._stage = stage
        self._ledger = ledger

    def begin(self, release: Release, *, idle_side: str) -> None:
        """Deploy to the idle side and trigger the run, named after the version."""
        self._stage.deploy(idle_side, release.version, error_rate=release.error_rate, slow_by=release.slow_by)
        self._stage.airflow.api.trigger(DAG_ID, run_id(release), conf={"version": release.version}, note=release.title)

    def snapshots(self, release: Release, *, seconds: float) -> Iterator[Snapshot]:
        """One snapshot each time something changed; ends with the run, TimeoutError after ``seconds``."""
        deadline = time.monotonic() + seconds
        last: Snapshot | None = None
        while True:
            over = self._run(release).over
            rollout = self._ledger.rollout_of_run(DAG_ID, run_id(release))
            if rollout is not None:
                snapshot = self._snapshot(rollout)
                if last is None or snapshot != last:
                    yield snapshot
                last = snapshot
            if over:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"run {run_id(release)} was not over after {seconds:g} s")
            time.sleep(LOOK_SECONDS)

    def result(self, release: Release, *, before: str) -> ReleaseResult:
        """What the finished release did to the clients, by their own counts; ``before`` had the traffic."""
        rollout = self._ledger.rollout_of_run(DAG_ID, run_id(release))
        if rollout is None:
            return ReleaseResult("?", release.version, "never started", 0, None, None, 0)
        seconds = traffic_log.between(self._seconds(), rollout.started_at, rollout.ended_at or time.time())
        bad = rollout.state != "promoted"
        # Slower than all but one in a hundred of the old version's pages at the same time.
        slow = traffic_log.latency(seconds, before, 0.99) or 1.0
        return ReleaseResult(
            old=rollout.old_version,
            new=rollout.version,
            outcome=str(rollout.state),
            hurt=traffic_log.hurt(seconds, rollout.version, slow_after=slow) if bad else 0,
            exposure=traffic_log.exposure(seconds, rollout.version),
            to_zero=time_to_zero(self._ledger, rollout),
            lost=traffic_log.lost(seconds),
        )

    def idle_side(self) -> str:
        """The backend without traffic, as the proxy says."""
        return min(self.weights().shares.items(), key=lambda item: item[1])[0]

    def weights(self) -> Weights:
        return self._stage.weights()

    def run_state(self, release: Release) -> str:
        return self._run(release).state

    def _run(self, release: Release) -> Run:
        return self._stage.airflow.api.run(DAG_ID, run_id(release))

    def _seconds(self) -> list[Second]:
        return traffic_log.read_log(self._stage.traffic.log_file)

    def _snapshot(self, rollout: Rollout) -> Snapshot:
        writes = self._ledger.writes(rollout.id)
        decisions = self._ledger.decisions(rollout.id)
        steps = plan_of(rollout).weight_steps
        newest = traffic_log.newest(self._seconds(), SHARE_SECONDS)
        return Snapshot(
            at=time.time(),
            old=rollout.old_version,
            new=rollout.version,
            step=rollout.step + 1,
            steps=len(steps),
            asked=writes[-1].asked[rollout.canary] if writes else None,
            read_back=self.weights()[rollout.canary],
            share=traffic_log.share_observed(newest, backend=rollout.canary),
            checks=_checks(decisions),
            decision=Decision(decisions[-1].decision) if decisions else None,
            note=rollout.outcome_reason or (decisions[-1].reason if decisions else ""),
        )


def run_id(release: Release) -> str:
    return f"shop-{release.version}"


def time_to_zero(ledger: Ledger, rollout: Rollout) -> float | None:
    """Seconds from the end of the window in which the evidence crossed the line to weight 0 read back."""
    crossed = next((record for record in ledger.decisions(rollout.id) if record.decision == Decision.ROLL_BACK), None)
    if crossed is None or crossed.window < 0:
        return None
    window = ledger.windows(rollout.id)[crossed.window]
    back = [write.read_back_at for write in ledger.writes(rollout.id) if not write.raises and write.read_back_at]
    return min(back) - window.end if back else None


def _checks(decisions: list[DecisionRecord]) -> tuple[CheckState, ...]:
    judged = [record.judgement for record in decisions if record.judgement]
    if not judged:
        return ()
    return tuple(
        CheckState(
            name=check["check"],
            kind=CheckKind(check["kind"]),
            stable=check["stable"],
            canary=check["canary"],
            evidence=check["evidence"],
            verdict=Verdict(check["verdict"]),
            needed=check["needed"],
        )
        for check in judged[-1]["checks"]
    )

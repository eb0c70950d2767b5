"""The first task of a rollout: take the service, freeze the release file, try the way back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import Context

from canary_release.control.real_desk import read_release
from canary_release.control.starting import Started, StartRequest, start
from canary_release.core.plan import render_plan
from canary_release.operators.rollout_task import RolloutOperator, problems_are_final, weights_line


class StartReleaseOperator(RolloutOperator):
    """Begin the rollout of this run.

    :param release_file: path of the release file; it is read again here, so that what is frozen is what runs.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, release_file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.release_file = release_file

    def execute(self, context: Context) -> dict[str, str]:
        params, run = context["params"], context["dag_run"]
        with problems_are_final():
            path = Path(self.release_file)
            request = StartRequest(
                release=read_release(path),
                release_name=path.name,
                version=str(params["version"]),
                dag_id=run.dag_id,
                run_id=run.run_id,
                by=getattr(run, "triggering_user_name", None) or "unknown",
                reason=str(params.get("reason") or ""),
                profile=params.get("profile"),
                steps=params.get("steps"),
                dry_run=bool(params.get("dry_run")),
            )
            started = start(self.open_desk(), request)
        self._report(request, started)
        return {"rollout": started.rollout.id, "version": started.rollout.version}

    def _report(self, request: StartRequest, started: Started) -> None:
        rollout = started.rollout
        lines = [
            f"start    {rollout.service} {rollout.old_version} -> {rollout.version}   rollout {rollout.id}",
            f"  asked by              {rollout.started_by}" + (f": {rollout.reason}" if rollout.reason else ""),
            f"  release file          {rollout.release_name} (sha256 {rollout.release_sha256[:12]}), frozen",
            f"  stable, canary        {rollout.stable} (has the traffic), {rollout.canary}",
            weights_line("load balancer says", started.before),
        ]
        if rollout.dry_run:
            lines.append("  DRY RUN               nothing will be written to the load balancer")
        elif started.way_back is not None:
            took = started.way_back.seconds * 1000
            lines.append(f"  way back              tried: the same weights written and read back in {took:.0f} ms")
        self.tell(*lines, render_plan(request.release, started.plan), event="started", rollout=rollout.id)

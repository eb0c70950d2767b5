"""What the log of a rollout's first task says: who asked, what was frozen, the plan, and what a dry run would do."""

from collections.abc import Iterator

from canary_release.control.desk import weights_for
from canary_release.control.opening import override_of
from canary_release.control.starting import Started, StartRequest
from canary_release.core.detection import detection
from canary_release.core.plan import render_plan
from canary_release.core.release import Approval, Check, Moment
from canary_release.core.units import show_duration
from canary_release.core.values import NONE, Weights, plain
from canary_release.core.wording import limit_text
from canary_release.operators.rollout_task import weights_line


def start_lines(request: StartRequest, started: Started) -> list[str]:
    rollout = started.rollout
    lines = [
        f"start    {rollout.service} {rollout.old_version} -> {rollout.version}   rollout {rollout.id}",
        f"  asked by              {rollout.started_by}" + (f": {rollout.reason}" if rollout.reason else ""),
        f"  release file          {rollout.release_name} (sha256 {rollout.release_sha256[:12]}), frozen",
        f"  stable, canary        {rollout.stable} (has the traffic), {rollout.canary}",
        weights_line("load balancer says", started.before),
    ]
    if override_of(rollout) and not rollout.dry_run:
        overrode = started.closed.sentence if started.closed is not None else "nothing that is closed now."
        lines.append(f"  OVERRIDES             {overrode} Because: {override_of(rollout)}")
    if started.way_back is not None:
        took = started.way_back.seconds * 1000
        lines.append(f"  way back              tried: the same weights written and read back in {took:.0f} ms")
    lines += [f"  relies on             {ability}: {words}" for ability, words in started.relies_on.items()]
    lines += plan_lines(request, started)
    return [*lines, *_dry_run(request, started)] if rollout.dry_run else lines


def start_facts(started: Started) -> dict[str, object]:
    """The same for programs."""
    rollout = started.rollout
    return {
        "rollout": rollout.id,
        "service": rollout.service,
        "version": rollout.version,
        "old_version": rollout.old_version,
        "by": rollout.started_by,
        "reason": rollout.reason,
        "profile": rollout.profile,
        "dry_run": rollout.dry_run,
        "stable": rollout.stable,
        "canary": rollout.canary,
        "weights": [plain(step.weight) for step in started.plan.weight_steps],
        "release_sha256": rollout.release_sha256,
    }


def plan_lines(request: StartRequest, started: Started) -> list[str]:
    """The plan, with what its steps can detect once the service's traffic is known."""
    learned, plan = started.learned, render_plan(request.release, started.plan)
    if learned is None:
        return [plan]
    if learned.traffic is None:
        said = "; ".join(learned.sentences)
        return [plan, f"  detects               unknown: {said}"]
    seen = detection(request.release, started.plan, learned.traffic, learned.noise)
    table = render_plan(request.release, started.plan, detects=seen.column)
    return [*(f"  learned               {line}" for line in learned.sentences), table, *seen.sentences]


def _dry_run(request: StartRequest, started: Started) -> Iterator[str]:
    """Everything that would be asked of the outside, in order."""
    rollout, release = started.rollout, request.release
    yield "  DRY RUN               nothing is written to the load balancer, and the service stays free"
    if started.closed is not None:
        said = "would wait" if release.calendar.when_closed == "wait" else "would be refused"
        yield f"  {said:<22}{started.closed.sentence}"
    yield weights_line("would write as it is", started.before)
    yield from _called(request, Moment.BEFORE)
    for step in started.plan.steps:
        if isinstance(step, Approval):
            yield f"  would ask             {', '.join(step.by)}, for {show_duration(step.timeout)} at most"
            continue
        yield from _called(request, Moment.BEFORE_STEP)
        yield weights_line("would ask for", weights_for(rollout, step))
    safe = Weights.split(stable=rollout.stable, canary=rollout.canary, canary_percent=NONE)
    yield from _called(request, Moment.AFTER)
    yield weights_line("after a fail", safe)
    yield from _called(request, Moment.ON_ROLLBACK)
    yield from (f"  check                 {_check(check)}" for check in release.checks)


def _called(request: StartRequest, moment: Moment) -> Iterator[str]:
    yield from (f"  would call            {hook.what}" for hook in request.release.hooks.get(moment, ()))


def _check(check: Check) -> str:
    quantile = f" p{100 * check.quantile:g}" if check.quantile is not None else ""
    acts = "only observed" if check.observe_only else "rolls back" if check.critical else "holds"
    return f"{check.metric}{quantile}: {limit_text(check)}; {acts}"

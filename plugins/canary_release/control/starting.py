"""Starting a rollout: take the service, freeze the release file, try the way back before anyone is exposed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from canary_release.control.desk import Desk
from canary_release.control.learning import Learned, learn_for
from canary_release.control.opening import OVERRIDE, require_start_open, start_closed
from canary_release.control.patience import patiently
from canary_release.control.safe_writes import Written
from canary_release.control.telling import tell_ended, tell_started
from canary_release.control.waiting import IDLE_LEASE
from canary_release.core.plan import Plan, make_plan
from canary_release.core.problems import CanaryError, RefusedError
from canary_release.core.release import Ability, Moment, Release
from canary_release.core.release_calendar import Closed
from canary_release.core.values import FULL, Weights
from canary_release.hooks.abilities import check_abilities
from canary_release.ledger.audit_notes import note
from canary_release.ledger.records import NewRollout, Rollout, State

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
# A rollout may take this many times its longest plan before the guardian ends it.
_PATIENCE = 2.0


@dataclass(frozen=True)
class StartRequest:
    """What a person or program asked for. steps: weights such as ``5,100``, a part of the release file's own.

    override: why this rollout may go on outside the release window, in a freeze or a cooldown; empty: it may not.
    """

    release: Release
    release_name: str
    version: str
    dag_id: str
    run_id: str
    by: str
    reason: str = ""
    profile: str | None = None
    steps: str | None = None
    dry_run: bool = False
    override: str = ""


@dataclass(frozen=True)
class Started:
    """before: the weights found. way_back: the no-op write, None on a dry run or when the rollout stood already.
    learned: what is known of the service, None when the rollout stood already.
    closed: what an override overrode, or what a real start would wait for in place of this dry run.
    relies_on: how the load balancer does what the release file needs of it, in its words.
    """

    rollout: Rollout
    plan: Plan
    before: Weights
    way_back: Written | None
    learned: Learned | None = None
    closed: Closed | None = None
    relies_on: Mapping[Ability, str] = field(default_factory=dict)


def start(desk: Desk, request: StartRequest) -> Started:
    """Begin a rollout, or find the one that this run began already.

    Raises RefusedError (busy service, split traffic, unknown step, bad version; ClosedError while the calendar is
    closed) before anything is written, and the hooks' own errors when the load balancer or the metrics cannot be used;
    then the service is free again.
    """
    _require_version(request.version)
    existing = desk.ledger.rollout_of_run(request.dag_id, request.run_id)
    if existing is not None:
        return _again(desk, request, existing)
    _require_free(desk, request)
    closed = _require_open(desk, request)
    plan = make_plan(request.release, profile=request.profile, steps=request.steps)
    before = desk.balancer(request.release).get_weights()
    stable, canary = sides(request.release, before)
    rollout = desk.ledger.begin(_new_rollout(desk, request, plan, stable, canary), at=desk.clock.now())
    if request.override and not request.dry_run:
        overrode = {"reason": request.override, "closed": closed.sentence if closed else "nothing was closed"}
        note(desk.ledger, rollout, "overrode", overrode, actor=request.by, at=desk.clock.now())
    try:
        relies_on = _abilities(desk, request.release, canary)
        way_back = _preflight(desk, request, before)
        rollout, learned = learn_for(desk, rollout, request.release, actor=request.by)
    except CanaryError as error:
        ended = desk.ledger.end(
            rollout, State.ROLLED_BACK, reason=f"refused before the first user: {error}", actor=request.by,
            at=desk.clock.now(),
        )  # fmt: skip
        tell_ended(desk, ended, None, actor=request.by)
        raise
    tell_started(desk, rollout)
    return Started(rollout, plan, before, way_back, learned, closed, relies_on)


def sides(release: Release, weights: Weights) -> tuple[str, str]:
    """(stable, canary): the backend with all the traffic, and the other one. RefusedError when it is split."""
    first, second = release.backends
    if weights[first] == FULL:
        return first, second
    if weights[second] == FULL:
        return second, first
    raise RefusedError(
        f"{release.service}: the traffic is split ({weights}), so there is no stable side to start from. "
        f"Abort what left it so: canary abort {release.service}"
    )


def _require_version(version: str) -> None:
    if not _VERSION.fullmatch(version):
        raise RefusedError(
            f"version {version!r} is not a version: letters, digits, '.', '_', '+', '-', at most 128, "
            "beginning with a letter or digit."
        )


def _again(desk: Desk, request: StartRequest, existing: Rollout) -> Started:
    """A retried or cleared start finds its own rollout, or is told that it is over."""
    if existing.state.final and existing.state is not State.DRY_RUN:
        raise RefusedError(
            f"{existing.id} of this run is over: {existing.state} ({existing.outcome_reason}). "
            "Running it again moves no traffic; trigger a new run."
        )
    if existing.state is not State.DRY_RUN and existing.state is not State.RUNNING:
        raise RefusedError(f"{existing.id} is {existing.state}: {existing.outcome_reason}")
    return Started(existing, Plan.from_json(existing.plan), desk.balancer(request.release).get_weights(), None)


def _require_free(desk: Desk, request: StartRequest) -> None:
    other = desk.ledger.active(request.release.service)
    if other is not None and not request.dry_run:
        raise RefusedError(
            f"{other.service} is busy: {other.id} (version {other.version}, run {other.run_id}, started by "
            f"{other.started_by}) is {other.state}. Wait for it to end, or abort it first."
        )


def _require_open(desk: Desk, request: StartRequest) -> Closed | None:
    if request.dry_run:
        return start_closed(desk, request.release)
    return require_start_open(desk, request.release, override=request.override)


def _calls_seconds(release: Release, plan: Plan) -> float:
    """The longest that what is called before the traffic can take."""
    times = {
        moment: sum(hook.timeout * (1 + hook.retries) for hook in hooks) for moment, hooks in release.hooks.items()
    }
    return times.get(Moment.BEFORE, 0.0) + len(plan.weight_steps) * times.get(Moment.BEFORE_STEP, 0.0)


def _new_rollout(desk: Desk, request: StartRequest, plan: Plan, stable: str, canary: str) -> NewRollout:
    release = request.release
    return NewRollout(
        service=release.service,
        dag_id=request.dag_id,
        run_id=request.run_id,
        version=request.version,
        stable=stable,
        canary=canary,
        profile=request.profile or "standard",
        dry_run=request.dry_run,
        started_by=request.by,
        reason=request.reason,
        release_text=release.text,
        release_sha256=release.sha256,
        release_name=request.release_name,
        plan=plan.to_json() | ({OVERRIDE: request.override} if request.override else {}),
        lease_until=desk.clock.now() + IDLE_LEASE,
        deadline=desk.clock.now() + IDLE_LEASE + _PATIENCE * plan.longest_seconds + _calls_seconds(release, plan),
        settings={"release_name": request.release_name, "backends": list(release.backends)},
    )


def _abilities(desk: Desk, release: Release, canary: str) -> Mapping[Ability, str]:
    """What only some load balancers can do must be configured now; a wish alone is worth nothing."""
    balancer = desk.balancer(release)
    return patiently(desk.clock, lambda: check_abilities(balancer, release.needs, canary=canary))


def _preflight(desk: Desk, request: StartRequest, before: Weights) -> Written | None:
    """The way back before the way forward: may we write, does it read back, can the metrics be read."""
    stable, canary = sides(request.release, before)
    source = desk.source(request.release, stable=stable, canary=canary)
    patiently(desk.clock, lambda: source.read(None))
    if request.dry_run:
        return None
    writer = desk.writer(request.release, actor=request.by)
    return patiently(desk.clock, lambda: writer.confirm_way_back(before))

"""Who may raise a weight: proved from the ledger, inside the transaction that records the intent."""

from typing import Any

import sqlalchemy as sa

from canary_release.core.plan import Plan
from canary_release.core.problems import RefusedError
from canary_release.core.release import Approval
from canary_release.core.values import Decision, Weights
from canary_release.ledger import tables
from canary_release.ledger.records import Rollout, State


def require_in_charge(now: Rollout, service: sa.Row[Any], *, fence: int, at: float) -> None:
    """The rollout runs, holds its service with the newest fence, is watched and in time. RefusedError otherwise."""
    if now.dry_run:
        raise RefusedError(f"{now.id} is a dry run: it writes nothing to the load balancer.")
    if now.state is not State.RUNNING:
        why = f" ({now.outcome_reason})" if now.outcome_reason else ""
        raise RefusedError(f"{now.id} is {now.state}{why}: its weight may not be raised. Start a new release.")
    if service.holder != now.id or service.fence != fence:
        raise RefusedError(f"{now.id} no longer holds {now.service}: a newer rollout or an abort took over.")
    if now.lease_until is not None and at > now.lease_until:
        late = at - now.lease_until
        raise RefusedError(f"the lease of {now.id} ran out {late:.0f} s ago: nobody watched the canary since then.")
    if at > now.deadline:
        raise RefusedError(f"{now.id} is past its deadline by {at - now.deadline:.0f} s.")


def require_step(connection: sa.Connection, now: Rollout, *, step: int, weights: Weights) -> None:
    """The step is the current or the next one, its weight the plan's, and the step before was decided to advance.

    Where the plan has an approval before the step, somebody who may has given it.
    """
    plan = Plan.from_json(now.plan)
    steps = plan.weight_steps
    if step not in (now.step, now.step + 1) or not 0 <= step < len(steps):
        raise RefusedError(f"{now.id} stands at step {now.step + 1} of its plan; step {step + 1} is not the next.")
    planned = Weights.split(stable=now.stable, canary=now.canary, canary_percent=steps[step].weight)
    if weights != planned:
        raise RefusedError(f"{now.id}: the plan says {planned} for step {step + 1}, not {weights}.")
    if step > 0 and step != now.step:
        _require_decision(connection, now, step - 1, Decision.ADVANCE, f"step {step + 1} needs the decision to advance")
    approval = plan.approval_before(step)
    if approval is not None and step != now.step:
        _require_approval(connection, now, step, approval)


def require_promotion(connection: sa.Connection, now: Rollout) -> None:
    """The plan's last step was decided to promote."""
    last = len(Plan.from_json(now.plan).weight_steps) - 1
    if now.step != last:
        raise RefusedError(f"{now.id} cannot be promoted: it stands at step {now.step + 1} of {last + 1}.")
    _require_decision(connection, now, last, Decision.PROMOTE, "promotion needs the decision to promote")


def _require_approval(connection: sa.Connection, now: Rollout, step: int, approval: Approval) -> None:
    table = tables.approvals
    row = connection.execute(table.select().where(table.c.rollout_id == now.id, table.c.step == step)).first()
    need = f"{now.id}: step {step + 1} needs an approval by {', '.join(approval.by)}"
    if row is None or row.answer != "approve":
        said = "nobody was asked" if row is None else f"the answer is {row.answer or 'not there yet'}"
        raise RefusedError(f"{need}; {said}.")
    if approval.not_by_starter and row.answered_by == now.started_by:
        raise RefusedError(f"{need}, but not by {row.answered_by}, who started it.")


def _require_decision(connection: sa.Connection, now: Rollout, step: int, wanted: Decision, need: str) -> None:
    table = tables.decisions
    query = table.select().where(table.c.rollout_id == now.id, table.c.step == step)
    last = connection.execute(query.order_by(table.c.id.desc()).limit(1)).first()
    if last is None or last.decision != wanted:
        said = "nothing" if last is None else f"{last.decision} ({last.reason})"
        raise RefusedError(f"{now.id}: {need} from step {step + 1}; the ledger says {said}.")

"""The ledger's tables. Times are seconds since the epoch, weights and counts are JSON with exact decimals as text.

Order of writing: an intent stands here before a load balancer is touched, the observation after it was read back.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

services = sa.Table(
    "services",
    metadata,
    sa.Column("service", sa.String(128), primary_key=True),
    # Counts the rollouts of the service; a task of an older generation may not write.
    sa.Column("generation", sa.Integer, nullable=False, default=0),
    # Who may raise a weight: only the rollout that was given this number.
    sa.Column("fence", sa.Integer, nullable=False, default=0),
    # The one rollout in progress, NULL when there is none.
    sa.Column("holder", sa.String(160), nullable=True),
    sa.Column("settings", sa.JSON, nullable=False, default=dict),
)

rollouts = sa.Table(
    "rollouts",
    metadata,
    sa.Column("id", sa.String(160), primary_key=True),
    sa.Column("service", sa.String(128), nullable=False, index=True),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("dag_id", sa.String(250), nullable=False),
    sa.Column("run_id", sa.String(250), nullable=False),
    sa.Column("version", sa.String(128), nullable=False),
    sa.Column("old_version", sa.String(128), nullable=False),
    sa.Column("stable", sa.String(128), nullable=False),
    sa.Column("canary", sa.String(128), nullable=False),
    # The backend that gets everything when anything goes wrong; changes to the canary when promotion is committed.
    sa.Column("safe_side", sa.String(128), nullable=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("outcome_reason", sa.Text, nullable=False, default=""),
    sa.Column("profile", sa.String(128), nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("started_by", sa.String(250), nullable=False),
    sa.Column("reason", sa.Text, nullable=False, default=""),
    sa.Column("release_text", sa.Text, nullable=False),
    sa.Column("release_sha256", sa.String(64), nullable=False),
    sa.Column("release_name", sa.String(250), nullable=False),
    sa.Column("plan", sa.JSON, nullable=False),
    # Index into the plan's weights of the step that was last begun, -1 before the first.
    sa.Column("step", sa.Integer, nullable=False, default=-1),
    sa.Column("step_started_at", sa.Float, nullable=True),
    sa.Column("lease_until", sa.Float, nullable=True),
    sa.Column("deadline", sa.Float, nullable=False),
    sa.Column("blind_since", sa.Float, nullable=True),
    sa.Column("cursor", sa.JSON, nullable=True),
    # Counts the cursor's moves, so that two readers cannot both store the same window.
    sa.Column("cursor_moves", sa.Integer, nullable=False, default=0),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float, nullable=True),
    # What was learned of the service's noise before the first user, NULL when nothing was.
    sa.Column("noise", sa.JSON(none_as_null=True), nullable=True),
    # After a promotion: until when the old side is kept, so that one action returns to it.
    sa.Column("kept_until", sa.Float, nullable=True),
    # What a finished rollout did to its users, computed once at its end (NULL before that).
    sa.Column("summary", sa.JSON(none_as_null=True), nullable=True),
    sa.Index("rollouts_by_start", "started_at"),
    sa.Index("rollouts_of_a_service", "service", "started_at"),
    sa.UniqueConstraint("dag_id", "run_id", name="one_rollout_a_run"),
    sa.UniqueConstraint("service", "generation", name="one_rollout_a_generation"),
)

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("rollout_id", sa.String(160), nullable=True, index=True),
    sa.Column("service", sa.String(128), nullable=False),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("actor", sa.String(250), nullable=False),
    sa.Column("raises", sa.Boolean, nullable=False),
    sa.Column("weights", sa.JSON, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
)

observations = sa.Table(
    "observations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("intent_id", sa.Integer, sa.ForeignKey("intents.id"), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("weights", sa.JSON, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
)

windows = sa.Table(
    "windows",
    metadata,
    sa.Column("rollout_id", sa.String(160), primary_key=True),
    sa.Column("index", sa.Integer, primary_key=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("content", sa.JSON, nullable=False),
)

decisions = sa.Table(
    "decisions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("rollout_id", sa.String(160), nullable=False, index=True),
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("window", sa.Integer, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("decision", sa.String(20), nullable=False),
    sa.Column("verdict", sa.String(20), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("judgement", sa.JSON, nullable=True),
)

# One row: where the audit chain ends. Kept apart from the entries, so that a cut-off end is noticed.
audit_head = sa.Table(
    "audit_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("service", sa.String(128), nullable=False, index=True),
    sa.Column("rollout_id", sa.String(160), nullable=True, index=True),
    sa.Column("actor", sa.String(250), nullable=False),
    sa.Column("event", sa.String(40), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("prev_hash", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)

# A question to people before a step. answer is NULL while it stands, then approve, reject or timeout.
approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("rollout_id", sa.String(160), nullable=False),
    # Index of the weight step that needs the answer.
    sa.Column("step", sa.Integer, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("approvers", sa.JSON, nullable=False),
    sa.Column("task_instance", sa.String(64), nullable=True),
    sa.Column("answer", sa.String(20), nullable=True),
    sa.Column("answered_by", sa.String(250), nullable=True),
    sa.Column("answered_at", sa.Float, nullable=True),
    sa.Column("comment", sa.Text, nullable=False, default=""),
    sa.UniqueConstraint("rollout_id", "step", name="one_approval_a_step"),
)

# What was called on the outside around a rollout; a row stands before the call, so that a retry does not repeat it.
hook_calls = sa.Table(
    "hook_calls",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("rollout_id", sa.String(160), nullable=False),
    # before, before_step, after or on_rollback.
    sa.Column("moment", sa.String(20), nullable=False),
    # -1 where the moment belongs to no step.
    sa.Column("step", sa.Integer, nullable=False, default=-1),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    # running, success or failed.
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("detail", sa.Text, nullable=False, default=""),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float, nullable=True),
    sa.UniqueConstraint("rollout_id", "moment", "step", "position", name="one_call_a_hook"),
)

# What was told to whom; the key makes sure that nobody is told the same thing twice.
notices = sa.Table(
    "notices",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("channel", sa.String(128), nullable=False),
    sa.Column("key", sa.String(250), nullable=False),
    sa.Column("service", sa.String(128), nullable=False),
    sa.Column("rollout_id", sa.String(160), nullable=True),
    sa.Column("event", sa.String(40), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("sent_at", sa.Float, nullable=True),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.UniqueConstraint("channel", "key", name="one_notice_a_channel"),
)

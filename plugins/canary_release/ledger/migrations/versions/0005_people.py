"""Approvals, hook calls and notices; what a finished rollout cost; until when the old side is kept."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "approvals",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("rollout_id", sa.String(length=160), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("until", sa.Float(), nullable=False),
        sa.Column("approvers", sa.JSON(), nullable=False),
        sa.Column("task_instance", sa.String(length=64), nullable=True),
        sa.Column("answer", sa.String(length=20), nullable=True),
        sa.Column("answered_by", sa.String(length=250), nullable=True),
        sa.Column("answered_at", sa.Float(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("rollout_id", "step", name="one_approval_a_step"),
    )
    op.create_table(
        "hook_calls",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("rollout_id", sa.String(length=160), nullable=False),
        sa.Column("moment", sa.String(length=20), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("what", sa.Text(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("rollout_id", "moment", "step", "position", name="one_call_a_hook"),
    )
    op.create_table(
        "notices",
        sa.Column("id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("channel", sa.String(length=128), nullable=False),
        sa.Column("key", sa.String(length=250), nullable=False),
        sa.Column("service", sa.String(length=128), nullable=False),
        sa.Column("rollout_id", sa.String(length=160), nullable=True),
        sa.Column("event", sa.String(length=40), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("sent_at", sa.Float(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("channel", "key", name="one_notice_a_channel"),
    )
    op.add_column("rollouts", sa.Column("kept_until", sa.Float(), nullable=True))
    op.add_column("rollouts", sa.Column("summary", sa.JSON(none_as_null=True), nullable=True))
    op.create_index("rollouts_by_start", "rollouts", ["started_at"])
    op.create_index("rollouts_of_a_service", "rollouts", ["service", "started_at"])


def downgrade() -> None:
    op.drop_index("rollouts_of_a_service", "rollouts")
    op.drop_index("rollouts_by_start", "rollouts")
    with op.batch_alter_table("rollouts") as batch:
        batch.drop_column("summary")
        batch.drop_column("kept_until")
    for table in ("notices", "hook_calls", "approvals"):
        op.drop_table(table)

"""What was learned of a service's noise when its rollout started."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("noise", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("rollouts", "noise")

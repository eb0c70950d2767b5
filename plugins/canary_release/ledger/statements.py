"""The ledger's statements that every look and every write needs.

Made once: making a statement anew, and finding that it is the same as before, takes longer than carrying it out.
"""

import sqlalchemy as sa

from canary_release.ledger import tables

ROLLOUT = tables.rollouts.select().where(tables.rollouts.c.id == sa.bindparam("wanted"))
LOCKED_SERVICE = tables.services.select().where(tables.services.c.service == sa.bindparam("wanted")).with_for_update()
HEAD = tables.audit_head.select().where(tables.audit_head.c.id == 1)
LOCKED_HEAD = HEAD.with_for_update()
MOVED_HEAD = tables.audit_head.update().where(tables.audit_head.c.id == 1)
NEW_ENTRY = tables.audit.insert()
NEW_INTENT = tables.intents.insert()
SEEN = tables.observations.insert()
NEW_WINDOW = tables.windows.insert()
NEW_DECISION = tables.decisions.insert()
WRITES = (
    sa.select(
        tables.intents,
        tables.observations.c.weights.label("seen"),
        tables.observations.c.at.label("seen_at"),
        tables.observations.c.seconds,
    )
    .select_from(tables.intents.outerjoin(tables.observations, tables.observations.c.intent_id == tables.intents.c.id))
    .where(tables.intents.c.rollout_id == sa.bindparam("wanted"))
    .order_by(tables.intents.c.id)
)
WINDOWS = (
    tables.windows.select()
    .where(tables.windows.c.rollout_id == sa.bindparam("wanted"))
    .order_by(tables.windows.c.index)
)
DECISIONS = (
    tables.decisions.select()
    .where(tables.decisions.c.rollout_id == sa.bindparam("wanted"))
    .order_by(tables.decisions.c.id)
)
OF_RUN = tables.rollouts.select().where(
    tables.rollouts.c.dag_id == sa.bindparam("dag"), tables.rollouts.c.run_id == sa.bindparam("run")
)

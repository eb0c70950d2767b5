"""The way back after a promotion: until when the old side is kept, and taking the service to return to it."""

from canary_release.core.problems import RefusedError
from canary_release.ledger import tables
from canary_release.ledger.engine import storable
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger


def keep_old(ledger: Ledger, rollout: Rollout, until: float) -> None:
    """Note until when (seconds since the epoch) the side that was stable is kept. Raises LedgerError."""
    table = tables.rollouts
    with ledger._write() as connection:
        connection.execute(table.update().where(table.c.id == rollout.id).values(kept_until=until))


def begin_return(
    ledger: Ledger, rollout: Rollout, *, why: str, actor: str, at: float, lease_until: float, deadline: float
) -> Rollout:
    """Make the old side the safe one again and hold the service, with a new fence, until everything is there.

    From here on whoever ends unfinished rollouts also ends this one. RefusedError unless it is the service's last
    rollout, was promoted, its old side is still kept, and nobody holds the service. Raises LedgerError.
    """
    table, services = tables.rollouts, tables.services
    with ledger._write() as connection:
        service = ledger._service_row(connection, rollout.service)
        now = ledger._rollout(connection, rollout.id)
        if service.holder is not None:
            raise RefusedError(ledger._busy_sentence(connection, rollout.service, service.holder))
        later = connection.execute(
            table.select().where(
                table.c.service == now.service, table.c.generation > now.generation, table.c.dry_run.is_(False)
            )
        ).first()
        if later is not None:
            raise RefusedError(f"{now.id} was followed by {later.id} (version {later.version}): release what you want.")
        _require_kept(now, at)
        fence = service.fence + 1
        connection.execute(
            table.update()
            .where(table.c.id == now.id)
            .values(
                state=State.ROLLING_BACK, safe_side=now.stable, fence=fence, outcome_reason=storable(why),
                lease_until=lease_until, deadline=deadline, kept_until=None, summary=None,
            )
        )  # fmt: skip
        connection.execute(
            services.update().where(services.c.service == now.service).values(fence=fence, holder=now.id)
        )
        detail = {"why": why, "safe_side": now.stable, "fence": fence}
        ledger._audit(connection, at, now.service, now.id, actor, "returning", detail)
        return ledger._rollout(connection, now.id)


def _require_kept(now: Rollout, at: float) -> None:
    if now.state is not State.PROMOTED:
        raise RefusedError(f"{now.id} is {now.state} ({now.outcome_reason}): there is no promotion to take back.")
    if now.kept_until is None:
        raise RefusedError(
            f"{now.id} kept no old side: its release file has no keep_old_for. Release {now.old_version}."
        )
    if at > now.kept_until:
        late = at - now.kept_until
        raise RefusedError(
            f"the old side of {now.id} was kept until {late:.0f} s ago: what runs there now is not known. "
            f"Release {now.old_version} as a new version."
        )

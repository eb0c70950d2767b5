"""What the doctor looks at. Each check answers with results, never with an exception that the outside could cause."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.exc import SQLAlchemyError

from canary_release.control.desk import Desk
from canary_release.control.guardian import GUARDIAN, last_rollout
from canary_release.control.way_back import unwatched
from canary_release.core.problems import CanaryError, RefusedError
from canary_release.core.release import Release
from canary_release.core.values import FULL, Weights
from canary_release.ledger.engine import make_engine, said_of, shown_url
from canary_release.ledger.records import Rollout
from canary_release.ledger.schema_version import HEAD, current
from canary_release.ledger.ticks import last_ticks, server_time

FRESH_SECONDS = 180.0
"""How old the guardian's last tick may be: three periods of its DAG."""
SKEW_WARN, SKEW_FAIL = 2.0, 5.0
"""Seconds between two clocks that matter to a lease of a minute, and that spoil it."""


class Level(StrEnum):
    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Checked:
    """One line of the doctor. cure: what to do, empty where all is well."""

    level: Level
    check: str
    says: str
    cure: str = ""


def ok(check: str, says: str) -> Checked:
    return Checked(Level.OK, check, says)


def warn(check: str, says: str, cure: str) -> Checked:
    return Checked(Level.WARN, check, says, cure)


def fail(check: str, says: str, cure: str) -> Checked:
    return Checked(Level.FAIL, check, says, cure)


# -- the ledger -----------------------------------------------------------------------------------------------------


def check_ledger(url: str) -> Checked:
    """Whether it can be reached, and what its schema is, before anything brings that up to date."""
    shown = _shown(url)
    cure = "check the connection canary_ledger and that its database runs"
    try:
        engine = make_engine(url)
        try:
            version = current(engine)
        finally:
            engine.dispose()
    except (SQLAlchemyError, OSError, ImportError) as error:
        return fail("ledger", f"{shown} cannot be reached: {said_of(error, url)}", cure)
    if version is None:
        return warn(
            "ledger", f"{shown} was empty", "nothing, if this is a first installation; else it is the wrong one"
        )
    if version > HEAD:
        cure = "use the version of canary_release that wrote it; this one is older"
        return fail("ledger", f"{shown} has the schema {version}, this program knows up to {HEAD}", cure)
    if version < HEAD:
        return ok("ledger", f"{shown} answers; its schema was {version} and is now brought to {HEAD}")
    return ok("ledger", f"{shown} answers; its schema {version} is current")


def check_audit(desk: Desk) -> Checked:
    head, problems = desk.ledger.verify_audit()
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        cure = "find out who wrote to the ledger's database; compare with the task logs, which print the chain's head"
        return fail("audit chain", f"{problems[0].rstrip('.')}{more}", cure)
    return ok("audit chain", f"whole, {head.seq} entries")


def check_ledger_clock(desk: Desk) -> Checked | None:
    """None where the ledger is a file, which has no clock of its own."""
    theirs = server_time(desk.ledger)
    return None if theirs is None else _skew("clock of the ledger", theirs - desk.clock.now())


# -- the guardian ---------------------------------------------------------------------------------------------------


def check_guardian(desk: Desk) -> Checked:
    cure = "unpause the DAG canary_guardian, or run canary guard beside Airflow"
    ages = {name: desk.clock.now() - at for name, at in last_ticks(desk.ledger, GUARDIAN).items()}
    if not ages:
        return fail("guardian", "none has ever looked: an abandoned canary would keep its traffic", cure)
    said = ", ".join(f"{name.removeprefix(GUARDIAN)} {age:.0f} s ago" for name, age in sorted(ages.items()))
    if min(ages.values()) > FRESH_SECONDS:
        return fail("guardian", f"the last look is too long ago: {said}", cure)
    return ok("guardian", f"looked {said}")


def check_leases(desk: Desk) -> list[Checked]:
    rollouts = desk.ledger.unfinished()
    found = [(rollout, unwatched(rollout, desk.clock.now())) for rollout in rollouts]
    bad = [fail(f"lease of {rollout.id}", why, "canary guard --once") for rollout, why in found if why is not None]
    return bad or [ok("leases", f"{len(rollouts)} rollouts in progress, each one is being watched")]


# -- a service ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """What is looked at for one service. rollout: the one in progress. last: the newest one, None before the first."""

    release: Release
    rollout: Rollout | None = None
    last: Rollout | None = None


def find_services(desk: Desk, files: Iterable[Release]) -> tuple[list[Service], list[Checked]]:
    """The services of the ledger and of these files, and the ledger's services that cannot be looked at."""
    given = {release.service: release for release in files}
    found, bad = [], []
    for name in desk.ledger.services():
        last, rollout = last_rollout(desk, name), desk.ledger.active(name)
        release = given.pop(name, None)
        try:
            if release is None and last is not None:
                release = desk.release(last)
        except CanaryError as error:
            said = f"the release file of its last rollout is not understood any more: {error}"
            bad.append(warn(name, said, "look at the service with its present file: canary doctor FILE"))
        if release is not None:
            found.append(Service(release, rollout, last))
    return found + [Service(release) for release in given.values()], bad


def check_service(
    desk: Desk, service: Service, *, write: bool, http_time: Callable[[str], float | None]
) -> list[Checked]:
    """Its load balancer, its metrics and the clock of its load balancer."""
    name, release = service.release.service, service.release
    where = f"connection {release.load_balancer.connection}"
    try:
        seen = desk.balancer(release).get_weights()
    except CanaryError as error:
        return [fail(f"{name}: load balancer", str(error), f"check {where} and the names in the release file")]
    results = [_balancer(service, seen)]
    if write:
        results.append(_writable(desk, service, seen))
    results.append(_metrics(desk, service, seen))
    theirs = http_time(release.load_balancer.connection)
    if theirs is not None:
        # The header tells whole seconds, cut off: half a second on average.
        results.append(_skew(f"{name}: clock of the load balancer", theirs + 0.5 - desk.clock.now()))
    return results


def _balancer(service: Service, seen: Weights) -> Checked:
    name, last = service.release.service, service.last
    check, said = f"{name}: load balancer", f"{service.release.load_balancer.type} says {seen}"
    if service.rollout is not None:
        return ok(check, f"{said}; {service.rollout.id} is {service.rollout.state}")
    if FULL not in seen.shares.values():
        return fail(check, f"{said}, and no rollout is in progress", f"canary abort {name}")
    if last is not None and last.safe_side in seen.shares and seen[last.safe_side] != FULL:
        cure = "nothing, if that was meant: the next rollout starts from where the traffic is"
        return warn(check, f"{said}, but {last.id} left everything on {last.safe_side}", cure)
    return ok(check, said)


def _writable(desk: Desk, service: Service, seen: Weights) -> Checked:
    check = f"{service.release.service}: way back"
    if service.rollout is not None or FULL not in seen.shares.values():
        # Writing what was read a moment ago could undo what the rollout does meanwhile.
        return ok(check, "not tried: a rollout is in progress, or the traffic is split")
    try:
        written = desk.writer(service.release, actor="doctor").confirm_way_back(seen)
    except CanaryError as error:
        return fail(check, str(error), "without it no rollout can start; let this user write to the load balancer")
    return ok(check, f"the weights were written as they are and read back after {written.seconds:.2f} s")


def _metrics(desk: Desk, service: Service, seen: Weights) -> Checked:
    check, release = f"{service.release.service}: metrics", service.release
    stable, canary = _sides(service, seen)
    try:
        desk.source(release, stable=stable, canary=canary).read(None)
    except CanaryError as error:
        return fail(check, str(error), f"check connection {release.metrics.connection}; unread metrics pass nothing")
    return ok(check, f"{release.metrics.type} can be read")


def _sides(service: Service, seen: Weights) -> tuple[str, str]:
    if service.rollout is not None:
        return service.rollout.stable, service.rollout.canary
    first, second = service.release.backends
    return (second, first) if seen.shares.get(second) == FULL else (first, second)


def _skew(check: str, seconds: float) -> Checked:
    said = f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    if abs(seconds) <= SKEW_WARN:
        return ok(check, said)
    cure = "synchronise both clocks (chrony, systemd-timesyncd): a lease ends by the clock of who reads it"
    return fail(check, said, cure) if abs(seconds) > SKEW_FAIL else warn(check, said, cure)


def _shown(url: str) -> str:
    try:
        return shown_url(url)
    except SQLAlchemyError as error:
        raise RefusedError("the connection canary_ledger gives no database URL; correct it.") from error

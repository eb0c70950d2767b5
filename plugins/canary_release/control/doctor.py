"""``canary doctor``: everything that a rollout and its way back depend on, a line each, with the cure."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from canary_release.control import airflow_checks, doctor_checks
from canary_release.control.desk import Desk
from canary_release.control.doctor_checks import Checked, Level, Service, fail
from canary_release.control.notice_checks import check_channels
from canary_release.core.problems import CanaryError, ReleaseFileError
from canary_release.core.release import Release


def run_doctor(*, files: Sequence[str], write: bool, as_json: bool, show: Callable[[str], None] = print) -> int:
    """Look at everything and print it; 0 when nothing failed, else 1. Warnings fail nothing."""
    results: list[Checked] = []
    for result in examine(files, write=write):
        results.append(result)
        if not as_json:
            show(_line(result))
    if as_json:
        show(json.dumps([asdict(result) for result in results], indent=2))
    else:
        counts = {level: sum(result.level is level for result in results) for level in Level}
        show(", ".join(f"{count} {level}" for level, count in counts.items()))
    return 1 if any(result.level is Level.FAIL for result in results) else 0


def examine(files: Sequence[str], *, write: bool) -> Iterator[Checked]:
    """Every result as it comes; what depends on something that failed is not looked at."""
    from canary_release.hooks.airflow_runs import AirflowRuns, is_configured

    yield from examine_ledger_and_services(files, write=write)
    yield from airflow_checks.check_settings(airflow_checks.own_settings())
    yield from airflow_checks.check_dags(AirflowRuns() if is_configured() else None)


def examine_ledger_and_services(files: Sequence[str], *, write: bool) -> Iterator[Checked]:
    from canary_release.control.real_desk import open_desk, read_release
    from canary_release.hooks.ledger_connection import ledger_url
    from canary_release.hooks.server_clock import http_time

    first = _guarded("ledger", lambda: [doctor_checks.check_ledger(ledger_url())])
    yield from first
    releases: list[Release] = []
    for name in files:
        try:
            releases.append(read_release(Path(name)))
        except ReleaseFileError as error:
            yield fail(name, error.problems[0], f"canary lint {name}")
    if any(result.level is Level.FAIL for result in first):
        return
    try:
        desk = open_desk()
    except CanaryError as error:
        yield fail("ledger", str(error), "check the connection canary_ledger")
        return
    yield from examine_desk(desk, releases, write=write, http_time=http_time)


def examine_desk(
    desk: Desk, releases: Sequence[Release], *, write: bool, http_time: Callable[[str], float | None]
) -> Iterator[Checked]:
    """Everything that a desk leads to."""
    yield from _guarded("audit chain", lambda: [doctor_checks.check_audit(desk)])
    yield from _guarded("clock of the ledger", lambda: _present(doctor_checks.check_ledger_clock(desk)))
    yield from _guarded("guardian", lambda: [doctor_checks.check_guardian(desk)])
    yield from _guarded("leases", lambda: doctor_checks.check_leases(desk))
    try:
        services, bad = doctor_checks.find_services(desk, releases)
    except CanaryError as error:
        yield fail("services", str(error), "check the connection canary_ledger")
        return
    yield from bad
    for service in services:
        yield from _service(desk, service, write=write, http_time=http_time)
        yield from _guarded("notices", partial(check_channels, service.release))


def _service(
    desk: Desk, service: Service, *, write: bool, http_time: Callable[[str], float | None]
) -> Sequence[Checked]:
    def look() -> list[Checked]:
        return doctor_checks.check_service(desk, service, write=write, http_time=http_time)

    return _guarded(service.release.service, look)


def _guarded(check: str, look: Callable[[], list[Checked]]) -> list[Checked]:
    """One check that breaks must not hide the others."""
    try:
        return look()
    except CanaryError as error:
        return [fail(check, str(error), "cure that first")]
    except Exception as error:  # noqa: BLE001  a doctor that falls over helps nobody
        return [fail(check, f"could not be looked at: {type(error).__name__}: {error}", "report this")]


def _present(result: Checked | None) -> list[Checked]:
    return [] if result is None else [result]


def _line(result: Checked) -> str:
    said = " ".join(result.says.split()).rstrip(".")
    return f"{result.level:<4}  {result.check}: {said}" + (f". Cure: {result.cure}" if result.cure else "")

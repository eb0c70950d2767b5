"""What the doctor asks of Airflow: settings that endanger a rollout, and DAGs that do not run."""

import os
from pathlib import Path
from typing import Protocol

from canary_release.control.doctor_checks import Checked, fail, ok, warn
from canary_release.core.problems import CanaryError

TAG = "canary-release"
GUARDIAN_DAG = "canary_guardian"

# (section, option, the largest value that is no danger, what a larger one does)
_LIMITS = (
    ("workers", "min_heartbeat_interval", 1.0, "a task that resumes at once after deferring may be failed"),
    ("scheduler", "task_instance_heartbeat_timeout", 60.0, "a killed task is noticed so many seconds later"),
    ("scheduler", "orphaned_tasks_check_interval", 60.0, "tasks of a dead scheduler wait so many seconds"),
)


class Settings(Protocol):
    """Airflow's configuration, as far as it is asked."""

    def get(self, section: str, key: str, *, fallback: str) -> str | None: ...


class Api(Protocol):
    """Airflow's REST API, as far as it is asked; every method raises CanaryError."""

    def dags(self, tag: str) -> list[dict[str, object]]: ...

    def run_timeout(self, dag_id: str) -> str | None: ...


def own_settings() -> Settings | None:
    """The configuration of the Airflow that is installed here, None when none was ever configured."""
    home = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser()
    if not (home / "airflow.cfg").exists() and not any(name.startswith("AIRFLOW__") for name in os.environ):
        return None
    from airflow.configuration import conf

    settings: Settings = conf
    return settings


def check_settings(settings: Settings | None) -> list[Checked]:
    if settings is None:
        return [warn("airflow settings", "no Airflow is configured here", "run canary doctor where Airflow runs, too")]
    results = [_limit(settings, *limit) for limit in _LIMITS]
    database = settings.get("database", "sql_alchemy_conn", fallback="") or ""
    if database.startswith("sqlite"):
        cure = "use PostgreSQL for more than a trial: one writer at a time delays every task"
        results.append(warn("airflow metadata database", "is SQLite", cure))
    else:
        results.append(ok("airflow metadata database", f"is {database.split(':')[0].split('+')[0] or 'the default'}"))
    return results


def _limit(settings: Settings, section: str, option: str, largest: float, harm: str) -> Checked:
    check, text = f"airflow [{section}] {option}", settings.get(section, option, fallback="") or ""
    name = f"AIRFLOW__{section.upper()}__{option.upper()}"
    try:
        value = float(text)
    except ValueError:
        return warn(check, "is not a number", f"set {name}={largest:g}")
    if value > largest:
        return warn(check, f"is {value:g}: {harm}", f"set {name}={largest:g}")
    return ok(check, f"is {value:g}")


def check_dags(api: Api | None) -> list[Checked]:
    """What only the API server knows. None: there is no connection to it."""
    if api is None:
        cure = "make the connection canary_airflow (http, login, password), so that paused DAGs are noticed"
        return [warn("airflow DAGs", "not looked at: there is no connection canary_airflow", cure)]
    try:
        dags = {str(dag["dag_id"]): bool(dag["is_paused"]) for dag in api.dags(TAG)}
        limited = [dag_id for dag_id in sorted(dags) if api.run_timeout(dag_id) is not None]
    except (CanaryError, KeyError) as error:
        return [fail("airflow DAGs", f"{error}", "check connection canary_airflow and that the API server runs")]
    return [_guardian_dag(dags), _timeouts(limited, len(dags))]


def _guardian_dag(dags: dict[str, bool]) -> Checked:
    if GUARDIAN_DAG not in dags:
        return fail("airflow guardian", f"there is no DAG {GUARDIAN_DAG}", "put dags/canary_guardian.py where DAGs are")
    if dags[GUARDIAN_DAG]:
        return fail("airflow guardian", f"{GUARDIAN_DAG} is paused", f"airflow dags unpause {GUARDIAN_DAG}")
    return ok("airflow guardian", f"{GUARDIAN_DAG} is not paused")


def _timeouts(limited: list[str], count: int) -> Checked:
    if limited:
        cure = "remove dagrun_timeout: when it strikes, Airflow skips the rollback and even the teardown"
        return fail("airflow dagrun_timeout", f"set on {', '.join(limited)}", cure)
    return ok("airflow dagrun_timeout", f"on none of the {count} DAGs tagged {TAG}")

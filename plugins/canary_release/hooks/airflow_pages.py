"""Where a person finds a run, its logs and its report in Airflow's UI."""

from urllib.parse import quote


def base_url() -> str:
    """The address of Airflow's UI as its own setting ``[api] base_url`` has it, empty where it is not set."""
    from airflow.sdk.configuration import conf

    return str(conf.get("api", "base_url", fallback="") or "").rstrip("/")


def run_url(dag_id: str, run_id: str) -> str:
    """Empty where Airflow's address is not known, as are the others."""
    return _page(f"dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}")


def task_url(dag_id: str, run_id: str, task_id: str) -> str:
    return _page(f"dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}/tasks/{quote(task_id, safe='')}")


def report_url(rollout_id: str) -> str:
    return _page(f"canary/rollouts/{quote(rollout_id, safe='')}/report")


def _page(path: str) -> str:
    base = base_url()
    return f"{base}/{path}" if base.startswith(("http://", "https://")) else ""

"""One Airflow DAG for each release file in include/releases; a broken file becomes a red DAG, never a missing one."""

from pathlib import Path

from canary_release.dag_factory import release_dags

globals().update(release_dags(Path(__file__).resolve().parent.parent / "include" / "releases"))

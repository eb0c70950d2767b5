"""The only file under plugins/ that Airflow scans; the package beside it is imported, never executed by itself."""

from airflow.plugins_manager import AirflowPlugin

from canary_release.ui.lazy_app import LazyApp

PREFIX = "/canary"
# Relative, so that they also hold where Airflow is served below a path.
_STATIC = "canary/static"
_LOOKS = {
    "bundle_url": f"{_STATIC}/canary_pages.js",
    "icon": f"{_STATIC}/canary.svg",
    "icon_dark_mode": f"{_STATIC}/canary_dark.svg",
}


class CanaryReleasePlugin(AirflowPlugin):
    name = "canary_release"
    fastapi_apps = [{"app": LazyApp(), "url_prefix": PREFIX, "name": "Canary releases"}]  # noqa: RUF012  Airflow's form
    react_apps = [  # noqa: RUF012
        {"name": "Rollouts", "destination": "nav", "url_route": "rollouts", "nav_top_level": True, **_LOOKS},
        {"name": "Rollout", "destination": "dag_run", "url_route": "rollout", **_LOOKS},
        {"name": "Rollouts in progress", "destination": "dashboard", **_LOOKS},
    ]

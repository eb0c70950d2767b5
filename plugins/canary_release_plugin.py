"""The only file under plugins/ that Airflow scans; the package beside it is imported, never executed by itself."""

from airflow.plugins_manager import AirflowPlugin


class CanaryReleasePlugin(AirflowPlugin):
    name = "canary_release"

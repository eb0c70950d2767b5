"""What the Airflow of the demo and the tests is told: ``airflow.cfg`` in its home, and the secrets kept there."""

import json
import os
import secrets
from base64 import urlsafe_b64encode
from configparser import ConfigParser
from pathlib import Path

from demo.free_ports import LOOPBACK, free_ports

USER = "admin"


class AirflowSettings:
    """The settings of the Airflow in ``home``; its secrets are made when the home is first used.

    database: SQLAlchemy's URL; a SQLite file in the home when it is not given.
    """

    def __init__(self, home: Path, database: str | None = None) -> None:
        self._home, self._database = home, database
        self._secrets = _kept_secrets(home / "secrets.json")

    @property
    def password(self) -> str:
        """Of the only user."""
        return self._secrets["password"]

    def write(self, *, dags: Path, plugins: Path, port: int) -> None:
        """Into the home, readable by nobody else."""
        with open(self._passwords, "w", opener=_private) as file:
            json.dump({USER: self.password}, file)
        parser = ConfigParser(interpolation=None)
        for section, settings in self._sections(dags, plugins, port).items():
            # Airflow reads the file with interpolation.
            parser[section] = {name: value.replace("%", "%%") for name, value in settings.items()}
        with open(self._home / "airflow.cfg", "w", opener=_private) as file:
            parser.write(file)

    @property
    def _passwords(self) -> Path:
        return self._home / "passwords.json"

    def _sections(self, dags: Path, plugins: Path, port: int) -> dict[str, dict[str, str]]:
        url = f"http://{LOOPBACK}:{port}"
        return {
            "core": {
                "dags_folder": str(dags),
                "plugins_folder": str(plugins),
                "executor": "LocalExecutor",
                "parallelism": "8",
                "load_examples": "False",
                "dags_are_paused_at_creation": "False",
                "fernet_key": self._secrets["fernet_key"],
                "execution_api_server_url": f"{url}/execution/",
                "simple_auth_manager_users": f"{USER}:admin",
                "simple_auth_manager_all_admins": "False",
                "simple_auth_manager_passwords_file": str(self._passwords),
                # Gives 127.0.0.1: no name is looked up to say which host a task ran on.
                "hostname_callable": "urllib.request.localhost",
            },
            # On a busy machine its processes wait for each other longer than the 5 s that SQLite's driver allows. But
            # for as long the API server stands still when its log of actions waits for a heartbeat of its own.
            "database": {"sql_alchemy_conn": self._database or f"sqlite:///{self._home / 'airflow.db'}?timeout=20"},
            "api": {
                "host": LOOPBACK,
                "port": str(port),
                "base_url": url,
                "workers": "1",
                "secret_key": self._secrets["secret_key"],
                "log_fetch_timeout_sec": "1",
            },
            "api_auth": {"jwt_secret": self._secrets["jwt_secret"]},
            "logging": self._logging(),
            # A supervisor that waits 5 s for its next heartbeat lets the scheduler fail tasks that resume early.
            "workers": {"min_heartbeat_interval": "1"},
            "scheduler": {
                "scheduler_idle_sleep_time": "0.1",
                "task_instance_heartbeat_timeout": "60",
                "orphaned_tasks_check_interval": "60",
            },
            "dag_processor": {
                "refresh_interval": "10",
                "min_file_process_interval": "10",
                "bundle_refresh_check_interval": "2",
            },
            "metrics": {"statsd_on": "False", "otel_on": "False"},
            "traces": {"otel_on": "False"},
            "sentry": {"sentry_on": "False"},
        }

    def _logging(self) -> dict[str, str]:
        logs = self._home / "logs"
        worker_logs, triggerer_logs = free_ports(2)
        return {
            "base_log_folder": str(logs),
            "dag_processor_child_process_log_directory": str(logs / "dag_processor"),
            "colored_console_log": "False",
            # Nobody listens there; the defaults could be another Airflow's.
            "worker_log_server_port": str(worker_logs),
            "trigger_log_server_port": str(triggerer_logs),
        }


def _kept_secrets(path: Path) -> dict[str, str]:
    if path.exists():
        return dict(json.loads(path.read_text()))
    made = {
        "password": secrets.token_urlsafe(12),
        "fernet_key": urlsafe_b64encode(os.urandom(32)).decode(),
        "secret_key": secrets.token_hex(32),
        "jwt_secret": secrets.token_hex(64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", opener=_private) as file:
        json.dump(made, file)
    return made


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

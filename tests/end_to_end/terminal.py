"""The command line of somebody who has nothing but Airflow's address and a password file."""

import os
import subprocess
import sys
from pathlib import Path

from demo.stage import Stage

ROOT = Path(__file__).resolve().parents[2]


def canary(stage: Stage, tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    secret = tmp_path / "password"
    secret.write_text(stage.airflow.password)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT / "plugins"),
        "CANARY_AIRFLOW_URL": stage.airflow.url,
        "CANARY_AIRFLOW_USER": stage.airflow.user,
        "CANARY_AIRFLOW_PASSWORD_FILE": str(secret),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "canary_release", *arguments],
        cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def said(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err
    return process.returncode, out + err

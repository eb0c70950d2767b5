"""Makes .venv with everything the project needs, from a bare python3; does nothing when it is up to date.

Uses only the standard library. Debian's python3 comes without pip and ensurepip, so pip is taken from the package
index as a wheel, which runs without being installed.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "up-to-date"
INPUTS = ("requirements.txt", "requirements-dev.txt", "constraints.txt", "scripts/bootstrap.py")
REQUIREMENTS = ("-r", "requirements-dev.txt", "-c", "constraints.txt")
UV = "uv==0.13.9"


def main() -> int:
    if sys.version_info[:2] < (3, 11):  # noqa: UP036  run by whatever python3 the machine has
        print(f"setup: this project needs Python 3.11 or newer; python3 is {sys.version.split()[0]}.", file=sys.stderr)
        return 1
    wanted = fingerprint()
    if STAMP.exists() and STAMP.read_text() == wanted:
        return 0
    began = time.monotonic()
    print("setup: creating .venv and installing what requirements-dev.txt names ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV)], check=True)
    install_uv()
    subprocess.run(
        [VENV / "bin" / "uv", "pip", "install", "--quiet", "--python", PYTHON, *REQUIREMENTS],
        cwd=ROOT,
        check=True,
    )
    STAMP.write_text(wanted)
    print(f"setup: done in {time.monotonic() - began:.0f} s", flush=True)
    return 0


def fingerprint() -> str:
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def install_uv() -> None:
    """Install uv with a pip that is either python3's own or fetched for this one purpose."""
    install = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action",
        "ignore",
        "--target",
        uv_target(),
        UV,
    ]
    if has_pip():
        subprocess.run([sys.executable, "-m", "pip", *install], check=True)
    else:
        with tempfile.TemporaryDirectory() as folder:
            wheel = fetch_pip(Path(folder))
            subprocess.run([sys.executable, f"{wheel}/pip", *install], check=True)
    uv = VENV / "bin" / "uv"
    uv.unlink(missing_ok=True)
    uv.symlink_to(Path(uv_target()) / "bin" / "uv")


def uv_target() -> str:
    return str(VENV / "uv")


def has_pip() -> bool:
    return subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0


def fetch_pip(folder: Path) -> Path:
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    request = urllib.request.Request(f"{index}/pip/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = json.load(answer)["files"]
    wheels = [file for file in files if re.fullmatch(r"pip-[\d.]+-py3-none-any\.whl", file["filename"])]
    newest = max(wheels, key=lambda file: [int(part) for part in file["filename"].split("-")[1].split(".")])
    target = folder / newest["filename"]
    with urllib.request.urlopen(newest["url"], timeout=120) as answer:
        body = answer.read()
    if hashlib.sha256(body).hexdigest() != newest["hashes"]["sha256"]:
        raise SystemExit("setup: the pip wheel does not match its published checksum; try again.")
    target.write_bytes(body)
    return target


if __name__ == "__main__":
    sys.exit(main())

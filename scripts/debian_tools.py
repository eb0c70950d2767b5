"""Programs from Debian for the tests, fetched without root and without installing anything.

    python3 scripts/debian_tools.py victoria-metrics chromium

prints where each program is: on the PATH, else in ``.tools``, where it is unpacked once with the libraries that this
machine lacks. apt-get keeps its lists and packages in ``.tools``, too, and reads the machine's package sources, keys
and list of installed packages without changing them. Uses only the standard library.
"""

import argparse
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

TOOLS_FOLDER = Path(__file__).resolve().parent.parent / ".tools"
INSTALLED = Path("/var/lib/dpkg/status")
SECONDS = 900  # for one call of apt-get
_NEEDED = ("apt-get", "dpkg-deb")
# A private C library would be loaded by the machine's loader, and the two must be of one version.
_NEVER_PRIVATE = {"libc6"}
_INST = re.compile(r"^Inst (\S+) (?:\[[^]]*\] )?\((\S+) ", re.MULTILINE)


@dataclass(frozen=True)
class Tool:
    """commands: what it is called on a PATH.  packages: Debian's packages that have to be unpacked side by side, also
    when the machine has some of them.  program: the file to run, inside the first of them.
    """

    commands: tuple[str, ...]
    packages: tuple[str, ...]
    program: str


TOOLS = {
    "chromium": Tool(("chromium", "google-chrome"), ("chromium", "chromium-common"), "usr/lib/chromium/chromium"),
    "influxd": Tool(("influxd",), ("influxdb",), "usr/bin/influxd"),
    "prometheus": Tool(("prometheus",), ("prometheus",), "usr/bin/prometheus"),
    "victoria-metrics": Tool(("victoria-metrics",), ("victoria-metrics",), "usr/bin/victoria-metrics"),
}


class ToolError(Exception):
    """The program cannot be had; one sentence that says why."""


def tool(name: str, *, folder: Path = TOOLS_FOLDER, installed: Path = INSTALLED, use_path: bool = True) -> Path:
    """The program called ``name``: the one on the PATH, else a private copy below ``folder``, fetched when missing.

    Processes that ask at the same time wait for the one that fetches.  installed: dpkg's list of what the machine has
    already.  Raises ToolError.
    """
    if name not in TOOLS:
        raise ToolError(f"{name} is not known; known are {', '.join(sorted(TOOLS))}.")
    wanted = TOOLS[name]
    for command in wanted.commands if use_path else ():
        if found := shutil.which(command):
            return Path(found)
    program = folder / name / "bin" / name
    if not program.exists():
        with _alone(folder):
            if not program.exists():
                _fetch(name, wanted, folder, installed)
    return program


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Fetch programs from Debian into .tools, without root.")
    parser.add_argument("names", nargs="+", metavar="NAME", help=", ".join(sorted(TOOLS)))
    parser.add_argument("--private", action="store_true", help="do not look on the PATH")
    given = parser.parse_args(arguments)
    try:
        for name in given.names:
            print(tool(name, use_path=not given.private), flush=True)
    except ToolError as error:
        print(f"tools: {error}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ToolError(f"{folder} cannot be written ({error.strerror}).") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(name: str, wanted: Tool, folder: Path, installed: Path) -> None:
    missing = [command for command in _NEEDED if shutil.which(command) is None]
    if missing or not installed.exists():
        lacks = ", ".join(missing) or str(installed)
        raise ToolError(f"{name} is not on the PATH and cannot be fetched: this machine has no {lacks} of Debian's.")
    apt = _Apt(folder / "apt", installed)
    _say(f"{name}: reading Debian's package lists ...")
    apt.update()
    packages = apt.lacking(wanted.packages)
    _say(f"{name}: fetching {len(packages)} package{'s' * (len(packages) != 1)} ...")
    fresh = folder / f"{name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    for archive in apt.download(packages):
        _run(["dpkg-deb", "-x", str(archive), str(fresh / "root")])
        archive.unlink()
    if not os.access(fresh / "root" / wanted.program, os.X_OK):
        raise ToolError(f"The package {wanted.packages[0]} of this machine's sources has no {wanted.program}.")
    _write_wrapper(fresh, name, wanted)
    shutil.rmtree(folder / name, ignore_errors=True)
    fresh.rename(folder / name)
    _say(f"{name}: ready in {folder / name}")


class _Apt:
    """apt-get with state, cache and lists in a folder of its own; the machine's sources, keys and dpkg stay its own."""

    def __init__(self, folder: Path, installed: Path) -> None:
        self._archives = folder / "archives"
        self._configuration = folder / "apt.conf"
        for each in (folder / "lists" / "partial", folder / "cache" / "archives" / "partial", self._archives):
            each.mkdir(parents=True, exist_ok=True)
        # The machine's own follow-ups of an update write to the machine.
        lines = ["#clear APT::Update::Post-Invoke;", "#clear APT::Update::Post-Invoke-Success;"]
        settings = {
            "Dir::State": f"{folder}/",
            "Dir::State::Lists": f"{folder / 'lists'}/",
            "Dir::State::status": str(installed),
            "Dir::Cache": f"{folder / 'cache'}/",
            "Debug::NoLocking": "true",
            "APT::Sandbox::User": "",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "20",
            "Acquire::https::Timeout": "20",
        }
        lines += [f'{key} "{value}";' for key, value in settings.items()]
        self._configuration.write_text("\n".join([*lines, ""]))

    def update(self) -> None:
        # One source that fails is not the end: whether the package can be had is asked next.
        with_errors = self._call("update", check=False)
        self._said = with_errors.stderr.strip().splitlines()[-1:]

    def lacking(self, wanted: Sequence[str]) -> list[str]:
        """``name=version`` of these packages and of whatever they need that the machine does not have."""
        answer = self._call("--simulate", "--reinstall", "install", *wanted, check=False)
        found = _INST.findall(answer.stdout)
        if answer.returncode or not found:
            said = " ".join([*answer.stderr.strip().splitlines()[-1:], *self._said])
            raise ToolError(f"apt-get cannot find {wanted[0]} in this machine's package sources. {said}".strip())
        return [f"{name}={version}" for name, version in found if name.partition(":")[0] not in _NEVER_PRIVATE]

    def download(self, packages: Sequence[str]) -> list[Path]:
        for left_over in self._archives.glob("*.deb"):
            left_over.unlink()
        self._call("download", *packages)
        return sorted(self._archives.glob("*.deb"))

    def _call(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["apt-get", "--quiet", "--config-file", str(self._configuration), *arguments]
        return _run(command, cwd=self._archives, check=check)


def _run(command: list[str], *, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    shown = " ".join(Path(word).name for word in command[:2])
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ToolError(f"{shown} was not done after {SECONDS} s.") from None
    if check and done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no word"]
        raise ToolError(f"{shown} ended with code {done.returncode}: {said[0]}")
    return done


def _write_wrapper(fresh: Path, name: str, wanted: Tool) -> None:
    """A script that starts the program with the libraries and fonts that were unpacked beside it."""
    root = fresh / "root"
    libraries = sorted({file.parent.relative_to(root) for file in root.rglob("lib*.so*")})
    lines = ["#!/bin/sh", 'root="$(cd "$(dirname "$0")/../root" && pwd)"']
    if libraries:
        path = ":".join(f"$root/{place}" for place in libraries)
        lines.append(f'export LD_LIBRARY_PATH="{path}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"')
    if (root / "etc" / "fonts").is_dir():
        # fontconfig looks for fonts in $XDG_DATA_HOME/fonts.
        lines.append('export FONTCONFIG_PATH="$root/etc/fonts" XDG_DATA_HOME="$root/usr/share"')
    lines.append(f'exec "$root"/{shlex.quote(wanted.program)} "$@"')
    script = fresh / "bin" / name
    script.parent.mkdir(parents=True)
    script.write_text("\n".join([*lines, ""]))
    script.chmod(0o755)


def _say(sentence: str) -> None:
    print(f"tools: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The split_clients file of one service, and a reload of the nginx on this machine.

A reload starts new workers, and lets the old ones finish what they have. For a tenth of a second both accept
connections, so the reload is over only when the old ones have stopped listening.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from canary_release.core.problems import LoadBalancerError, UnknownTargetError

WHOLE = 10_000
TEST_SECONDS = 20.0
RELOAD_SECONDS = 5.0
RELOAD_POLL = 0.01  # seconds
WORDS = 300  # characters of nginx's own words that an error quotes
_HEAD = "# Written by canary releases: only the key after split_clients is yours to change.\n"
_KEY = re.compile(r"^split_clients (\S+|\"[^\"]*\") \$canary_", re.MULTILINE)
_SHARE = re.compile(r'"([A-Za-z0-9_.:-]+)": (\d+)')


@dataclass(frozen=True)
class SplitFile:
    """What ``include/nginx/checkout-split.conf`` is an example of."""

    file: Path
    route: str
    backends: tuple[str, str]

    def rewritten(self, text: str, units: Mapping[str, int]) -> str:
        """The file's text with these shares; UnknownTargetError or LoadBalancerError when it is not as we left it."""
        key = _KEY.search(text)
        held = {name: int(unit) for name, unit in _SHARE.findall(text)}
        if missing := [name for name in self.backends if name not in held]:
            raise UnknownTargetError(
                f"{self.file} has no share for {' and '.join(missing)}; it has {', '.join(held) or 'none'}."
            )
        if key is None or len(held) != len(self.backends) or self._rendered(key[1], held) != text:
            raise LoadBalancerError(
                f"{self.file} was edited beyond its key; begin again with include/nginx/checkout-split.conf."
            )
        return self._rendered(key[1], {name: units[name] for name in held})

    def _rendered(self, key: str, units: Mapping[str, int]) -> str:
        *first, last = sorted((name for name in units if units[name]), key=lambda name: units[name])
        lines = [f"    {100 * units[name] / WHOLE:.2f}% {name};\n" for name in first]
        shares = ", ".join(f'"{name}": {unit}' for name, unit in units.items())
        return (
            f"{_HEAD}split_clients {key} $canary_{self.route} {{\n{''.join(lines)}    * {last};\n}}\n"
            f"map '' $canary_{self.route}_shares {{\n    default '{{{shares}}}';\n}}\n"
        )


def reloaded(binary: str, config: str, prefix: str | None, pid_file: str) -> None:
    """Test the configuration, reload, and wait until no worker of before listens. Raises LoadBalancerError."""
    _test(binary, config, prefix)
    master = _master(Path(pid_file))
    before = {worker.pid for worker in _workers(master)}
    try:
        os.kill(master.pid, signal.SIGHUP)
    except PermissionError:
        raise LoadBalancerError(
            f"nginx (process {master.pid}) may not be signalled; run Airflow as its user, or use `mode: njs`."
        ) from None
    except ProcessLookupError:
        raise LoadBalancerError(f"nginx (process {master.pid}) has just ended; start it.") from None
    deadline = time.monotonic() + RELOAD_SECONDS
    while any(worker.pid in before for worker in _workers(master)):
        if time.monotonic() > deadline:
            raise LoadBalancerError(
                f"nginx did not take the new configuration over within {RELOAD_SECONDS:g} s; its error log says why."
            )
        time.sleep(RELOAD_POLL)


def _test(binary: str, config: str, prefix: str | None) -> None:
    argv = [binary, "-t", "-q", "-c", config, *(["-p", prefix] if prefix else [])]
    try:
        tested = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=TEST_SECONDS)
    except subprocess.TimeoutExpired:
        raise LoadBalancerError(f"{binary} -t took longer than {TEST_SECONDS:g} s; nothing was reloaded.") from None
    except OSError as error:
        raise LoadBalancerError(
            f"{binary} cannot be run ({error.strerror}); name nginx's program as `binary` in the connection's extra."
        ) from None
    if tested.returncode != 0:
        words = " ".join((tested.stderr or tested.stdout).split())[:WORDS] or "no reason given"
        raise LoadBalancerError(f"nginx does not accept {config}, so nothing was reloaded: {words}.")


def _master(pid_file: Path) -> psutil.Process:
    try:
        master = psutil.Process(int(pid_file.read_text().strip()))
        title = " ".join(master.cmdline())
    except (OSError, ValueError, psutil.Error):
        raise LoadBalancerError(
            f"{pid_file} names no running process; start nginx, or correct `pid_file` in the connection's extra."
        ) from None
    # The number may have passed on to a stranger.
    if not title.startswith("nginx: master"):
        raise LoadBalancerError(f"{pid_file} names process {master.pid}, which is no nginx; is nginx running?")
    return master


def _workers(master: psutil.Process) -> list[psutil.Process]:
    """The workers that listen: nginx renames one that only finishes what it has."""
    found = []
    try:
        for child in master.children():
            try:
                if " ".join(child.cmdline()).strip() == "nginx: worker process":
                    found.append(child)
            except psutil.Error:
                continue
    except psutil.Error:
        raise LoadBalancerError("nginx ended while it was reloaded; its error log says why.") from None
    return found

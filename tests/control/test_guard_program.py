"""The guard as a process: what it prints, what it survives, how it ends, what systemd hears of it."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from canary_release.control.guard_program import guard_once, guard_until_told
from canary_release.control.guardian import Finding, Kind

DRIFT = Finding(Kind.DRIFT, "shop", "shop-1", "somebody moved\nthe weights")
TAKEN_OFF = Finding(Kind.TAKEN_OFF, "shop", "shop-1", "shop-1 rolled_back")


class Scripted:
    """A guardian whose ticks are given; ``stop`` is set at the last one."""

    def __init__(self, *ticks: Callable[[], list[Finding]], stop: threading.Event | None = None) -> None:
        self._ticks, self._stop = list(ticks), stop

    def tick(self) -> list[Finding]:
        now = self._ticks.pop(0)
        if not self._ticks and self._stop is not None:
            self._stop.set()
        return now()


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def guarded(*ticks: Callable[[], list[Finding]]) -> list[str]:
    """What is printed over these ticks, without the times."""
    stop, lines = threading.Event(), []
    guardian: Any = Scripted(*ticks, stop=stop)
    assert guard_until_told(guardian, every=0.001, stop=stop, show=lines.append) == 0
    return [line.split("  ", 1)[1] for line in lines][1:-1]


def test_finding_that_lasts_is_one_line_and_each_act_is_a_line() -> None:
    assert guarded(*[lambda: [DRIFT, TAKEN_OFF]] * 3) == [
        "drift      somebody moved the weights",
        "taken_off  shop-1 rolled_back",
        "taken_off  shop-1 rolled_back",
        "taken_off  shop-1 rolled_back",
    ]


def test_tick_that_fails_is_a_line_and_the_next_one_comes() -> None:
    def broken() -> list[Finding]:
        raise RuntimeError("unforeseen")

    assert guarded(broken, lambda: [TAKEN_OFF]) == [
        "not_safe   this tick failed: RuntimeError: unforeseen",
        "taken_off  shop-1 rolled_back",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_guard_after_what_it_has_begun(number: signal.Signals) -> None:
    finished: list[bool] = []

    def told_to_stop() -> list[Finding]:
        signal.raise_signal(number)
        finished.append(True)
        return [TAKEN_OFF]

    lines: list[str] = []
    guardian: Any = Scripted(told_to_stop)
    assert guard_until_told(guardian, every=60, stop=threading.Event(), show=lines.append) == 0
    assert finished == [True]
    assert "taken_off" in lines[1]
    assert "nobody guards from here" in lines[2]


def test_systemd_hears_when_it_is_ready_and_after_every_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")  # Linux gives it a free abstract name
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + systemd.getsockname()[1:].decode())
        systemd.settimeout(5)
        guarded(lambda: [], lambda: [])
        assert [systemd.recv(100) for _ in range(3)] == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]


@pytest.mark.parametrize(("findings", "code"), [([], 0), ([TAKEN_OFF], 0), ([DRIFT], 1), ([TAKEN_OFF, DRIFT], 1)])
def test_one_look_exits_with_1_only_while_something_is_not_safe(findings: list[Finding], code: int) -> None:
    lines: list[str] = []
    guardian: Any = Scripted(lambda: findings)
    assert guard_once(guardian, show=lines.append) == code
    assert len(lines) == max(1, len(findings))

"""The access log as a metric source: real logs of real servers, rotation in all its ways, and lines that are none."""

import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import ValidationError

from canary_release.core.problems import ConnectionSettingsError, MetricSourceError
from canary_release.core.values import Counts, Cursor, Weights, Window
from canary_release.hooks import log_files
from canary_release.hooks.access_log import AccessLogSource
from canary_release.hooks.caddy import CaddyHook
from canary_release.hooks.haproxy_weights import HaproxyWeightsHook
from contracts.little_servers import Answer, LittleServer, little_server
from contracts.load_client import ask_many
from contracts.waiting import wait_until
from demo.caddy_server import CaddyServer
from demo.haproxy_weights_server import PROXY, HaproxyWeightsServer

BLUE, GREEN = "shop-blue", "shop-green"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "canary.log"
    file.write_text(line(BLUE))
    connect(file, monkeypatch)
    return file


def connect(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LOG", json.dumps({"conn_type": "generic", "extra": {"file": str(file)}}))


def source(clock: Callable[[], float] | None = None, **options: object) -> AccessLogSource:
    ticks = iter(range(1000, 100_000))
    read = AccessLogSource.Options.model_validate(options)
    return AccessLogSource("log", BLUE, GREEN, read, clock=clock or (lambda: float(next(ticks))))


def line(backend: str, status: int | str = 200, seconds: object = 0.004) -> str:
    return json.dumps({"backend": backend, "status": status, "seconds": seconds}) + "\n"


def add(file: Path, *lines: str) -> None:
    with file.open("a") as handle:
        handle.write("".join(lines))


def read(one: AccessLogSource, cursor: Cursor) -> tuple[Window, Cursor]:
    windows, cursor = one.read(json.loads(json.dumps(cursor)))
    assert len(windows) == 1
    return windows[0], cursor


def requests(window: Window) -> tuple[int, int]:
    assert window.broken is None
    return tuple(side.requests if side else 0 for side in (window.stable, window.canary))  # type: ignore[return-value]


def test_requests_errors_and_times_are_counted_by_side(log: Path) -> None:
    one = source(edges=[0.005, 0.01])
    _, cursor = one.read(None)
    add(log, line(BLUE), line(GREEN, 503, 0.005), line(GREEN, "200", "0.0051"), line("red", 500), line(BLUE, 404, 1))
    window, _ = read(one, cursor)
    assert window.stable == Counts(2, 0, (1, 0, 1))
    assert window.canary == Counts(2, 1, (1, 1, 0))
    assert window.edges == (0.005, 0.01)


def test_what_happens_while_it_settles_is_not_counted(log: Path) -> None:
    one = source(settle="2s")
    _, cursor = one.read(None)
    for _ in range(2):
        add(log, *[line(BLUE, 500)] * 9)
        windows, cursor = one.read(json.loads(json.dumps(cursor)))
        assert windows == []
    add(log, line(BLUE))
    window, _ = read(one, cursor)
    assert (window.start, window.end, window.stable) == (
        1002,
        1003,
        Counts(1, 0, window.stable.buckets if window.stable else ()),
    )


def test_milliseconds_other_keys_and_other_names(log: Path) -> None:
    keys = {"backend": "upstream", "status": "code", "time": "ms", "time_unit": "milliseconds"}
    one = source(**keys, names={GREEN: "10.0.0.12:8080"}, edges=[0.005])
    _, cursor = one.read(None)
    add(
        log,
        '{"upstream": "10.0.0.12:8080", "code": 200, "ms": 5}\n',
        '{"upstream": "shop-blue", "code": 200, "ms": 6}\n',
    )
    add(log, '{"code": 404, "ms": 0}\n')
    window, _ = read(one, cursor)
    assert window.canary == Counts(1, 0, (1, 0))
    assert window.stable == Counts(1, 0, (0, 1))


def test_syslogs_words_before_a_line_and_what_else_the_server_says_are_passed_over(log: Path) -> None:
    one = source()
    _, cursor = one.read(None)
    add(log, "<134>Jan 31 10:00:00 edge haproxy[7]: " + line(GREEN), "[NOTICE] new worker forked\n", "\n")
    window, _ = read(one, cursor)
    assert requests(window) == (0, 1)


def test_requests_that_the_client_gave_up_are_not_counted(log: Path) -> None:
    one = source()
    _, cursor = one.read(None)
    add(log, line(GREEN, -1, -1), line(GREEN, 200, -1), line(GREEN, -1, 0.1))
    assert requests(read(one, cursor)[0]) == (0, 0)


def test_a_side_is_absent_until_the_log_names_it_and_then_has_zero(log: Path) -> None:
    one = source()
    _, cursor = one.read(None)
    window, cursor = read(one, cursor)
    assert (window.stable, window.canary) == (None, None)
    add(log, line(GREEN))
    window, cursor = read(one, cursor)
    assert window.stable is None
    window, cursor = read(one, cursor)
    assert window.canary is not None
    assert window.canary.requests == 0


def test_half_a_line_is_left_until_it_is_whole(log: Path) -> None:
    add(log, line(GREEN)[:20])
    one = source()
    _, cursor = one.read(None)
    add(log, line(GREEN)[20:], line(BLUE)[:-1])
    window, cursor = read(one, cursor)
    assert requests(window) == (0, 1)
    add(log, "\n")
    assert requests(read(one, cursor)[0]) == (1, 0)


def test_a_log_that_is_moved_away_is_read_to_its_end_and_the_new_one_from_its_beginning(log: Path) -> None:
    one = source()
    _, cursor = one.read(None)
    add(log, line(BLUE))
    old = log.rename(log.with_name("canary.log.1"))
    # Not told to open a new one yet.
    add(old, line(GREEN))
    window, cursor = read(one, cursor)
    assert requests(window) == (1, 1)
    add(old, line(GREEN))
    log.write_text(line(BLUE) * 3)
    window, cursor = read(one, cursor)
    assert requests(window) == (3, 1)
    # One worker was late.
    add(old, line(GREEN))
    add(log, line(BLUE))
    window, cursor = read(one, cursor)
    assert requests(window) == (1, 1)
    # What was read is packed.
    with gzip.open(log.with_name("canary.log.2.gz"), "wb") as packed:
        packed.write(old.read_bytes())
    old.unlink()
    add(log, line(BLUE))
    assert requests(read(one, cursor)[0]) == (1, 0)


@pytest.mark.parametrize(
    "names", [("canary.log.2", "canary.log.1"), ("canary-2026-01-31.log", "canary-2026-02-01.log")]
)
def test_two_rotations_between_two_looks_lose_nothing(log: Path, names: tuple[str, str]) -> None:
    one = source()
    _, cursor = one.read(None)
    add(log, line(BLUE))
    for number, name in enumerate(names, start=1):
        log.rename(log.with_name(name))
        os.utime(log.with_name(name), (number, number))
        log.write_text(line(GREEN) * 10**number)
    log.with_name("canary_other.log").write_text(line(GREEN) * 5)
    window, cursor = read(one, cursor)
    assert requests(window) == (1, 110)
    assert requests(read(one, cursor)[0]) == (0, 0)


def cut(log: Path) -> None:
    log.write_text("")


def replace(log: Path) -> None:
    log.rename(log.with_name("elsewhere"))
    log.write_text(line(BLUE, 200, 0.1) * 9)


def rewrite(log: Path) -> None:
    log.write_text(line(GREEN, 200, 0.123) * 9)


def pack(log: Path) -> None:
    with gzip.open(log.with_name("canary.log.1.gz"), "wb") as packed:
        packed.write(log.read_bytes())
    log.unlink()
    log.write_text(line(BLUE) * 9)


@pytest.mark.parametrize("lose", [cut, replace, rewrite, pack])
def test_a_log_that_is_lost_before_its_end_was_read_breaks_one_window(log: Path, lose: Callable[[Path], None]) -> None:
    add(log, line(GREEN))
    one = source()
    _, cursor = one.read(None)
    add(log, line(GREEN))
    lose(log)
    window, cursor = read(one, cursor)
    assert window.broken is not None
    assert "before it was read to its end" in window.broken
    assert (window.stable, window.canary) == (None, None)
    add(log, line(GREEN), line(GREEN))
    assert requests(read(one, cursor)[0]) == (0, 2)


@pytest.mark.parametrize(
    "bad",
    [
        '{"backend": "shop-green"}\n',
        '{"backend": "shop-green", "status": "many", "seconds": 1}\n',
        '{"backend": "shop-green", "status": 200, "seconds": "soon"}\n',
        '{"backend": "shop-green", "status": 200, \n',
        '{"backend": "shop-green", "status": null, "seconds": 1}\n',
        '{"a":' * 2000 + "\n",
        "{" + "x" * 70_000 + "\n",
    ],
)
def test_a_line_that_is_not_what_the_options_say_breaks_one_window_and_is_shown(log: Path, bad: str) -> None:
    one = source()
    _, cursor = one.read(None)
    add(log, line(GREEN), bad, line(GREEN))
    window, cursor = read(one, cursor)
    assert window.broken is not None
    assert "not what the options say" in window.broken or "longer than 64 KiB" in window.broken
    add(log, line(GREEN))
    assert requests(read(one, cursor)[0]) == (0, 1)


def test_more_than_can_be_read_at_once_breaks_one_window(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MOST_AT_ONCE", 1000)
    one = source()
    _, cursor = one.read(None)
    add(log, line(GREEN) * 50)
    window, cursor = read(one, cursor)
    assert "were logged since the last look" in (window.broken or "")
    assert requests(read(one, cursor)[0]) == (0, 0)


def test_a_clock_that_stands_still_breaks_the_window(log: Path) -> None:
    one = source(clock=lambda: 7.0)
    _, cursor = one.read(None)
    window, _ = read(one, cursor)
    assert "clock" in (window.broken or "")


def test_a_log_that_is_not_there_has_no_baseline(log: Path) -> None:
    log.unlink()
    with pytest.raises(MetricSourceError, match=r"canary\.log cannot be read"):
        source().read(None)


def test_a_log_that_is_not_there_for_one_look_leaves_the_cursor_good(log: Path) -> None:
    one = source()
    _, cursor = one.read(None)
    add(log, line(GREEN))
    log.rename(log.with_name("elsewhere"))
    with pytest.raises(MetricSourceError, match=r"canary\.log cannot be read"):
        one.read(cursor)
    log.with_name("elsewhere").rename(log)
    assert requests(read(one, cursor)[0]) == (0, 1)


@pytest.mark.parametrize(
    "cursor",
    [
        {},
        {"time": 1},
        {"time": 1, "files": [], "seen": []},
        {"time": 1, "files": [{"inode": 1}], "seen": []},
        {"files": 3},
    ],
)
def test_a_cursor_of_another_source_is_refused(log: Path, cursor: Cursor) -> None:
    with pytest.raises(MetricSourceError, match="not made by this metric source"):
        source().read(cursor)


@pytest.mark.parametrize("edges", [[], [0], [-1, 1], [1, 1], [2, 1], [float("inf")]])
def test_edges_that_do_not_rise_are_refused(edges: list[float]) -> None:
    with pytest.raises(ValidationError, match="edges"):
        AccessLogSource.Options.model_validate({"edges": edges})


@pytest.mark.parametrize(
    ("connection", "words"),
    [
        ({"conn_type": "http", "host": "lb"}, "must be generic"),
        ({"conn_type": "generic"}, "file"),
        ({"conn_type": "generic", "extra": {"file": "relative.log"}}, "file"),
    ],
)
def test_a_connection_without_a_log_is_refused(
    connection: dict[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LOG", json.dumps(connection))
    with pytest.raises(ConnectionSettingsError, match=words):
        source().read(None)


@pytest.fixture
def backends() -> Iterator[dict[str, LittleServer]]:
    with ExitStack() as started:
        yield {name: started.enter_context(little_server(Answer(name.encode()))) for name in (BLUE, GREEN)}


def half() -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(50))


def compared(one: AccessLogSource, url: str, log: Path, backends: dict[str, LittleServer]) -> None:
    """Ask while the canary fails each time; the window must say what the clients saw."""
    _, cursor = one.read(None)
    before = log.read_text().count('"status"')
    backends[GREEN].default = Answer(b"broken", status=503)
    answers: Counter[tuple[str, int]] = ask_many(url, 100)
    wait_until(lambda: log.read_text().count('"status"') >= before + 100, "100 lines in the log")
    window, _ = read(one, cursor)
    assert window.stable is not None
    assert window.canary is not None
    assert (window.stable.requests, window.stable.errors) == (answers[(BLUE, 200)], 0)
    assert (window.canary.requests, window.canary.errors) == (answers[("broken", 503)],) * 2
    # HAProxy's round robin is exact over a whole turn of 200.
    assert window.canary.requests == pytest.approx(50, abs=1)
    assert sum(window.stable.buckets) == window.stable.requests


def test_haproxys_own_log_says_what_the_clients_saw(
    tmp_path: Path, backends: dict[str, LittleServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with HaproxyWeightsServer(tmp_path, {name: one.url for name, one in backends.items()}) as haproxy:
        monkeypatch.setenv("AIRFLOW_CONN_WEIGHTS", json.dumps(haproxy.connection()))
        HaproxyWeightsHook("weights", (BLUE, GREEN), HaproxyWeightsHook.Options(proxy=PROXY)).set_weights(half())
        log = tmp_path / "haproxy.log"
        connect(log, monkeypatch)
        compared(source(time="milliseconds", time_unit="milliseconds"), haproxy.url, log, backends)


def test_caddys_own_log_says_what_the_clients_saw(
    tmp_path: Path, backends: dict[str, LittleServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with CaddyServer(tmp_path, {name: one.url for name, one in backends.items()}) as caddy:
        monkeypatch.setenv("AIRFLOW_CONN_CADDY", json.dumps(caddy.connection()))
        options = CaddyHook.Options(route="shop", upstreams=caddy.upstreams)
        CaddyHook("caddy", (BLUE, GREEN), options).set_weights(half())
        ask_many(caddy.url, 2)
        wait_until(caddy.access_log.exists, "the log")
        connect(caddy.access_log, monkeypatch)
        one = source(backend="upstream", time="duration", names=caddy.upstreams)
        compared(one, caddy.url, caddy.access_log, backends)

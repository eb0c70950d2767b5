"""Our metrics on a real socket, sent by Airflow's own loggers for StatsD and OpenTelemetry."""

import atexit
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from airflow.sdk._shared.observability.metrics import stats as state
from airflow.sdk._shared.observability.metrics.otel_logger import flush_otel_metrics, get_otel_logger
from airflow.sdk._shared.observability.metrics.statsd_logger import get_statsd_logger
from airflow.sdk.observability import stats

from canary_release import figures
from canary_release.control.ending import promote, roll_back
from canary_release.control.guardian import Guardian
from canary_release.control.stepping import observe, shift
from canary_release.core.values import Decision
from control.world import GREEN, World, a_release

ROOT = Path(__file__).resolve().parents[2]
NAMES = (*figures.GAUGES, *figures.COUNTERS, *figures.TIMERS)


class UdpClient:
    """The four calls of a StatsD client that Airflow's logger makes, in the protocol's words."""

    def __init__(self, host: str, port: int, prefix: str, ipv6: bool) -> None:
        self._to = (host, port)
        self._prefix = prefix
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def incr(self, stat: str, count: int = 1, rate: float = 1) -> None:
        self._say(f"{stat}:{count}|c")

    def decr(self, stat: str, count: int = 1, rate: float = 1) -> None:
        self._say(f"{stat}:{-count}|c")

    def gauge(self, stat: str, value: float, rate: float = 1, delta: bool = False) -> None:
        self._say(f"{stat}:{value}|g")

    def timing(self, stat: str, delta: float, rate: float = 1) -> None:
        self._say(f"{stat}:{delta:.6f}|ms")

    def _say(self, line: str) -> None:
        self._socket.sendto(f"{self._prefix}.{line}".encode(), self._to)


@dataclass
class Heard:
    """Everything a StatsD server was sent: by name and tags, the values in their order."""

    socket: socket.socket
    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def read(self) -> dict[str, list[float]]:
        """On one machine a datagram has arrived when it was sent."""
        self.socket.setblocking(False)
        while True:
            try:
                line = self.socket.recv(65_536).decode()
            except BlockingIOError:
                return self.values
            name, value, _ = re.fullmatch(r"airflow\.(.+):(-?[0-9.e+-]+)\|(c|g|ms)", line).groups()  # type: ignore[union-attr]
            self.values[name].append(float(value))


@pytest.fixture
def begun() -> Iterator[None]:
    """Whatever a test begins, the next one finds nothing begun."""
    yield
    state._factory = state._backend = None
    figures._stats.cache_clear()


@pytest.fixture
def statsd(begun: None) -> Iterator[Heard]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        host, port = server.getsockname()

        def factory() -> object:
            return get_statsd_logger(
                stats_class=UdpClient,  # type: ignore[arg-type]
                host=host,
                port=port,
                prefix="airflow",
                influxdb_tags_enabled=True,
                statsd_influxdb_enabled=True,
            )

        stats.initialize(factory=factory, export_legacy_names=False)  # type: ignore[arg-type]
        yield Heard(server)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path, a_release(5, 100, bake=15.0))
    world.desk.figures = figures.AirflowFigures()
    return world


def baked(world: World, rollout_id: str, index: int) -> Decision:
    shift(world.desk, world.ledger.rollout(rollout_id), index, actor="task")
    for _ in range(120):
        world.clock.sleep(1)
        seen = observe(world.desk, rollout_id, index, actor="watcher")
        if seen.decision is not Decision.HOLD:
            return seen.decision
    raise AssertionError("it was never decided")


def rolled_back(world: World) -> None:
    rollout = world.start().rollout
    world.metrics.error_rate[GREEN] = 0.3
    assert baked(world, rollout.id, 0) is Decision.ROLL_BACK
    roll_back(world.desk, rollout, "a task failed", actor="task")


def test_rollback_is_measured_from_the_first_look_to_weight_0(world: World, statsd: Heard) -> None:
    rolled_back(world)
    heard = statsd.read()
    # The task that records the end gives everything back once more.
    assert heard["canary.weight,service=shop"] == [5.0, 0.0, 0.0]
    assert heard["canary.finished,service=shop,outcome=rolled_back"] == [1.0]
    assert heard["canary.phase,service=shop"][-1] == 0.0
    (latency,) = heard["canary.rollback_latency,service=shop"]
    (harm,) = heard["canary.harm_to_zero,service=shop"]
    assert 0 <= latency <= harm <= 60_000
    canary = heard["canary.check.value,side=canary,service=shop,check=error_rate"]
    stable = heard["canary.check.value,side=stable,service=shop,check=error_rate"]
    assert len(canary) == len(stable) > 0
    assert canary[-1] > 0.2 > 0.01 > stable[-1]
    assert heard["canary.evidence,service=shop"][-1] > 100


def test_promotion_is_measured(world: World, statsd: Heard) -> None:
    rollout = world.start().rollout
    assert [baked(world, rollout.id, index) for index in range(2)] == [Decision.ADVANCE, Decision.PROMOTE]
    promote(world.desk, world.ledger.rollout(rollout.id), actor="task")
    heard = statsd.read()
    assert heard["canary.finished,service=shop,outcome=promoted"] == [1.0]
    assert heard["canary.weight,service=shop"][-1] == 100.0
    (milliseconds,) = heard["canary.duration,service=shop"]
    ended = world.ledger.rollout(rollout.id)
    assert milliseconds == pytest.approx(1000 * ((ended.ended_at or 0) - ended.started_at))
    assert "canary.harm_to_zero,service=shop" not in heard


def test_guardian_says_when_it_last_looked(world: World, statsd: Heard) -> None:
    Guardian(lambda: world.desk, name="test").tick()
    assert statsd.read()["canary.guardian.last_tick"] == [world.clock.now()]


def test_nothing_is_sent_that_is_not_documented_and_everything_documented_is_sent(world: World, statsd: Heard) -> None:
    rolled_back(world)
    Guardian(lambda: world.desk, name="test").tick()
    sent = {name.partition(",")[0] for name in statsd.read()}
    assert sent == set(NAMES)
    page = (ROOT / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"`(canary\.[a-z_.]+)`", page)) == set(NAMES)


def test_metrics_that_cannot_be_sent_change_nothing(world: World, begun: None) -> None:
    def broken() -> object:
        raise RuntimeError("no metrics today")

    stats.initialize(factory=broken, export_legacy_names=False)  # type: ignore[arg-type]
    rolled_back(world)
    assert world.canary_percent == 0


def test_process_that_is_not_airflows_begins_its_metrics_by_airflows_configuration(
    world: World, begun: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def factory() -> Callable[[], object]:
        asked.append("factory")
        return state.NoStatsLogger

    monkeypatch.setattr("airflow.sdk.observability.metrics.stats_utils.get_stats_factory", factory)
    state._factory = state._backend = None
    Guardian(lambda: world.desk, name="test").tick()
    assert asked == ["factory"]


def test_opentelemetry_is_sent_the_same_names(world: World, begun: None, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies: list[bytes] = []
    arrived = threading.Event()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            arrived.set()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}/v1/metrics"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    try:
        stats.initialize(factory=lambda: get_otel_logger(prefix="airflow"), export_legacy_names=False)
        rolled_back(world)
        Guardian(lambda: world.desk, name="test").tick()
        arrived.clear()
        assert arrived.wait(15), "nothing was exported"
        arrived.clear()
        assert arrived.wait(15), "nothing was exported a second time"
    finally:
        from opentelemetry import metrics

        # Airflow flushes once more when the process ends, and nobody will be there.
        atexit.unregister(flush_otel_metrics)
        metrics.get_meter_provider().shutdown()  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
        thread.join(5)
    assert {name for name in NAMES if f"airflow.{name}".encode() in bodies[-1]} == set(NAMES)

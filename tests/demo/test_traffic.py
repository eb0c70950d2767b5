"""The load generator counts what the shop counts, and notices every request that got lost."""

import asyncio
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from demo import traffic_log
from demo.free_ports import free_port
from demo.processes import ProcessError
from demo.shop_server import CHILD_ENVIRONMENT, ShopServer, ask
from demo.traefik_server import TraefikServer
from demo.traffic import MAX_OPEN, Traffic
from demo.traffic_log import Second
from demo.traffic_server import TrafficServer

ANSWER = b"HTTP/1.1 200 OK\r\nX-Backend: b\r\nX-Version: v1\r\nContent-Length: 2\r\n\r\nok"
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def wait_for(question: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not question():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def records_against(serve: Serve, enough: Callable[[Second], bool], *, rate: float = 200.0) -> list[Second]:
    """What the clients record against a server that handles each connection with ``serve``, until it is enough."""

    async def run() -> list[Second]:
        handlers: set[asyncio.Task[None]] = set()

        async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            handlers.add(task)
            try:
                await serve(reader, writer)
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(connection, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        log = io.StringIO()
        traffic = Traffic(f"http://127.0.0.1:{port}", rate, log, timeout=0.3)
        stop = asyncio.Event()
        running = asyncio.create_task(traffic.run(stop))
        async with asyncio.timeout(20):
            while not enough(traffic.recorder.total()):
                await asyncio.sleep(0.01)
            stop.set()
            await running
        server.close()
        for handler in handlers:
            handler.cancel()
        return [traffic_log.from_json(json.loads(line)) for line in log.getvalue().splitlines()]

    return asyncio.run(run())


def lost_at_least(count: int) -> Callable[[Second], bool]:
    return lambda total: sum(total.lost.values()) >= count


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def cut_the_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ANSWER.replace(b"Content-Length: 2", b"Content-Length: 20"))
    await writer.drain()


async def answer_503_itself(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    ("serve", "reason"),
    [(hang_up, "reset"), (hang, "timeout"), (cut_the_body, "cut"), (answer_503_itself, "503")],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_request_without_an_answer_of_the_application_is_lost_and_nobodys_error(serve: Serve, reason: str) -> None:
    records = records_against(serve, lost_at_least(20))
    assert set(traffic_log.lost_by_reason(records)) == {reason}
    assert traffic_log.answers_of(records) is None


def test_request_that_the_client_library_repeats_silently_is_lost_all_the_same() -> None:
    received = []

    async def hang_up_on_the_second_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(ANSWER)
        received.append(await reader.readuntil(b"\r\n\r\n"))

    records = records_against(hang_up_on_the_second_request, lambda total: len(received) >= 20, rate=50.0)
    answered = traffic_log.answers_of(records, "v1")
    assert answered is not None
    assert answered.errors == 0
    assert set(traffic_log.lost_by_reason(records)) == {"reset"}
    assert answered.requests + traffic_log.lost(records) == len(received)


def test_server_that_never_answers_is_not_buried_under_ever_more_requests() -> None:
    records = records_against(hang, lambda total: total.held_back > 0, rate=4000.0)
    assert max(sum(each.lost.values()) + sum(a.requests for a in each.answers) for each in records) > 0
    assert traffic_log.lost(records) >= MAX_OPEN
    assert sum(each.held_back for each in records) > 0


def test_refused_connections_are_lost_requests(tmp_path: Path) -> None:
    with TrafficServer(tmp_path, f"http://127.0.0.1:{free_port()}", rate=100) as traffic:
        wait_for(lambda: traffic.counts()["lost"].get("refused", 0) >= 50)
        counts = traffic.counts()
    assert counts["requests"] == counts["lost"]["refused"]
    assert counts["answers"] == []


def app_counts(*shops: ShopServer) -> dict[tuple[str, str], tuple[int, int]]:
    return {
        (shop.name, version): (counts["requests"], counts["errors"])
        for shop in shops
        for version, counts in shop.counts().items()
    }


def client_counts(records: list[Second]) -> dict[tuple[str, str], tuple[int, int]]:
    found = {}
    for backend, version in {(a.backend, a.version) for each in records for a in each.answers}:
        answers = traffic_log.answers_of(records, version, backend=backend)
        assert answers is not None
        found[backend, version] = (answers.requests, answers.errors)
    return found


@pytest.mark.slow
def test_clients_and_shops_count_the_same_through_a_real_traefik(tmp_path: Path) -> None:
    with (
        ShopServer(tmp_path, "shop-blue", "v1") as blue,
        ShopServer(tmp_path, "shop-green", "v1") as green,
        traefik(tmp_path, blue, green) as balancer,
        TrafficServer(tmp_path, balancer.url, rate=300) as traffic,
    ):
        wait_for(lambda: traffic.counts()["requests"] >= 300)
        green.deploy("v2", error_rate=0.3, slow_by=4.0)
        wait_for(lambda: "v2" in green.counts() and green.counts()["v2"]["errors"] >= 20)
        asked = traffic.seconds()
        traffic.stop()
        records = traffic.recorded()
        assert client_counts(records) == app_counts(blue, green)
    assert records[: len(asked)] == asked
    assert [each.second for each in records] == list(range(records[0].second, records[-1].second + 1))
    assert traffic_log.lost(records) == 0
    # Traefik deals out weights in a fixed order, so the share is exact but for the ends and the connections.
    share = traffic_log.share_observed(records, backend="shop-green")
    assert share == pytest.approx(0.2, abs=0.02)
    slow, quick = traffic_log.latency(records, "v2", 0.5), traffic_log.latency(records, "v1", 0.5)
    assert slow is not None
    assert quick is not None
    assert slow > 1.4 * quick


@pytest.mark.slow
def test_backend_that_is_killed_behind_a_real_traefik_shows_as_lost_requests(tmp_path: Path) -> None:
    with (
        ShopServer(tmp_path, "shop-blue", "v1") as blue,
        ShopServer(tmp_path, "shop-green", "v2") as green,
        traefik(tmp_path, blue, green) as balancer,
        TrafficServer(tmp_path, balancer.url, rate=200) as traffic,
    ):
        wait_for(lambda: {a["version"] for a in traffic.counts()["answers"]} == {"v1", "v2"})
        assert traffic.counts()["lost"] == {}
        killed_at = time.time()
        green.process.kill()
        wait_for(lambda: traffic.counts()["lost"].get("502", 0) >= 20)
        traffic.stop()
        records = traffic.recorded()
    assert set(traffic_log.lost_by_reason(records)) == {"502"}
    last = traffic_log.answers_of(records, "v2")
    assert last is not None
    assert last.last <= killed_at + 0.5
    assert traffic_log.error_rate(records, "v1") == 0.0


@pytest.mark.slow
def test_three_hundred_requests_a_second_cost_less_than_a_quarter_of_a_core(tmp_path: Path) -> None:
    with (
        ShopServer(tmp_path, "shop-blue", "v1") as blue,
        ShopServer(tmp_path, "shop-green", "v1") as green,
        traefik(tmp_path, blue, green) as balancer,
        TrafficServer(tmp_path, balancer.url, rate=300) as traffic,
    ):
        wait_for(lambda: traffic.counts()["requests"] >= 300)
        programs = {
            "traffic": traffic.process,
            "blue": blue.process,
            "green": green.process,
            "traefik": balancer.process,
        }
        before, began = {name: cpu_seconds(each.pid) for name, each in programs.items()}, traffic.counts()
        wait_for(lambda: traffic.counts()["requests"] >= began["requests"] + 1500)
        after, ended = {name: cpu_seconds(each.pid) for name, each in programs.items()}, traffic.counts()
    elapsed = ended["now"] - began["now"]
    cost = {name: (after[name] - before[name]) / elapsed for name in programs}
    print("share of one core at 300 requests/s:", {name: f"{share:.1%}" for name, share in cost.items()})
    assert (ended["requests"] - began["requests"]) / elapsed == pytest.approx(300, rel=0.05)
    assert cost["traffic"] < 0.25, cost
    assert sum(cost.values()) < 0.9, cost


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def traefik(folder: Path, blue: ShopServer, green: ShopServer) -> TraefikServer:
    backends = {blue.name: blue.url, green.name: green.url}
    return TraefikServer(folder, backends, start_weights={blue.name: 8000, green.name: 2000})


def test_question_for_seconds_from_nonsense_is_refused_in_words(tmp_path: Path) -> None:
    with TrafficServer(tmp_path, f"http://127.0.0.1:{free_port()}", rate=1) as traffic:
        with pytest.raises(ProcessError, match="seconds since the epoch are needed"):
            ask("GET", f"{traffic.url}/seconds?from=yesterday")
        assert ask("GET", f"{traffic.url}/seconds?from=1e12") == []


def run_traffic(folder: Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    arguments: dict[str, Any] = {"url": "http://127.0.0.1:1", "rate": "10", "folder": folder, "port": "8090", **changes}
    argv = [sys.executable, "-m", "demo.traffic", *(f"--{name}={value}" for name, value in arguments.items())]
    return subprocess.run(argv, env=CHILD_ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": "0"},
        {"rate": "nan"},
        {"rate": "1e9"},
        {"url": "ftp://127.0.0.1"},
        {"url": "http://["},
        {"url": "http://127.0.0.1:99999"},
        {"url": "http://"},
        {"port": "-1"},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_before_anything_is_sent(tmp_path: Path, wrong: dict[str, str]) -> None:
    ended = run_traffic(tmp_path, **wrong)
    assert ended.returncode == 2
    assert "; use " in ended.stderr
    assert "Traceback" not in ended.stderr


def test_taken_port_and_unusable_folder_are_one_sentence_each(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        no_port = run_traffic(tmp_path, port=port)
    (tmp_path / "file").write_text("")
    no_folder = run_traffic(tmp_path / "file")
    for ended, words in ((no_port, f"port {port}"), (no_folder, "file")):
        assert ended.returncode == 1
        assert words in ended.stderr
        assert ended.stderr.count("\n") == 1


def test_full_disk_ends_the_run_in_words_instead_of_losing_records(tmp_path: Path) -> None:
    (tmp_path / "traffic.jsonl").symlink_to("/dev/full")
    ended = run_traffic(tmp_path, port=str(free_port()))
    assert ended.returncode == 1
    assert "No space left" in ended.stderr
    assert "Traceback" not in ended.stderr

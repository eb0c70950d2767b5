"""The demo's shop: its knobs are really applied, and nobody turns them by accident."""

import asyncio
import json
import math
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from demo.processes import ProcessError
from demo.shop import Knobs, KnobsError
from demo.shop_server import CHILD_ENVIRONMENT, ShopServer

TOGETHER = 20  # requests open at once; few enough that the shop does not queue them


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShopServer]:
    with ShopServer(tmp_path_factory.mktemp("shop"), "shop-blue", "v1") as server:
        yield server


def visit(url: str, requests: int) -> list[tuple[int, str, str, float]]:
    """Status, version, backend and seconds of each of so many requests."""

    async def visitor(session: aiohttp.ClientSession, seen: list[tuple[int, str, str, float]]) -> None:
        for _ in range(requests // TOGETHER):
            began = time.monotonic()
            async with session.get(url) as response:
                await response.read()
            spent = time.monotonic() - began
            seen.append((response.status, response.headers["X-Version"], response.headers["X-Backend"], spent))

    async def everyone() -> list[tuple[int, str, str, float]]:
        seen: list[tuple[int, str, str, float]] = []
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(visitor(session, seen) for _ in range(TOGETHER)))
        return seen

    return asyncio.run(everyone())


def request(method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, str]:
    async def once() -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, data=body or None, headers=headers) as response,
        ):
            return response.status, await response.text()

    return asyncio.run(once())


def test_healthy_version_says_who_answered_and_never_fails(shop: ShopServer) -> None:
    shop.deploy("v1")
    seen = visit(f"{shop.url}/", 200)
    assert {(status, version, backend) for status, version, backend, _ in seen} == {(200, "v1", "shop-blue")}


def test_page_and_data_carry_the_version_and_the_catalogue(shop: ShopServer) -> None:
    shop.deploy("v1.7")
    assert "This is version v1.7." in request("GET", f"{shop.url}/")[1]
    products = json.loads(request("GET", f"{shop.url}/api/products")[1])
    assert json.loads(request("GET", f"{shop.url}/api/products/2")[1]) == products[1]
    assert request("GET", f"{shop.url}/api/products/99")[0] == 404


def test_error_rate_of_20_percent_fails_every_fifth_request(shop: ShopServer) -> None:
    shop.deploy("v-bad", error_rate=0.2)
    requests, rate = 800, 0.2
    failed = sum(status == 500 for status, *_ in visit(f"{shop.url}/", requests))
    # Six standard deviations of a binomial: a fair shop fails this once in 500 million runs.
    assert abs(failed - requests * rate) < 6 * math.sqrt(requests * rate * (1 - rate))
    assert shop.counts()["v-bad"] == {"requests": requests, "errors": failed}


def test_version_that_is_900_percent_slower_takes_ten_times_as_long(shop: ShopServer) -> None:
    shop.deploy("v-quick")
    quick = statistics.median(seconds for *_, seconds in visit(f"{shop.url}/", 300))
    shop.deploy("v-slow", slow_by=9.0)
    slow = statistics.median(seconds for *_, seconds in visit(f"{shop.url}/", 300))
    # Less than ten times on a busy machine, as what the network and the client take stays the same.
    assert 4.0 < slow / quick < 12.0
    assert quick > 0.008
    assert slow > 0.080


def test_deploying_a_version_forgets_how_bad_the_last_one_was(shop: ShopServer) -> None:
    shop.deploy("v2", error_rate=1.0, slow_by=0.5)
    assert shop.knobs() == Knobs(version="v2", error_rate=1.0, slow_by=0.5)
    assert shop.deploy("v3") == Knobs(version="v3")
    assert {status for status, *_ in visit(f"{shop.url}/", 40)} == {200}


def test_one_knob_alone_leaves_the_others(shop: ShopServer) -> None:
    shop.deploy("v2", slow_by=0.5)
    assert request("PUT", f"{shop.url}/knobs", b'{"error_rate": 0.25}')[0] == 200
    assert shop.knobs() == Knobs(version="v2", error_rate=0.25, slow_by=0.5)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error_rate": 1.5}', "error_rate"),
        (b'{"error_rate": NaN}', "error_rate"),
        (b'{"error_rate": "0.2"}', "error_rate"),
        (b'{"error_rate": true}', "error_rate"),
        (b'{"slow_by": -1}', "slow_by"),
        (b'{"version": "v2\\r\\nX-Evil: 1"}', "version"),
        (b'{"version": ""}', "version"),
        (b'{"eror_rate": 0.1}', "known are version, error_rate, slow_by"),
        (b"[1]", "a JSON object is needed"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_wrong_knobs_are_refused_in_words_and_change_nothing(shop: ShopServer, body: bytes, words: str) -> None:
    before = shop.deploy("v1", slow_by=0.25)
    status, answer = request("PUT", f"{shop.url}/knobs", body)
    assert status == 400
    assert words in json.loads(answer)["error"]
    assert shop.knobs() == before


def test_knobs_cannot_be_turned_through_the_load_balancer(shop: ShopServer) -> None:
    before = shop.deploy("v1")
    status, _ = request("PUT", f"{shop.url}/knobs", b'{"error_rate": 1.0}', {"X-Forwarded-For": "127.0.0.1"})
    assert status == 403
    assert shop.knobs() == before


def test_asking_for_health_or_knobs_is_not_counted_as_traffic(shop: ShopServer) -> None:
    shop.deploy("v-quiet")
    assert request("GET", f"{shop.url}/health") == (200, '{"name": "shop-blue", "version": "v-quiet"}')
    assert "v-quiet" not in shop.counts()


def test_taken_port_is_one_sentence_not_a_traceback(shop: ShopServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = run_shop("--port", port, "--version", "v1", "--name", "shop-green")
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"port {port} cannot be used" in ended.stderr


@pytest.mark.parametrize(
    ("port", "version"), [("0", "v1"), ("99999", "v1"), ("x", "v1"), ("8080", "v 1"), ("8080", "")]
)
def test_wrong_arguments_are_refused_before_anything_starts(port: str, version: str) -> None:
    ended = run_shop("--port", port, "--version", version, "--name", "shop-green")
    assert ended.returncode == 2
    assert "use " in ended.stderr
    assert "Traceback" not in ended.stderr


def run_shop(*arguments: str) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-m", "demo.shop", *arguments]
    return subprocess.run(argv, env=CHILD_ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False)


def test_a_shop_with_several_instances_is_as_many_processes_that_all_get_the_new_version(tmp_path: Path) -> None:
    with ShopServer(tmp_path, "shop-green", "v1", instances=3) as server:
        assert len(server.process.session_members()) == 3
        server.deploy("v2", error_rate=1.0)
        seen = [answer[:3] for url in server.urls for answer in visit(url, TOGETHER)]
        assert seen == [(500, "v2", "shop-green")] * 3 * TOGETHER
        assert server.counts()["v2"] == {"requests": 3 * TOGETHER, "errors": 3 * TOGETHER}
    assert server.process.session_members() == []


def test_deploying_to_a_dead_shop_says_that_it_does_not_answer(tmp_path: Path) -> None:
    with ShopServer(tmp_path, "shop-green", "v1") as server:
        server.stop()
        with pytest.raises(ProcessError, match="is it still running"):
            server.deploy("v2")


def test_knobs_name_every_wrong_one_at_once() -> None:
    with pytest.raises(KnobsError, match=r"error_rate.*slow_by"):
        Knobs(version="v1").changed({"error_rate": -1, "slow_by": math.inf})

"""A small shop to release: a page and a few JSON paths, with knobs that make it worse on purpose.

    python -m demo.shop --port 8081 --version v1 --name shop-blue

With several ports it has as many instances, each a process with knobs and counts of its own. Deploying to the idle side
in the demo means setting its version and its knobs. Every answer of the shop says who gave it
(``X-Version``, ``X-Backend``), so that clients can count each version by themselves.
"""

import argparse
import asyncio
import math
import multiprocessing
import random
import re
import sys
from collections.abc import Sequence
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from canary_release.core.problems import CanaryError
from demo.free_ports import LOOPBACK

MEDIAN_SECONDS = 0.010
SPREAD = 0.4  # sigma of the log-normal latency: the 95th percentile is 1.9 times the median
KEEP_ALIVE = 3600.0  # seconds; a shop that closed idle connections first would race with the load balancer's reuse
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"


class KnobsError(CanaryError):
    """Knobs that a shop cannot take."""


class Knobs(BaseModel):
    """How this shop behaves. error_rate: share of requests answered with 500. slow_by: relative, 0.5 is 50 % slower."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    version: str = Field(pattern=NAME.replace(r"\Z", "$"))
    error_rate: float = Field(default=0.0, ge=0, le=1)
    slow_by: float = Field(default=0.0, ge=-0.9, le=100)

    def changed(self, wanted: object) -> "Knobs":
        """These knobs with the given ones set. Raises KnobsError, which names each wrong knob."""
        if not isinstance(wanted, dict):
            raise KnobsError('knobs: a JSON object is needed, for example {"error_rate": 0.2}.')
        try:
            return Knobs(**{**self.model_dump(), **wanted})
        except ValidationError as error:
            problems = "; ".join(f"{problem['loc'][0]}: {problem['msg'].lower()}" for problem in error.errors())
            raise KnobsError(f"knobs: {problems} (known are {', '.join(Knobs.model_fields)}).") from None


class Shop:
    """The running shop: its knobs, and what it answered, by version."""

    def __init__(self, name: str, knobs: Knobs, *, median: float = MEDIAN_SECONDS) -> None:
        self.name = name
        self.knobs = knobs
        self.median = median
        self.counts: dict[str, dict[str, int]] = {}
        self._random = random.Random()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/health", self.health)
        application.router.add_get("/knobs", self.read_knobs)
        application.router.add_put("/knobs", self.set_knobs)
        application.router.add_get("/counts", self.read_counts)
        application.router.add_get("/{page:.*}", self.serve)
        return application

    async def serve(self, request: web.Request) -> web.Response:
        """A page after a log-normal delay, or a 500 with the probability ``error_rate``."""
        # Taken at the arrival: a request that waits while the knobs change belongs to the version that took it.
        knobs = self.knobs
        await asyncio.sleep(self._delay(knobs))
        failed = self._random.random() < knobs.error_rate
        counts = self.counts.setdefault(knobs.version, {"requests": 0, "errors": 0})
        counts["requests"] += 1
        counts["errors"] += failed
        headers = {"X-Version": knobs.version, "X-Backend": self.name}
        if failed:
            return web.json_response({"error": "the basket could not be saved"}, status=500, headers=headers)
        return _page(request.path, knobs.version, headers)

    async def health(self, request: web.Request) -> web.Response:
        return web.json_response({"name": self.name, "version": self.knobs.version})

    async def read_knobs(self, request: web.Request) -> web.Response:
        _only_direct(request)
        return web.json_response(self.knobs.model_dump())

    async def set_knobs(self, request: web.Request) -> web.Response:
        _only_direct(request)
        try:
            self.knobs = self.knobs.changed(await request.json())
        except (KnobsError, ValueError, RecursionError) as error:
            sentence = str(error) if isinstance(error, KnobsError) else "knobs: the body is not JSON."
            return web.json_response({"error": sentence}, status=400)
        return web.json_response(self.knobs.model_dump())

    async def read_counts(self, request: web.Request) -> web.Response:
        _only_direct(request)
        return web.json_response(self.counts)

    def _delay(self, knobs: Knobs) -> float:
        return self._random.lognormvariate(math.log(self.median * (1 + knobs.slow_by)), SPREAD)


PRODUCTS: list[dict[str, Any]] = [
    {"id": 1, "name": "teapot", "price": "24.00"},
    {"id": 2, "name": "cup", "price": "8.50"},
    {"id": 3, "name": "sieve", "price": "5.20"},
]
PATHS = ("/", "/api/products", "/api/products/2", "/api/basket")


def _page(path: str, version: str, headers: dict[str, str]) -> web.Response:
    if path == "/":
        text = f"<!doctype html><title>Shop</title><h1>Shop</h1><p>This is version {version}.</p>\n"
        return web.Response(text=text, content_type="text/html", headers=headers)
    if path == "/api/products":
        return web.json_response(PRODUCTS, headers=headers)
    if path == "/api/basket":
        return web.json_response({"items": [], "total": "0.00"}, headers=headers)
    for product in PRODUCTS:
        if path == f"/api/products/{product['id']}":
            return web.json_response(product, headers=headers)
    return web.json_response({"error": "no such page"}, status=404, headers=headers)


def _only_direct(request: web.Request) -> None:
    # The shop listens on the loopback alone, but so does the load balancer, which would pass on anybody's request.
    if "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
        raise web.HTTPForbidden(text="This path answers only on the shop's own port, not through a load balancer.\n")


def port_number(text: str) -> int:
    """A port for argparse, 1 to 65535."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; use a number from 1 to 65535")
    return int(text)


def name_text(text: str) -> str:
    """A version or backend for argparse: it becomes an HTTP header."""
    if not re.match(NAME, text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name; use up to 64 letters, digits, '.', '_' and '-'")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM. 1 when a port is taken."""
    parser = argparse.ArgumentParser(prog="python -m demo.shop", description="A small shop with knobs, for the demo.")
    ports = "port on 127.0.0.1; several for as many instances"
    parser.add_argument("--port", type=port_number, nargs="+", required=True, help=ports)
    parser.add_argument("--version", type=name_text, required=True, help="what X-Version says, for example v1")
    parser.add_argument("--name", type=name_text, required=True, help="what X-Backend says, for example shop-blue")
    wanted = parser.parse_args(argv)
    first, *others = wanted.port
    forking = multiprocessing.get_context("fork")  # so that only one has to import everything
    # Daemons end with this process, however it leaves.
    instances = [
        forking.Process(target=_instance, args=(wanted.name, wanted.version, port), daemon=True) for port in others
    ]
    for instance in instances:
        instance.start()
    return serve(wanted.name, wanted.version, first)


def _instance(name: str, version: str, port: int) -> None:
    sys.exit(serve(name, version, port))


def serve(name: str, version: str, port: int) -> int:
    """One instance until SIGINT or SIGTERM. 1 when the port is taken."""
    shop = Shop(name, Knobs(version=version))
    try:
        web.run_app(
            shop.application(),
            host=LOOPBACK,
            port=port,
            print=None,
            access_log=None,
            shutdown_timeout=1.0,
            keepalive_timeout=KEEP_ALIVE,
        )
    except OSError as error:
        print(f"shop {name}: port {port} cannot be used ({error}); choose another.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

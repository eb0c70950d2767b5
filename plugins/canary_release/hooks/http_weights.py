"""Any load balancer with an HTTP API of JSON, by declaration: where its weights are read and how they are written.

The release file says it all: paths in the read document are JMESPath (https://jmespath.org/specification.html), and in
the body to write the whole text ``{backend}`` stands for that backend's number. Nothing is ever spliced into a text.
"""

import json
import random
import re
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal
from urllib.parse import quote

import jmespath
from airflow.sdk import BaseHook
from jmespath.exceptions import JMESPathError
from pydantic import Field, JsonValue, field_validator, model_validator

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import FULL, Weights
from canary_release.hooks.connections import HttpServer, Reply, Strict, find_connection, http_server
from canary_release.hooks.weight_units import from_units, to_units

_TRIES = 8
_PATH = r"^/[^\s#\\]*$"
_PLACEHOLDER = re.compile(r"^\{([^{}]+)\}$")
_CONFLICTS = (409, 412)
_READ_DIGITS = 9
_LARGEST = 10**9


class ReadBlock(Strict):
    """Where the weights stand."""

    path: str = Field(pattern=_PATH, description="Path of the document, behind the connection's host.")
    weights: dict[str, str] = Field(min_length=2, max_length=2, description="JMESPath to each backend's weight.")
    version: str | None = Field(None, description="JMESPath to what changes with every write, for compare-and-set.")
    version_header: str | None = Field(None, description="Or the answer's header that does, such as `ETag`.")

    @field_validator("weights")
    @classmethod
    def _sound(cls, weights: dict[str, str]) -> dict[str, str]:
        for name, expression in weights.items():
            _compiled(expression, f"of {name}")
        return weights

    @field_validator("version")
    @classmethod
    def _sound_version(cls, version: str | None) -> str | None:
        if version is not None:
            _compiled(version, "of the version")
        return version

    @model_validator(mode="after")
    def _one_version(self) -> "ReadBlock":
        if self.version and self.version_header:
            raise ValueError("version and version_header are two ways to say the same; keep one")
        return self


class WriteBlock(Strict):
    """One request that writes weights."""

    method: Literal["PUT", "PATCH", "POST"] = Field("PUT", description="How it is sent.")
    path: str = Field(pattern=_PATH, description="Where to, behind the connection's host.")
    body: JsonValue = Field(description="What is sent; the text `{backend}` stands for that backend's number.")
    version_query: str | None = Field(None, description="Query parameter that carries the version, such as `cas`.")
    version_header: str | None = Field(None, description="Header that carries the version, such as `If-Match`.")
    accepts: JsonValue = Field(None, description="What the answer is when it was accepted, where 200 may mean no.")

    @property
    def versioned(self) -> bool:
        return bool(self.version_query or self.version_header)


class HttpWeightsHook(BaseHook):
    """Connection type ``http``; keys and tokens as login and password or in the extra's ``headers``.

    A write that names one backend only is sent first for the backend that gets more, so that no request finds both at
    nothing in between.
    """

    finest_step: Decimal = Decimal("0.01")

    class Options(Strict):
        """What a release file says about the API."""

        whole: int = Field(100, ge=1, le=1_000_000, description="What the two numbers add up to.")
        decimals: int = Field(0, ge=0, le=2, description="How many decimals the API takes.")
        read: ReadBlock = Field(description="Where the weights stand.")
        write: list[WriteBlock] = Field(min_length=1, max_length=4, description="What writes them, in this order.")

        @property
        def finest_step(self) -> Decimal:
            """In percent: the smallest share that these numbers can say exactly."""
            return FULL / Decimal(self.whole) / Decimal(10) ** self.decimals

        @model_validator(mode="after")
        def _fits(self) -> "HttpWeightsHook.Options":
            named = {name for block in self.write for name in _placeholders(block.body)}
            known = set(self.read.weights)
            if named != known:
                wrong = ", ".join(sorted(named ^ known))
                raise ValueError(f"read.weights and the placeholders in write.body must name the same two: {wrong}")
            if any(block.versioned for block in self.write) and not (self.read.version or self.read.version_header):
                raise ValueError("a write sends a version, so read must say where it stands (version)")
            return self

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options
        self.finest_step = options.finest_step

    def get_weights(self) -> Weights:
        """What the API says. UnknownTargetError when a backend has no weight there, LoadBalancerError otherwise."""
        document, _ = self._read()
        units = self._units(document)
        # Finer than any API's numbers: what somebody else wrote must not be read as nothing.
        exact = {name: int(unit.scaleb(_READ_DIGITS).to_integral_value()) for name, unit in units.items()}
        return from_units(exact, f"{self._server.base_url}{self.options.read.path}")

    def set_weights(self, weights: Weights) -> None:
        """Write both; where the API has a compare-and-set, again from the start when somebody was faster."""
        asked = to_units(weights, self.backends, self.finest_step)
        for attempt in range(_TRIES):
            document, version = self._read()
            before = self._units(document)
            blocks = sorted(self.options.write, key=lambda block: self._lowers(block, before, asked))
            if self._all_written(blocks, asked, version) and self._stands(asked):
                return
            time.sleep(0.02 * 2**attempt * random.uniform(0.5, 1.5))
        where = f"{self._server.base_url}{self.options.read.path}"
        raise LoadBalancerError(f"{where} was changed by others during each of {_TRIES} tries; try again later.")

    def _all_written(self, blocks: list[WriteBlock], asked: Mapping[str, int], version: str | None) -> bool:
        """False when somebody was faster with any of them."""
        for place, block in enumerate(blocks):
            if place and block.versioned:
                version = self._read()[1]  # the write before has changed it
            if not self._written(block, asked, version):
                return False
        return True

    def _stands(self, asked: Mapping[str, int]) -> bool:
        """With several writes and no version, two writers may have left half of each other's; then write again."""
        return len(self.options.write) == 1 or self._units(self._read()[0]) == asked

    @cached_property
    def _server(self) -> HttpServer:
        return http_server(find_connection(self.connection_id), LoadBalancerError, missing=UnknownTargetError)

    def _read(self) -> tuple[Any, str | None]:
        """The document and its version."""
        read = self.options.read
        reply = self._server.send("GET", read.path, headers={"Accept": "application/json"})
        document = self._json(reply, read.path)
        if read.version_header:
            return document, reply.headers.get(read.version_header)
        found = self._search(read.version, document) if read.version else None
        if isinstance(found, dict | list | bool):
            raise LoadBalancerError(f"{read.path} has no single value for the version; look at read.version.")
        return document, None if found is None else str(found)

    def _search(self, expression: str, document: Any) -> Any:
        try:
            return jmespath.search(expression, document)
        except JMESPathError as error:
            words = str(error).splitlines()[0]
            raise LoadBalancerError(f"{self.options.read.path} cannot be read by {expression}: {words}.") from None

    def _units(self, document: Any) -> dict[str, Decimal]:
        """Each backend's number in finest steps, not rounded."""
        expressions = self.options.read.weights
        units: dict[str, Decimal] = {}
        for name in self.backends:
            found = self._search(expressions[name], document) if name in expressions else None
            if found is None:
                where = f"{self._server.base_url}{self.options.read.path}"
                raise UnknownTargetError(f"{where} has no weight for {name}; look at read.weights in the release file.")
            if isinstance(found, bool) or not isinstance(found, int | float) or not abs(found) <= _LARGEST:
                shown = f"{found!r}"[:60]
                raise LoadBalancerError(f"{self.options.read.path} has {shown} for the weight of {name}, no number.")
            units[name] = Decimal(str(found)).scaleb(self.options.decimals)
        return units

    def _written(self, block: WriteBlock, units: Mapping[str, int], version: str | None) -> bool:
        """False when somebody was faster."""
        path, headers = block.path, {"Content-Type": "application/json", "Accept": "application/json"}
        if block.versioned and version is None:
            raise LoadBalancerError(f"{self.options.read.path} says no version; look at read.version.")
        if block.version_query:
            path += f"{'&' if '?' in path else '?'}{quote(block.version_query)}={quote(str(version))}"
        if block.version_header:
            headers[block.version_header] = str(version)
        numbers = {name: self._number(units[name]) for name in self.backends}
        reply = self._server.send(
            block.method,
            path,
            body=json.dumps(_filled(block.body, numbers)),
            headers=headers,
            good=(200, 201, 202, 204, *(_CONFLICTS if block.versioned else ())),
        )
        if reply.status in _CONFLICTS:
            return False
        if block.accepts is None:
            return True
        accepted = bool(self._json(reply, path) == block.accepts)
        if not accepted and not block.versioned:
            raise LoadBalancerError(f"{self._server.base_url}{path} did not accept the weights: {reply.text[:200]}")
        return accepted

    def _lowers(self, block: WriteBlock, before: Mapping[str, Decimal], asked: Mapping[str, int]) -> bool:
        named = set(_placeholders(block.body))
        return len(named) == 1 and all(asked[name] < before[name] for name in named)

    def _number(self, unit: int) -> int | float:
        return unit if not self.options.decimals else float(Decimal(unit) / 10**self.options.decimals)

    def _json(self, reply: Reply, path: str) -> Any:
        try:
            return json.loads(reply.text)
        except (ValueError, RecursionError):
            raise LoadBalancerError(f"{self._server.base_url}{path} answered something that is not JSON.") from None


def _compiled(expression: str, what: str) -> None:
    try:
        jmespath.compile(expression)
    except JMESPathError as error:
        said = str(error).splitlines()[0].encode("unicode_escape").decode()
        raise ValueError(f"the JMESPath {what} cannot be read: {said}") from None
    except RecursionError:
        raise ValueError(f"the JMESPath {what} is nested too deeply") from None


def _placeholders(body: Any) -> Iterator[str]:
    """The backends that a body names."""
    if isinstance(body, dict):
        for value in body.values():
            yield from _placeholders(value)
    elif isinstance(body, list):
        for value in body:
            yield from _placeholders(value)
    elif isinstance(body, str) and (found := _PLACEHOLDER.match(body)):
        yield found.group(1)


def _filled(body: Any, numbers: Mapping[str, int | float]) -> Any:
    """The body with numbers in the place of its placeholders."""
    if isinstance(body, dict):
        return {key: _filled(value, numbers) for key, value in body.items()}
    if isinstance(body, list):
        return [_filled(value, numbers) for value in body]
    found = _PLACEHOLDER.match(body) if isinstance(body, str) else None
    return numbers[found.group(1)] if found else body

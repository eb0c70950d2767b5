"""One object of a Kubernetes API server, read and replaced with compare-and-set, for the hooks of routes.

API conventions: https://kubernetes.io/docs/reference/using-api/api-concepts/ (resourceVersion, 409 Conflict). The
connection is of type ``http``: host and port of the API server, ``https`` as its schema, the token of a service account
as its password, and ``ca_file`` in its extra.
"""

import json
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseHook
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.hooks.connections import HttpExtra, HttpServer, Strict, find_connection, http_server, read_extra

_TRIES = 8
_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"

Json = dict[str, Any]


class Shape(BaseModel):
    """Base of what is read of an object: its other fields are left alone, those that are named have their types."""

    model_config = ConfigDict(strict=True, frozen=True)


class Metadata(Shape):
    generation: int | None = None


class ObjectOptions(Strict):
    """Which object splits the traffic."""

    name: str = Field(pattern=_PATTERN, description="Name of the object that splits the traffic.")
    namespace: str = Field("default", pattern=_PATTERN, description="Its namespace.")
    rule: int = Field(0, ge=0, description="Which of its rules does, counted from 0.")


class KubernetesObject:
    """An object at one path of the API server. group: API group with version, such as ``networking.istio.io/v1``.

    shape: what every answer must look like, else LoadBalancerError.
    """

    def __init__(
        self, connection_id: str, group: str, plural: str, options: ObjectOptions, shape: type[Shape] = Shape
    ) -> None:
        self._connection_id = connection_id
        self._shape = shape
        self._path = f"/apis/{group}/namespaces/{quote(options.namespace)}/{plural}/{quote(options.name)}"
        self.where = f"{plural}/{options.name} in namespace {options.namespace}"

    def read(self) -> Json:
        """The object. UnknownTargetError when there is none, LoadBalancerError for anything else that goes wrong."""
        return self._checked(self._server.get_text(self._path, accept="application/json"))

    def change(self, edit: Callable[[Json], None]) -> Json:
        """Read, ``edit`` in place and replace the object; once more from the start when somebody was faster.

        Our weights are absolute, so whoever writes last wins; that nobody else's change to the rest of the object is
        lost is what the compare-and-set is for.
        """
        for attempt in range(_TRIES):
            found = self.read()
            edit(found)
            reply = self._server.send(
                "PUT",
                self._path,
                body=json.dumps(found),
                headers={"Content-Type": "application/json", "Accept": "application/json"},
                good=(200, 409),
            )
            if reply.status == 200:
                return self._checked(reply.text)
            time.sleep(0.02 * 2**attempt)
        raise LoadBalancerError(f"{self.where} was changed by others during each of {_TRIES} tries; try again later.")

    def _checked(self, text: str) -> Json:
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            raise LoadBalancerError(
                f"{self._server.base_url}{self._path} answered something that is not JSON."
            ) from None
        if not isinstance(answer, dict) or not isinstance(answer.get("spec"), dict):
            raise LoadBalancerError(f"{self._server.base_url} does not answer as a Kubernetes API server; check it.")
        try:
            self._shape.model_validate(answer)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise LoadBalancerError(f"{self.where} has an unexpected {place}: {first['msg'].lower()}.") from None
        return answer

    @cached_property
    def _server(self) -> HttpServer:
        connection = find_connection(self._connection_id)
        if not connection.password:
            raise ConnectionSettingsError(
                f"Connection {self._connection_id} has no password; it must be the token of a service account."
            )
        extra = read_extra(connection, HttpExtra)
        with_token = extra.model_copy(
            update={"headers": {**extra.headers, "Authorization": f"Bearer {connection.password}"}}
        )
        return http_server(connection, LoadBalancerError, missing=UnknownTargetError, extra=with_token)


class RouteHook(BaseHook):
    """What the hooks of route objects share. Subclasses say where the object is and which entries carry weights."""

    GROUP: str
    PLURAL: str
    SHAPE: type[Shape]

    def __init__(self, connection_id: str, backends: tuple[str, str], options: ObjectOptions) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options
        self.route = KubernetesObject(connection_id, self.GROUP, self.PLURAL, options, self.SHAPE)

    def two_entries(self, entries: Any, name_of: Callable[[Json], str]) -> dict[str, Json]:
        """The entries of our two backends by name. Raises UnknownTargetError when one is missing, LoadBalancerError
        when there are others beside them, or one twice.
        """
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UnknownTargetError(f"{self.route.where} has no rule {self.options.rule} that sends traffic anywhere.")
        named = {name_of(entry): entry for entry in entries}
        listed = ", ".join(sorted(named)) or "none"
        if missing := [name for name in self.backends if name not in named]:
            raise UnknownTargetError(f"{self.route.where} has no {' and '.join(missing)}; it has {listed}.")
        if len(entries) != len(self.backends):
            raise LoadBalancerError(f"{self.route.where} must share traffic between the two only; it has {listed}.")
        return {name: named[name] for name in self.backends}

"""Cases of the contract suites on strict fakes of APIs: Kubernetes, Kong, APISIX and Consul.

What a fake accepts is set on a real Traefik before it answers, so that the suites' requests go through a real proxy.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from canary_release.control.real_desk import read_release
from canary_release.core.ports import LoadBalancer
from canary_release.core.values import Weights
from canary_release.hooks.gateway_api import GatewayApiHook
from canary_release.hooks.http_weights import HttpWeightsHook
from canary_release.hooks.istio import IstioHook
from canary_release.hooks.traefik import TraefikHook
from canary_release.hooks.weight_units import from_units
from contracts.case import Case, real
from contracts.shop import BACKENDS
from contracts.waiting import wait_until
from demo.fake_api_server import FakeApiServer
from demo.http_api_fakes import KEY, ApisixFake, ConsulFake, KongFake
from demo.kubernetes_fake import ROUTE, TOKEN, VIRTUAL_SERVICE, KubernetesFake
from demo.traefik_server import TraefikServer, traefik_binary

STABLE, CANARY = BACKENDS
RELEASES = Path(__file__).parents[2] / "include" / "releases"


class DataPlane:
    """A real Traefik that gets the weights which a fake has accepted."""

    def __init__(self, traefik: TraefikServer) -> None:
        self.url = traefik.url
        self._traefik = traefik
        self.monkeypatch = pytest.MonkeyPatch()
        self.monkeypatch.setenv("AIRFLOW_CONN_DATA_PLANE", json.dumps(traefik.connection()))
        self._hook = TraefikHook("data_plane", BACKENDS, TraefikHook.Options(route="shop"))

    def set(self, numbers: Mapping[str, float]) -> None:
        """Whole or decimal numbers by backend, in force when this returns; two zeros are left out."""
        if not any(numbers.values()):
            return
        exact = from_units({name: round(100 * numbers[name]) for name in BACKENDS}, "the fake")
        share = exact[CANARY].quantize(self._hook.finest_step)
        weights = Weights.split(stable=STABLE, canary=CANARY, canary_percent=share)
        self._hook.set_weights(weights)
        wait_until(lambda: self._hook.get_weights() == weights, "the data plane")


class NoDataPlane(DataPlane):
    """For tests that send no requests."""

    def __init__(self) -> None:
        self.url = ""

    def set(self, numbers: Mapping[str, float]) -> None:
        pass


def _plane(request: pytest.FixtureRequest) -> DataPlane:
    wanted = any(request.node.get_closest_marker(name) for name in ("slow", "figures"))
    plane: DataPlane = request.getfixturevalue("data_plane") if wanted else NoDataPlane()
    return plane


@pytest.fixture(scope="session")
def data_plane(tmp_path_factory: pytest.TempPathFactory, backend_urls: dict[str, str]) -> Iterator[DataPlane]:
    with TraefikServer(tmp_path_factory.mktemp("data-plane"), backend_urls) as traefik:
        plane = DataPlane(traefik)
        yield plane
        plane.monkeypatch.undo()


@pytest.fixture(scope="session")
def kept_fakes() -> Iterator[ExitStack]:
    """Fakes stay up as long as the session, as the API of a load balancer does."""
    with ExitStack() as fakes:
        yield fakes


def _against(whose: str) -> str:
    return f"strict fake of {whose}, traffic through {real('Traefik', [traefik_binary(), 'version'])}"


# --- Kubernetes ---


def _kubernetes_case(
    request: pytest.FixtureRequest, kind: str, path: str, spec: dict[str, Any], hook: Any, whose: str
) -> Case:
    plane = _plane(request)
    path = path.format(namespace="shop", name="web")

    def moved(_: str, document: Any) -> None:
        plane.set({_named(entry): entry["weight"] for entry in _entries(document)})

    fake = request.getfixturevalue("kept_fakes").enter_context(KubernetesFake(moved))
    fake.create(path, kind, spec)
    connection = f"{kind.lower()}_contract"
    request.getfixturevalue("monkeypatch").setenv(
        f"AIRFLOW_CONN_{connection.upper()}", json.dumps(fake.connection(password=TOKEN))
    )

    def make(*backends: str) -> LoadBalancer:
        balancer: LoadBalancer = hook(connection, backends, hook.Options(name="web", namespace="shop"))
        return balancer

    def configuration() -> Any:
        document = copy.deepcopy(fake.documents[path])
        for entry in _entries(document):
            del entry["weight"]
        metadata = {key: document["metadata"][key] for key in ("name", "labels")}
        return metadata, document["spec"]

    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        fake.restart,
        url=plane.url,
        tested_against=_against(whose),
    )


def _entries(document: Any) -> list[dict[str, Any]]:
    spec = document["spec"]
    entries: list[dict[str, Any]] = spec["rules"][0]["backendRefs"] if "rules" in spec else spec["http"][0]["route"]
    return entries


def _named(entry: dict[str, Any]) -> str:
    return str(entry.get("name") or entry["destination"]["subset"])


def gateway_api_case(request: pytest.FixtureRequest) -> Case:
    entries = [{"name": name, "port": 8080, "weight": weight} for name, weight in zip(BACKENDS, (1, 0), strict=True)]
    filters = [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-debug"]}}]
    spec = {"hostnames": ["shop.example"], "rules": [{"backendRefs": entries, "filters": filters}, {"backendRefs": []}]}
    return _kubernetes_case(request, "HTTPRoute", ROUTE, spec, GatewayApiHook, "the Kubernetes API with Gateway API")


def istio_case(request: pytest.FixtureRequest) -> Case:
    entries = [
        {"destination": {"host": "shop", "subset": name}, "weight": weight}
        for name, weight in zip(BACKENDS, (100, 0), strict=True)
    ]
    spec = {"hosts": ["shop"], "http": [{"route": entries, "timeout": "5s"}, {"route": []}]}
    return _kubernetes_case(
        request, "VirtualService", VIRTUAL_SERVICE, spec, IstioHook, "the Kubernetes API with Istio"
    )


# --- by declaration, as the examples declare them ---


def _declared_case(request: pytest.FixtureRequest, example: str, make_fake: Callable[[DataPlane], FakeApiServer],
                   header: str, title: str, whose: str) -> Case:  # fmt: skip
    plane = _plane(request)
    plane.set({STABLE: 100, CANARY: 0})
    fake = request.getfixturevalue("kept_fakes").enter_context(make_fake(plane))
    connection = f"{example}_contract"
    request.getfixturevalue("monkeypatch").setenv(
        f"AIRFLOW_CONN_{connection.upper()}", json.dumps(fake.connection(headers={header: KEY}))
    )
    options = read_release(RELEASES / f"{example}.yaml").load_balancer.options
    assert isinstance(options, HttpWeightsHook.Options)

    def make(*backends: str) -> HttpWeightsHook:
        return HttpWeightsHook(connection, (backends[0], backends[1]), options)

    def configuration() -> Any:
        return _without_numbers(fake.documents)

    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        fake.restart,
        url=plane.url,
        title=f"`http` ({title})",
        tested_against=_against(whose),
    )


def _without_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        hidden = ("weight", "Weight", "ModifyIndex")
        return {key: _without_numbers(item) for key, item in value.items() if key not in hidden}
    return [_without_numbers(item) for item in value] if isinstance(value, list) else value


def kong_case(request: pytest.FixtureRequest) -> Case:
    def fake(plane: DataPlane) -> KongFake:
        return KongFake({STABLE: 10_000, CANARY: 0}, lambda _, targets: plane.set(targets))

    return _declared_case(request, "kong", fake, "Kong-Admin-Token", "Kong", "Kong's Admin API")


def apisix_case(request: pytest.FixtureRequest) -> Case:
    def fake(plane: DataPlane) -> ApisixFake:
        return ApisixFake({STABLE: 10_000, CANARY: 0}, lambda _, weights: plane.set(weights))

    return _declared_case(request, "apisix", fake, "X-API-KEY", "APISIX", "APISIX' Admin API")


def consul_case(request: pytest.FixtureRequest) -> Case:
    def fake(plane: DataPlane) -> ConsulFake:
        return ConsulFake({STABLE: 100, CANARY: 0}, lambda _, weights: plane.set(weights))

    return _declared_case(request, "consul", fake, "X-Consul-Token", "Consul", "Consul's config entries")


CASES = {
    "gateway_api": gateway_api_case,
    "istio": istio_case,
    "http: kong": kong_case,
    "http: apisix": apisix_case,
    "http: consul": consul_case,
}

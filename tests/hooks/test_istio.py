"""What is a VirtualService's own: destinations, whole percents, and an API server that refuses."""

import copy
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from canary_release.core.problems import CanaryError, LoadBalancerError, UnknownTargetError
from canary_release.core.release_file import lint
from canary_release.core.values import Weights
from canary_release.hooks.istio import IstioHook
from canary_release.hooks.registry import BACKENDS
from demo.fake_api_server import Asked, Json, RawAnswer
from demo.kubernetes_fake import TOKEN, VIRTUAL_SERVICE, KubernetesFake

BLUE, GREEN = "shop-blue", "shop-green"
PATH = VIRTUAL_SERVICE.format(namespace="shop", name="web")


def entry(name: str, weight: int | None = None, host: str = "shop") -> Json:
    return {"destination": {"host": host, "subset": name}} | ({} if weight is None else {"weight": weight})


class Mesh(KubernetesFake):
    """meanwhile: what somebody else does to the object as soon as we have read it.  raw: the next answers."""

    def __init__(self) -> None:
        self.meanwhile: list[Callable[[Json], None]] = []
        self.raw: RawAnswer | None = None
        self.writes = 0
        super().__init__(lambda path, document: None, settle=0.01)

    def answer(self, asked: Asked) -> Any:
        self.writes += asked.method == "PUT"
        answer = self.raw or copy.deepcopy(super().answer(asked))
        if asked.method == "GET" and self.meanwhile:
            self.meanwhile.pop(0)(self.documents[PATH])
            self.documents[PATH]["metadata"]["resourceVersion"] = self._next()
        return answer

    def has(self, *rules: Json) -> None:
        self.create(PATH, "VirtualService", {"hosts": ["shop"], "http": list(rules)})

    def rule(self, index: int = 0) -> Json:
        found: Json = self.documents[PATH]["spec"]["http"][index]
        return found


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mesh]:
    with Mesh() as mesh:
        mesh.has({"route": [entry(BLUE, 100), entry(GREEN, 0)], "timeout": "5s"})
        monkeypatch.setenv("AIRFLOW_CONN_MESH", json.dumps(mesh.connection(password=TOKEN)))
        yield mesh


def hook(*backends: str, **options: Any) -> IstioHook:
    first, second = backends or (BLUE, GREEN)
    return IstioHook("mesh", (first, second), IstioHook.Options(**{"name": "web", "namespace": "shop", **options}))


def green(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def test_a_timeout_that_somebody_changed_between_our_read_and_our_write_survives(mesh: Mesh) -> None:
    mesh.meanwhile = [lambda service: service["spec"]["http"][0].update(timeout="9s")]
    hook().set_weights(green("5"))
    assert mesh.rule() == {"route": [entry(BLUE, 95), entry(GREEN, 5)], "timeout": "9s"}
    assert mesh.writes == 2


def test_both_weights_change_in_one_write_and_add_up_to_100(mesh: Mesh) -> None:
    for percent in ("1", "50", "100", "0"):
        hook().set_weights(green(percent))
        assert hook().get_weights() == green(percent)
    assert mesh.writes == 4


def test_half_a_percent_is_refused_and_not_rounded(mesh: Mesh) -> None:
    with pytest.raises(LoadBalancerError, match="multiples of 1 %"):
        hook().set_weights(green("0.5"))
    assert mesh.writes == 0


def test_lint_refuses_half_a_percent_at_its_line() -> None:
    text = """\
service: shop
load_balancer: {type: istio, connection: mesh, name: web, backends: [a, b]}
metrics: {type: scrape, connection: metrics, preset: envoy}
steps:
  - {weight: 0.5%, bake: 10m}
  - {weight: 100%, bake: 10m}
checks: [{metric: error_rate, max_increase: 0.5pp}]
"""
    (problem,) = lint(text, source_name="shop.yaml", backends=BACKENDS)
    assert problem.startswith("shop.yaml:5: steps[0].weight: `0.5%` is finer than istio can set")


def test_destinations_without_subsets_go_by_their_hosts(mesh: Mesh) -> None:
    hosts = [{"destination": {"host": name}, "weight": weight} for name, weight in (("old", 100), ("new", 0))]
    mesh.has({"route": hosts})
    weights = Weights.split(stable="old", canary="new", canary_percent=Decimal(7))
    hook("old", "new").set_weights(weights)
    assert hook("old", "new").get_weights() == weights


def test_only_the_named_rule_is_written(mesh: Mesh) -> None:
    first = {"match": [{"uri": {"prefix": "/beta"}}], "route": [entry(GREEN, 100)]}
    mesh.has(first, {"route": [entry(BLUE, 100), entry(GREEN, 0)]})
    hook(rule=1).set_weights(green("5"))
    assert mesh.rule(0) == first
    assert mesh.rule(1) == {"route": [entry(BLUE, 95), entry(GREEN, 5)]}


@pytest.mark.parametrize(
    ("rule", "error", "words"),
    [
        ({"route": [entry(BLUE, 100)]}, UnknownTargetError, f"has no {GREEN}; it has {BLUE}"),
        ({"route": [entry(BLUE, 90), entry(GREEN, 5), entry("red", 5)]}, LoadBalancerError, "the two only"),
        ({"route": [entry(BLUE, 50), entry(GREEN, 25), entry(GREEN, 25, "b")]}, LoadBalancerError, "the two only"),
        ({"redirect": {"uri": "/"}}, UnknownTargetError, "no rule 0 that sends traffic anywhere"),
    ],
)
def test_a_rule_that_does_not_share_between_the_two_is_refused_before_a_write(
    mesh: Mesh, rule: Json, error: type[CanaryError], words: str
) -> None:
    mesh.has(rule)
    for ask in (hook().get_weights, lambda: hook().set_weights(green("5"))):
        with pytest.raises(error, match=words):
            ask()
    assert mesh.writes == 0


def test_a_rule_that_does_not_exist_is_unknown(mesh: Mesh) -> None:
    with pytest.raises(UnknownTargetError, match="no rule 4"):
        hook(rule=4).get_weights()


def test_a_service_that_does_not_exist_is_unknown_and_a_forbidden_one_is_not(mesh: Mesh) -> None:
    with pytest.raises(UnknownTargetError, match="virtualservices/gone not found"):
        hook(name="gone").get_weights()
    with pytest.raises(LoadBalancerError, match="answered 403"):
        hook(namespace="kube-system").get_weights()


def test_a_service_that_the_api_finds_invalid_is_left_as_it_is(mesh: Mesh) -> None:
    mesh.has({"route": [entry(BLUE, 100), entry(GREEN, 0)]}, {"route": [entry("c", 60), entry("d", 60)]})
    with pytest.raises(LoadBalancerError, match=r"answered 422.*total destination weight 120 != 100"):
        hook().set_weights(green("5"))
    assert mesh.rule() == {"route": [entry(BLUE, 100), entry(GREEN, 0)]}


def test_the_token_stands_in_no_error_even_when_the_server_repeats_it(mesh: Mesh) -> None:
    mesh.raw = RawAnswer(f"no such user: Bearer {TOKEN}".encode(), 401)
    with pytest.raises(LoadBalancerError, match="no such user") as raised:
        hook().get_weights()
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    "http",
    [
        "web",
        ["web"],
        [{"route": "all"}],
        [{"route": [{"weight": 100}]}],
        [{"route": [{"destination": BLUE, "weight": 100}]}],
        *([{"route": [{**entry(BLUE), "weight": odd}, entry(GREEN, 1)]}] for odd in ("5", None, 1.5, -7, True)),
    ],
)
def test_an_object_of_another_shape_is_an_error_and_no_traceback(mesh: Mesh, http: Any) -> None:
    mesh.create(PATH, "VirtualService", {"hosts": ["shop"], "http": http})
    with pytest.raises(LoadBalancerError, match="virtualservices/web"):
        hook().get_weights()

"""What is a Gateway API route's own: compare-and-set, gateways that refuse or never look, and rules beside ours."""

import copy
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from canary_release.core.problems import CanaryError, ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import gateway_api, kubernetes_api
from canary_release.hooks.gateway_api import GatewayApiHook
from demo.fake_api_server import Asked, Json, RawAnswer
from demo.kubernetes_fake import ROUTE, TOKEN, KubernetesFake

BLUE, GREEN = "shop-blue", "shop-green"
FORCED = ("X-Canary", "always")
ODD: tuple[Any, ...] = ("5", None, 1.5, -3, True, [])
PATH = ROUTE.format(namespace="shop", name="web")


def backend(name: str, weight: int | None = None) -> Json:
    return {"name": name, "port": 8080} | ({} if weight is None else {"weight": weight})


def rule(*entries: Json, **more: Any) -> Json:
    return {"backendRefs": list(entries), **more}


def usual(**more: Any) -> Json:
    return rule(backend(BLUE, 10_000), backend(GREEN, 0), **more)


class Cluster(KubernetesFake):
    """meanwhile: what somebody else does to the object as soon as we have read it.  raw: answers instead
    of the API's, by method.
    """

    def __init__(self) -> None:
        self.meanwhile: list[Callable[[Json], None]] = []
        self.raw: dict[str, RawAnswer] = {}
        self.asked: list[Asked] = []
        super().__init__(lambda path, document: None, settle=0.01)

    def answer(self, asked: Asked) -> Any:
        self.asked.append(asked)
        if asked.method in self.raw:
            return self.raw[asked.method]
        answer = copy.deepcopy(super().answer(asked))
        if asked.method == "GET" and self.meanwhile:
            self.meanwhile.pop(0)(self.documents[PATH])
            self.documents[PATH]["metadata"]["resourceVersion"] = self._next()
        return answer

    def has(self, *rules: Json) -> None:
        self.create(PATH, "HTTPRoute", {"hostnames": ["shop.example"], "rules": list(rules)})

    @property
    def writes(self) -> int:
        return sum(asked.method == "PUT" for asked in self.asked)

    def weights(self, rule_index: int = 0) -> dict[str, int]:
        entries = self.documents[PATH]["spec"]["rules"][rule_index]["backendRefs"]
        return {entry["name"]: entry["weight"] for entry in entries}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with Cluster() as cluster:
        cluster.has(usual())
        monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps(cluster.connection(password=TOKEN)))
        yield cluster


def hook(**options: Any) -> GatewayApiHook:
    asked = GatewayApiHook.Options(**{"name": "web", "namespace": "shop", **options})
    return GatewayApiHook("cluster", (BLUE, GREEN), asked)


def green(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


# --- compare-and-set ---


def test_what_somebody_changed_between_our_read_and_our_write_survives(cluster: Cluster) -> None:
    def meanwhile(route: Json) -> None:
        route["metadata"]["labels"]["team"] = "search"
        route["spec"]["hostnames"].append("www.shop.example")
        route["spec"]["rules"][0]["backendRefs"][0]["port"] = 9090

    cluster.meanwhile = [meanwhile]
    hook().set_weights(green("5"))
    route = cluster.documents[PATH]
    assert cluster.weights() == {BLUE: 9500, GREEN: 500}
    assert route["metadata"]["labels"] == {"team": "search"}
    assert route["spec"]["hostnames"] == ["shop.example", "www.shop.example"]
    assert route["spec"]["rules"][0]["backendRefs"][0]["port"] == 9090
    assert cluster.writes == 2


def test_weights_that_somebody_wrote_meanwhile_are_overwritten_since_ours_are_absolute(cluster: Cluster) -> None:
    cluster.meanwhile = [lambda route: route["spec"]["rules"][0]["backendRefs"][1].update(weight=5000)]
    hook().set_weights(green("0"))
    assert cluster.weights() == {BLUE: 10_000, GREEN: 0}


def test_a_backend_that_somebody_took_out_meanwhile_is_not_put_back(cluster: Cluster) -> None:
    cluster.meanwhile = [lambda route: route["spec"]["rules"][0]["backendRefs"].pop()]
    with pytest.raises(UnknownTargetError, match=f"has no {GREEN}; it has {BLUE}"):
        hook().set_weights(green("5"))
    assert cluster.weights() == {BLUE: 10_000}


def test_somebody_who_is_always_faster_is_an_error_that_says_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "_TRIES", 3)
    cluster.meanwhile = [lambda route: None] * 9
    with pytest.raises(LoadBalancerError, match=r"httproutes/web in namespace shop was changed by others .* 3 tries"):
        hook().set_weights(green("5"))
    assert cluster.weights() == {BLUE: 10_000, GREEN: 0}


# --- refusals ---


def test_a_token_that_is_not_accepted_is_named_nowhere(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "eyJhbGciOiJSUzI1NiJ9.c2VjcmV0"
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps(cluster.connection(password=secret)))
    with pytest.raises(LoadBalancerError, match="answered 401") as raised:
        hook().get_weights()
    cluster.raw["GET"] = RawAnswer(f'{{"message": "no user for Bearer {secret}"}}'.encode(), 403)
    with pytest.raises(LoadBalancerError, match="no user for") as echoed:
        hook().get_weights()
    assert secret not in str(raised.value) + str(echoed.value)


def test_a_connection_without_a_token_is_refused_before_anything_is_asked(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CLUSTER", json.dumps(cluster.connection()))
    with pytest.raises(ConnectionSettingsError, match="password"):
        hook().get_weights()
    assert cluster.asked == []


def test_an_account_that_may_not_look_there_is_told_in_the_apis_words(cluster: Cluster) -> None:
    with pytest.raises(LoadBalancerError, match=r"answered 403.*forbidden: cannot get"):
        hook(namespace="kube-system").get_weights()


def test_a_route_that_does_not_exist_is_unknown(cluster: Cluster) -> None:
    for ask in (hook(name="gone").get_weights, lambda: hook(name="gone").set_weights(green("5"))):
        with pytest.raises(UnknownTargetError, match="httproutes/gone not found"):
            ask()


def test_a_route_that_the_api_finds_invalid_is_left_as_it_is(cluster: Cluster) -> None:
    cluster.has(usual(), rule(backend("other", -1)))
    with pytest.raises(LoadBalancerError, match=r"answered 422.*Invalid value: -1"):
        hook().set_weights(green("5"))
    assert cluster.weights() == {BLUE: 10_000, GREEN: 0}


# --- the gateway ---


def test_a_gateway_that_refuses_the_route_is_an_error_with_its_message(cluster: Cluster) -> None:
    cluster.refuses = "Service shop-green has no endpoints"
    with pytest.raises(LoadBalancerError, match="not in force, Accepted is not true: Service shop-green has no endp"):
        hook().set_weights(green("5"))
    with pytest.raises(LoadBalancerError, match="has no endpoints"):
        hook().get_weights()


def test_a_gateway_that_never_takes_over_is_not_waited_for_longer_than_the_limit(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_api, "SETTLE_SECONDS", 0.2)
    cluster.settle = 60.0
    with pytest.raises(LoadBalancerError, match=r"its gateway has not looked at generation 2 yet .* for 0.2 s"):
        hook().set_weights(green("5"))
    # What the API server holds is not what the gateway routes by: nothing may look done.
    with pytest.raises(LoadBalancerError, match="has not looked"):
        hook().get_weights()


def test_a_route_that_no_gateway_has_taken_is_an_error(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_api, "SETTLE_SECONDS", 0.1)
    cluster.documents[PATH]["status"] = {}
    with pytest.raises(LoadBalancerError, match="no gateway has said"):
        hook().get_weights()


def test_the_second_of_two_gateways_is_waited_for_too(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_api, "SETTLE_SECONDS", 0.1)
    parents = cluster.documents[PATH]["status"]["parents"]
    late = json.loads(json.dumps(parents[0]).replace('"observedGeneration": 1', '"observedGeneration": 0'))
    cluster.documents[PATH]["status"]["parents"] = [*parents, late]
    with pytest.raises(LoadBalancerError, match="has not looked at generation 1"):
        hook().get_weights()


# --- rules and backends ---


def test_only_the_named_rule_is_read_and_written(cluster: Cluster) -> None:
    cluster.has(rule(backend(BLUE, 1)), usual())
    hook(rule=1).set_weights(green("5"))
    assert (cluster.weights(0), cluster.weights(1)) == ({BLUE: 1}, {BLUE: 9500, GREEN: 500})
    assert hook(rule=1).get_weights() == green("5")
    with pytest.raises(UnknownTargetError, match="has no rule 2 that sends traffic anywhere"):
        hook(rule=2).set_weights(green("5"))


def test_weights_left_out_count_as_one_each(cluster: Cluster) -> None:
    cluster.has(rule(backend(BLUE), backend(GREEN)))
    assert hook().get_weights() == green("50")


@pytest.mark.parametrize(
    ("entries", "error", "words"),
    [
        ([backend(BLUE, 1)], UnknownTargetError, f"has no {GREEN}"),
        ([], UnknownTargetError, f"has no {BLUE} and {GREEN}; it has none"),
        ([backend(BLUE, 1), backend(GREEN, 0), backend("red", 0)], LoadBalancerError, "the two only"),
        ([backend(BLUE, 1), backend(GREEN, 0), backend(GREEN, 5)], LoadBalancerError, "the two only"),
        ([backend(BLUE, 0), backend(GREEN, 0)], LoadBalancerError, "share out nothing"),
    ],
)
def test_a_rule_that_does_not_share_between_the_two_is_refused_before_a_write(
    cluster: Cluster, entries: list[Json], error: type[CanaryError], words: str
) -> None:
    cluster.has(rule(*entries))
    with pytest.raises(error, match=words):
        hook().get_weights()
    if words != "share out nothing":
        with pytest.raises(error, match=words):
            hook().set_weights(green("5"))
        assert cluster.writes == 0


def test_a_rule_with_everything_at_nothing_can_be_brought_back(cluster: Cluster) -> None:
    cluster.has(rule(backend(BLUE, 0), backend(GREEN, 0)))
    hook().set_weights(green("0"))
    assert hook().get_weights() == green("0")


# --- answers that are none ---


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RawAnswer(b"<html>sign in</html>"), "not JSON"),
        (RawAnswer(b"[" * 100_000), "not JSON"),
        (RawAnswer(b"[1, 2]"), "as a Kubernetes API server"),
        (RawAnswer(b'{"spec": 7}'), "as a Kubernetes API server"),
        (RawAnswer(b"null"), "as a Kubernetes API server"),
        (RawAnswer(b"\xff\xfe"), "not text in UTF-8"),
        (RawAnswer(b"x" * (6 * 2**20)), "more than 5 MiB"),
        (RawAnswer(b"", 302, {"Location": "http://169.254.169.254/"}), "answered 302"),
        (RawAnswer(b"upstream went away", 502), "answered 502: upstream went away"),
    ],
)
def test_an_answer_that_is_none_of_the_apis_is_an_error_in_one_sentence(
    cluster: Cluster, method: str, answer: RawAnswer, words: str
) -> None:
    cluster.raw[method] = answer
    with pytest.raises(LoadBalancerError, match=words):
        hook().set_weights(green("5"))


@pytest.mark.parametrize(
    "spec",
    [
        {"rules": {"0": {}}},
        {"rules": ["web"]},
        {"rules": [{"backendRefs": "all"}]},
        {"rules": [{"backendRefs": ["blue", "green"]}]},
        *(
            {"rules": [rule({"name": BLUE, "weight": odd}, backend(GREEN, 1))]}
            for odd in ("5", None, 1.5, -3, True, [])
        ),
    ],
)
def test_a_route_of_another_shape_is_an_error_and_no_traceback(cluster: Cluster, spec: Json) -> None:
    cluster.create(PATH, "HTTPRoute", spec)
    with pytest.raises(LoadBalancerError, match=r"httproutes/web"):
        hook().get_weights()


@pytest.mark.parametrize(
    "status",
    [
        {"parents": "edge"},
        {"parents": ["edge"]},
        {"parents": [{"conditions": "fine"}]},
        {"parents": [{"conditions": ["fine"]}]},
        "fine",
    ],
)
def test_a_status_of_another_shape_is_an_error_and_no_traceback(
    cluster: Cluster, status: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_api, "SETTLE_SECONDS", 0.05)
    cluster.documents[PATH]["status"] = status
    with pytest.raises(LoadBalancerError, match=r"httproutes/web"):
        hook().get_weights()


# --- forced, sticky, copied ---


def match(path: str = "/", *headers: tuple[str, str], **more: Any) -> Json:
    kept = [{"name": name, "value": value} for name, value in headers]
    return {"path": {"type": "PathPrefix", "value": path}, **({"headers": kept} if kept else {}), **more}


@pytest.mark.parametrize(
    ("ours", "theirs", "words"),
    [
        ({}, {"matches": [match("/", FORCED)]}, "header x-canary always"),
        ({"matches": [match("/shop")]}, {"matches": [match("/shop", FORCED)]}, "header x-canary always"),
        (
            {"matches": [match("/", ("x-team", "a"))]},
            {"matches": [match("/", ("X-Team", "a"), FORCED)]},
            "header x-canary always",
        ),
        (
            {"matches": [match("/a"), match("/b")]},
            {"matches": [match("/a", FORCED), match("/b", queryParams=[{"name": "canary", "value": "1"}])]},
            "header x-canary always or query canary 1",
        ),
        ({"matches": [match("/shop")]}, {"matches": [match("/", FORCED)]}, None),
        ({"matches": [match("/a"), match("/b")]}, {"matches": [match("/a", FORCED)]}, None),
        ({"matches": [match("/", ("x-team", "a"))]}, {"matches": [match("/", FORCED)]}, None),
        ({}, {"matches": [match("/", FORCED, method="GET")]}, None),
        ({}, {"matches": [match("/")]}, None),
        ({}, {}, None),
    ],
)
def test_a_rule_forces_when_every_request_of_ours_can_be_taken_by_something_on_top(
    cluster: Cluster, ours: Json, theirs: Json, words: str | None
) -> None:
    cluster.has(usual(**ours), rule(backend(GREEN), **theirs))
    if words is not None:
        assert hook().forced_by(GREEN) == words
    else:
        with pytest.raises(UnknownTargetError, match=f"no rule that takes chosen requests of rule 0 to {GREEN} alone"):
            hook().forced_by(GREEN)
    with pytest.raises(UnknownTargetError, match=BLUE):
        hook().forced_by(BLUE)


@pytest.mark.parametrize(
    "entries",
    [
        [backend(GREEN, 0)],
        [backend(GREEN, 1), backend(BLUE, 1)],
        [{**backend(GREEN), "namespace": "other"}],
        [{**backend(GREEN), "kind": "ServiceImport"}],
        [],
    ],
)
def test_a_rule_that_does_not_send_all_to_the_canary_forces_nothing(cluster: Cluster, entries: list[Json]) -> None:
    cluster.has(usual(), rule(*entries, matches=[match("/", FORCED)]))
    with pytest.raises(UnknownTargetError, match="no rule that takes"):
        hook().forced_by(GREEN)


def test_sessions_are_read_and_without_them_the_error_names_the_field(cluster: Cluster) -> None:
    with pytest.raises(UnknownTargetError, match="sessionPersistence"):
        hook().sticky_by()
    cluster.has(usual(sessionPersistence={"sessionName": "version"}))
    assert hook().sticky_by() == "cookie version"
    cluster.has(usual(sessionPersistence={"sessionName": "x-session", "type": "Header"}))
    assert hook().sticky_by() == "header x-session"


@pytest.mark.parametrize(
    ("mirror", "words"),
    [
        ({}, f"{GREEN}, 100 % of the requests"),
        ({"percent": 10}, f"{GREEN}, 10 % of the requests"),
        ({"fraction": {"numerator": 1, "denominator": 1000}}, f"{GREEN}, 0.1 % of the requests"),
        ({"percent": 0}, None),
        ({"backendRef": backend(BLUE)}, None),
    ],
)
def test_copies_are_read_and_without_them_the_error_names_the_filter(
    cluster: Cluster, mirror: Json, words: str | None
) -> None:
    copies = {"type": "RequestMirror", "requestMirror": {"backendRef": backend(GREEN), **mirror}}
    others = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-debug"]}}
    cluster.has(usual(filters=[others, copies]))
    if words is not None:
        assert hook().mirrored_to(GREEN) == words
    else:
        with pytest.raises(UnknownTargetError, match="RequestMirror"):
            hook().mirrored_to(GREEN)


def test_what_a_gateway_has_refused_keeps_no_client_and_copies_nothing(cluster: Cluster) -> None:
    cluster.refuses = "UnsupportedValue: sessionPersistence"
    cluster.has(usual(sessionPersistence={"sessionName": "version"}))
    with pytest.raises(LoadBalancerError, match="UnsupportedValue"):
        hook().sticky_by()

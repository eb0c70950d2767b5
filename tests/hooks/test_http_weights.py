"""What is declared of an HTTP API: refused at its line when it cannot work, and careful with what the API answers."""

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from canary_release.core.problems import CanaryError, LoadBalancerError, UnknownTargetError
from canary_release.core.release_file import lint, load_release
from canary_release.core.values import Weights
from canary_release.hooks import http_weights
from canary_release.hooks.http_weights import HttpWeightsHook
from canary_release.hooks.registry import BACKENDS
from demo.fake_api_server import Asked, FakeApiServer, Json, RawAnswer, RefusedByApi
from demo.http_api_fakes import APISIX_ROUTE, KEY, SPLITTER, TARGETS, ApisixFake, ConsulFake, KongFake

BLUE, GREEN = "shop-blue", "shop-green"
EXAMPLES = Path(__file__).parents[2] / "include" / "releases"


def green(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def connected(monkeypatch: pytest.MonkeyPatch, fake: FakeApiServer, header: str = "X-Key", key: str = KEY) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_API", json.dumps(fake.connection(headers={header: key})))


def example(name: str) -> HttpWeightsHook:
    options = load_release(EXAMPLES / f"{name}.yaml", backends=BACKENDS).load_balancer.options
    assert isinstance(options, HttpWeightsHook.Options)
    return HttpWeightsHook("api", (BLUE, GREEN), options)


# --- what lint says ---


DECLARED = """\
service: web
load_balancer:
  type: http
  connection: api
  backends: [shop-blue, shop-green]
  whole: 100
  read:
    path: /split
    weights:
      shop-blue: blue
      shop-green: green
    version: number
  write:
    - path: /split
      version_query: cas
      body: {blue: "{shop-blue}", green: "{shop-green}"}
metrics: {type: scrape, connection: metrics, preset: traefik}
steps:
  - {weight: 5%, bake: 10m}
  - {weight: 100%, bake: 10m}
checks:
  - {metric: error_rate, max_increase: 0.5pp}
"""


def test_the_declaration_that_the_broken_ones_are_made_from_is_fine() -> None:
    assert lint(DECLARED, source_name="web.yaml", backends=BACKENDS) == []


@pytest.mark.parametrize(
    ("was", "becomes", "line", "words"),
    [
        ("shop-green: green", 'shop-green: "data[?x"', 9, "the JMESPath of shop-green cannot be read"),
        ("shop-green: green", 'shop-green: ""', 9, "the JMESPath of shop-green cannot be read"),
        ("shop-green: green", f"shop-green: {'(' * 3000}a", 9, "of shop-green"),
        ("version: number", 'version: "a..b"', 12, "the JMESPath of the version cannot be read"),
        ('"{shop-green}"', '"{shop-red}"', 2, "must name the same two: shop-green, shop-red"),
        ('green: "{shop-green}"', "green: 5", 2, "must name the same two: shop-green"),
        ("    version: number\n", "", 2, "so read must say where it stands (version)"),
        ("version: number", "version: number\n    version_header: ETag", 7, "keep one"),
        ("path: /split\n      version_query", "path: split\n      version_query", 14, "`split` is not allowed"),
        ("path: /split\n    weights", 'path: "/split#a"\n    weights', 8, "is not allowed"),
        ("version_query: cas", "version_query: cas\n      method: DELETE", 16, "allowed: PUT, PATCH, POST"),
        ("whole: 100", "whole: 0", 6, "`0` is not allowed"),
        ("weight: 5%", "weight: 0.5%", 19, "`0.5%` is finer than http can set; write a multiple of `1%`"),
        ("version_query: cas", "version_qeury: cas", 15, "is not a known key"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused_at_its_line(was: str, becomes: str, line: int, words: str) -> None:
    assert was in DECLARED
    problems = lint(DECLARED.replace(was, becomes), source_name="web.yaml", backends=BACKENDS)
    assert [one for one in problems if one.startswith(f"web.yaml:{line}: load_balancer") or "steps[0]" in one], problems
    assert any(words in one for one in problems), problems


def test_decimals_make_finer_weights_possible() -> None:
    text = DECLARED.replace("whole: 100", "whole: 100\n  decimals: 2").replace("5%", "0.01%")
    assert lint(text, source_name="web.yaml", backends=BACKENDS) == []


# --- an API of one document, with a version ---


class Document(FakeApiServer):
    """``/split`` holds one document; a write with another version than its own is refused by ``conflict``.

    meanwhile: what somebody else does just before a write of ours arrives.  raw: answers in place of the API's, by
    method.
    """

    def __init__(self, document: Json, *, etag: bool = False, conflict: int = 409) -> None:
        self.etag = etag
        self.conflict = conflict
        self.meanwhile: list[Callable[[Json], None]] = []
        self.raw: dict[str, RawAnswer] = {}
        self.writes: list[Asked] = []
        super().__init__()
        self.documents["/split"] = {"blue": 100, "green": 0, "number": 7, "owner": "ada", **document}

    @property
    def split(self) -> Json:
        found: Json = self.documents["/split"]
        return found

    def answer(self, asked: Asked) -> Any:
        if asked.method != "GET":
            self.writes.append(asked)
            if self.meanwhile:
                self.meanwhile.pop(0)(self.split)
                self.split["number"] += 1
        if asked.method in self.raw:
            return self.raw[asked.method]
        if asked.path != "/split":
            raise RefusedByApi(404, "no such document")
        if asked.method != "GET":
            self._write(asked)
        headers = {"ETag": f'"{self.split["number"]}"'} if self.etag else {}
        return RawAnswer(json.dumps(self.split).encode(), headers=headers)

    def _write(self, asked: Asked) -> None:
        known = str(self.split["number"])
        sent = asked.query.get("cas", asked.headers.get("If-Match", known)).strip('"')
        if sent != known:
            raise RefusedByApi(self.conflict, "somebody was faster")
        self.split.update(asked.body)
        self.split["number"] += 1


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch) -> Iterator[Document]:
    with Document({}) as fake:
        connected(monkeypatch, fake)
        yield fake


def declared(**changes: Any) -> HttpWeightsHook:
    options = yaml.safe_load(DECLARED)["load_balancer"]
    options = {key: value for key, value in options.items() if key in ("whole", "read", "write")} | changes
    return HttpWeightsHook("api", (BLUE, GREEN), HttpWeightsHook.Options.model_validate(options))


def test_a_field_that_somebody_changed_between_our_read_and_our_write_survives(document: Document) -> None:
    document.meanwhile = [lambda split: split.update(owner="bob")]
    declared().set_weights(green("5"))
    assert document.split == {"blue": 95, "green": 5, "number": 9, "owner": "bob"}
    assert [asked.query for asked in document.writes] == [{"cas": "7"}, {"cas": "8"}]


def test_an_etag_goes_along_as_if_match_and_412_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read = {"path": "/split", "weights": {BLUE: "blue", GREEN: "green"}, "version_header": "etag"}
    body = {"blue": "{shop-blue}", "green": "{shop-green}"}
    write = [{"method": "PATCH", "path": "/split", "body": body, "version_header": "If-Match"}]
    with Document({}, etag=True, conflict=412) as fake:
        connected(monkeypatch, fake)
        fake.meanwhile = [lambda split: split.update(owner="bob")]
        declared(read=read, write=write).set_weights(green("5"))
        assert [asked.headers["If-Match"] for asked in fake.writes] == ['"7"', '"8"']
        assert (fake.split["green"], fake.split["owner"]) == (5, "bob")
        fake.etag = False
        with pytest.raises(LoadBalancerError, match=r"/split says no version; look at read\.version"):
            declared(read=read, write=write).set_weights(green("0"))


def test_two_versioned_writes_each_carry_the_version_of_their_moment(document: Document) -> None:
    blocks = [
        {"path": "/split", "version_query": "cas", "body": {name: f"{{shop-{name}}}"}} for name in ("blue", "green")
    ]
    declared(write=blocks).set_weights(green("5"))
    assert (document.split["blue"], document.split["green"]) == (95, 5)
    assert [asked.query["cas"] for asked in document.writes] == ["7", "8"]


def test_a_conflict_where_no_version_was_sent_is_an_error(document: Document) -> None:
    document.raw["PUT"] = RawAnswer(b"locked", 409)
    body = {"blue": "{shop-blue}", "green": "{shop-green}"}
    with pytest.raises(LoadBalancerError, match="answered 409: locked"):
        declared(write=[{"path": "/split", "body": body}]).set_weights(green("5"))
    assert len(document.writes) == 1


def test_somebody_who_is_always_faster_is_an_error_that_says_so(
    document: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_weights, "_TRIES", 3)
    document.meanwhile = [lambda split: None] * 9
    with pytest.raises(LoadBalancerError, match=r"/split was changed by others during each of 3 tries"):
        declared().set_weights(green("5"))
    assert document.split["green"] == 0


def test_a_field_of_the_same_text_is_not_taken_for_a_placeholder(document: Document) -> None:
    body = {"blue": "{shop-blue}", "green": "{shop-green}", "owner": "canary {shop-green}"}
    declared(write=[{"path": "/split", "body": body}]).set_weights(green("5"))
    assert document.split["owner"] == "canary {shop-green}"


# --- numbers that are none ---


@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        ("5", LoadBalancerError, "'5' for the weight of shop-green, no number"),
        (True, LoadBalancerError, "True for the weight"),
        ([5], LoadBalancerError, r"\[5\] for the weight"),
        ({"w": 5}, LoadBalancerError, "for the weight"),
        (float("nan"), LoadBalancerError, "nan for the weight"),
        (float("inf"), LoadBalancerError, "inf for the weight"),
        (10**400, LoadBalancerError, "for the weight"),
        (-5, LoadBalancerError, "share out nothing"),
        (None, UnknownTargetError, "no weight for shop-green"),
    ],
)
def test_a_weight_that_is_no_number_is_an_error_and_no_traceback(
    document: Document, weight: Any, error: type[CanaryError], words: str
) -> None:
    document.split["green"] = weight
    with pytest.raises(error, match=words):
        declared().get_weights()


def test_a_weight_finer_than_ours_is_not_read_as_nothing(document: Document) -> None:
    document.split.update(blue=99.6, green=0.4)
    assert declared().get_weights() == green("0.4")


def test_a_missing_weight_and_a_backend_without_a_path_are_unknown(document: Document) -> None:
    del document.split["green"]
    with pytest.raises(UnknownTargetError, match=r"no weight for shop-green; look at read\.weights"):
        declared().set_weights(green("5"))
    other = HttpWeightsHook("api", (BLUE, "shop-red"), declared().options)
    with pytest.raises(UnknownTargetError, match="no weight for shop-red"):
        other.get_weights()
    assert document.writes == []


def test_an_expression_that_does_not_fit_the_document_is_an_error_and_no_traceback(document: Document) -> None:
    read = {"path": "/split", "weights": {BLUE: "sum(owner)", GREEN: "green"}, "version": "number"}
    with pytest.raises(LoadBalancerError, match=r"/split cannot be read by sum\(owner\)"):
        declared(read=read).get_weights()


def test_a_version_that_is_no_single_value_is_an_error(document: Document) -> None:
    read = {"path": "/split", "weights": {BLUE: "blue", GREEN: "green"}, "version": "@"}
    with pytest.raises(LoadBalancerError, match=r"no single value for the version; look at read\.version"):
        declared(read=read).set_weights(green("5"))
    assert document.writes == []


# --- answers that are none ---


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RawAnswer(b"<html>sign in</html>"), "not JSON"),
        (RawAnswer(b"[" * 100_000), "not JSON"),
        (RawAnswer(b"null"), "no weight for shop-blue"),
        (RawAnswer(b"\xff"), "not text in UTF-8"),
        (RawAnswer(b"x" * (6 * 2**20)), "more than 5 MiB"),
        (RawAnswer(b"", 302, {"Location": "http://169.254.169.254/"}), "answered 302"),
        (RawAnswer(f"bad key {KEY}".encode(), 401), r"answered 401: bad key \*\*\*"),
        (RawAnswer(b"not for you", 403), "answered 403: not for you"),
        (RawAnswer(b"gone", 404), "answered 404: gone"),
    ],
)
def test_an_answer_that_is_no_document_is_an_error_in_one_sentence(
    document: Document, answer: RawAnswer, words: str
) -> None:
    document.raw["GET"] = answer
    with pytest.raises(LoadBalancerError, match=words) as raised:
        declared().set_weights(green("5"))
    assert KEY not in str(raised.value)
    assert document.writes == []


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RawAnswer(b"", 307, {"Location": "http://169.254.169.254/"}), "answered 307"),
        (RawAnswer(b'{"message": "weight too large"}', 422), "answered 422.*weight too large"),
        (RawAnswer(b"read-only", 405), "answered 405: read-only"),
        (RawAnswer(b"<html>"), "answered something that is not JSON"),
        (RawAnswer(b'{"status": "queued"}'), "did not accept the weights: .*queued"),
    ],
)
def test_a_write_that_is_not_accepted_is_an_error_in_the_apis_words(
    document: Document, answer: RawAnswer, words: str
) -> None:
    document.raw["PUT"] = answer
    body = {"blue": "{shop-blue}", "green": "{shop-green}"}
    with pytest.raises(LoadBalancerError, match=words):
        declared(write=[{"path": "/split", "body": body, "accepts": {"status": "done"}}]).set_weights(green("5"))
    assert len(document.writes) == 1


# --- the three examples ---


def test_kong_never_has_both_at_nothing_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, int]] = []
    with KongFake({BLUE: 10_000, GREEN: 0}, lambda _, targets: seen.append(dict(targets))) as kong:
        connected(monkeypatch, kong, "Kong-Admin-Token")
        for percent in ("100", "0", "5", "100", "5", "0"):
            example("kong").set_weights(green(percent))
            assert example("kong").get_weights() == green(percent)
    assert all(any(weights.values()) for weights in seen)
    # Raised first, then lowered: to 100 % and back.
    assert seen[:4] == [
        {BLUE: 10_000, GREEN: 10_000},
        {BLUE: 0, GREEN: 10_000},
        {BLUE: 10_000, GREEN: 10_000},
        {BLUE: 10_000, GREEN: 0},
    ]


class HalfKong(KongFake):
    """Refuses to change one of its targets."""

    def __init__(self, refused: str) -> None:
        self.refused = refused
        super().__init__({BLUE: 10_000, GREEN: 0}, lambda _, targets: None)

    def answer(self, asked: Asked) -> Any:
        if asked.method == "PATCH" and asked.path.endswith(self.refused):
            raise RefusedByApi(500, "could not write to the database")
        return super().answer(asked)


@pytest.mark.parametrize("refused", [BLUE, GREEN])
def test_kong_that_takes_half_of_a_change_is_an_error_and_traffic_still_flows(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HalfKong(refused) as kong:
        connected(monkeypatch, kong, "Kong-Admin-Token")
        with pytest.raises(LoadBalancerError, match="could not write to the database"):
            example("kong").set_weights(green("100"))
        assert any(row["weight"] for row in kong.documents[TARGETS]["data"])
        assert example("kong").get_weights() != green("100")


def test_kong_without_the_canarys_target_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with KongFake({BLUE: 100}, lambda _, targets: None) as kong:
        connected(monkeypatch, kong, "Kong-Admin-Token")
        with pytest.raises(UnknownTargetError, match=GREEN):
            example("kong").set_weights(green("5"))


class BusyConsul(ConsulFake):
    """Somebody else writes before each of our writes, ``times`` times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.answers: list[Any] = []
        super().__init__({BLUE: 100, GREEN: 0}, lambda _, weights: None)

    def answer(self, asked: Asked) -> Any:
        if asked.method == "PUT" and self.times:
            self.times -= 1
            self.documents[SPLITTER]["ModifyIndex"] += 1
        answer = super().answer(asked)
        if asked.method == "PUT":
            self.answers.append(answer)
        return answer


def test_consul_that_answers_false_is_asked_again_with_the_new_index(monkeypatch: pytest.MonkeyPatch) -> None:
    with BusyConsul(2) as consul:
        connected(monkeypatch, consul, "X-Consul-Token")
        example("consul").set_weights(green("0.25"))
        assert consul.answers == [False, False, True]
        assert example("consul").get_weights() == green("0.25")


def test_consul_that_answers_false_for_ever_is_an_error_and_nothing_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_weights, "_TRIES", 3)
    with BusyConsul(99) as consul:
        connected(monkeypatch, consul, "X-Consul-Token")
        with pytest.raises(LoadBalancerError, match="changed by others"):
            example("consul").set_weights(green("5"))
        assert example("consul").get_weights() == green("0")


def test_apisix_keeps_what_stands_beside_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    with ApisixFake({BLUE: 10_000, GREEN: 0}, lambda _, weights: None) as apisix:
        connected(monkeypatch, apisix, "X-API-KEY")
        example("apisix").set_weights(green("5"))
        route = apisix.documents[APISIX_ROUTE]
        assert (route["uri"], route["plugins"]["prometheus"]) == ("/*", {})
        assert example("apisix").get_weights() == green("5")


@pytest.mark.parametrize(
    ("name", "header", "make"),
    [
        ("kong", "Kong-Admin-Token", lambda: KongFake({BLUE: 1, GREEN: 0}, None)),
        ("apisix", "X-API-KEY", lambda: ApisixFake({BLUE: 1, GREEN: 0}, None)),
        ("consul", "X-Consul-Token", lambda: ConsulFake({BLUE: 100, GREEN: 0}, None)),
    ],
)
def test_a_wrong_key_is_refused_and_stands_in_no_error(
    name: str, header: str, make: Callable[[], FakeApiServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make() as fake:
        connected(monkeypatch, fake, header, "wrong-key-of-mine")
        with pytest.raises(LoadBalancerError, match=r"answered 40[13]") as raised:
            example(name).get_weights()
        assert "wrong-key-of-mine" not in str(raised.value)

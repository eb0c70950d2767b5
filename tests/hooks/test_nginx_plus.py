"""What is NGINX Plus' own: entries of a key-value zone, against a strict fake of its API, and njs splitting by them."""

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from urllib.request import urlopen

import pytest

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks.nginx_plus import NginxPlusHook
from contracts.nginx_plus_fake import NginxPlusFake, nginx_plus
from demo.nginx_server import NginxServer

BLUE, GREEN = "shop-blue", "shop-green"
FIRST = json.dumps({BLUE: 10_000, GREEN: 0})


def split(percent: str) -> Weights:
    return Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))


def hook_of(**options: object) -> NginxPlusHook:
    return NginxPlusHook("plus", (BLUE, GREEN), NginxPlusHook.Options.model_validate({"route": "shop", **options}))


@pytest.fixture
def plus(monkeypatch: pytest.MonkeyPatch) -> Iterator[NginxPlusFake]:
    with nginx_plus({"canary": {"shop": FIRST, "another": "7"}}) as fake:
        monkeypatch.setenv("AIRFLOW_CONN_PLUS", json.dumps(fake.connection()))
        yield fake


def test_both_shares_are_one_entry_and_change_in_one_request(plus: NginxPlusFake) -> None:
    hook_of().set_weights(split("5"))
    assert plus.zones == {"canary": {"shop": f'{{"{BLUE}":9500,"{GREEN}":500}}', "another": "7"}}
    assert [one for one in plus.seen if one.startswith("PATCH")] == ["PATCH /api/9/http/keyvals/canary"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"zone": "gone"}, "keyval not found"),
        ({"api_version": 99}, "unknown version"),
        ({"route": "gone"}, "gone is no entry; add it once"),
    ],
)
def test_what_the_api_does_not_have_is_an_unknown_target(
    plus: NginxPlusFake, options: dict[str, object], words: str
) -> None:
    with pytest.raises(UnknownTargetError, match=words):
        hook_of(**options).set_weights(split("5"))
    assert plus.zones["canary"]["shop"] == FIRST


@pytest.mark.parametrize(
    ("entry", "words"),
    [("5", "shares by backend"), ("{", "no JSON object"), (f'{{"{BLUE}": 10000}}', "no share for shop-green")],
)
def test_an_entry_that_is_no_split_is_an_error_and_left_as_it_is(plus: NginxPlusFake, entry: str, words: str) -> None:
    plus.zones["canary"]["shop"] = entry
    with pytest.raises(LoadBalancerError, match=words):
        hook_of().set_weights(split("5"))
    assert plus.zones["canary"]["shop"] == entry


@pytest.mark.parametrize(
    ("entry", "side"),
    [
        (f'{{"{BLUE}":0,"{GREEN}":10000}}', GREEN),
        (f'{{"{BLUE}":10000,"{GREEN}":0}}', BLUE),
        ("nonsense", BLUE),
        (f'{{"{BLUE}":0,"shop-red":10000}}', BLUE),
    ],
)
def test_njs_splits_by_the_entry_and_sends_everything_to_the_first_side_when_it_is_none(
    tmp_path: Path, entry: str, side: str
) -> None:
    nobody = {name: "http://127.0.0.1:1" for name in (BLUE, GREEN)}
    with NginxServer(tmp_path, nobody) as nginx:
        # Where NGINX Plus has keyval, this has a variable with the same name; and the answer is the side drawn.
        text = nginx.config.read_text().replace("proxy_pass http://$canary_backend;", "return 200 $canary_backend;")
        nginx.config.write_text(text.replace("set $canary_folder", f"set $canary_split '{entry}';\nset $canary_folder"))
        nginx.restart()
        for _ in range(5):
            with urlopen(nginx.url, timeout=5) as answer:
                assert answer.read().decode() == side

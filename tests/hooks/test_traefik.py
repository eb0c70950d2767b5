"""What is Traefik's own: its file in all its shapes, and an API that does not say what was hoped for."""

import json
import stat
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import connections, shared_file
from canary_release.hooks.traefik import TraefikHook
from contracts.little_servers import Answer, LittleServer, little_server

SERVICE = "/api/http/services/shop@file"
ROUTER = "/api/http/routers/web@docker"
LISTS = ("/api/http/routers?per_page=5000", "/api/http/services?per_page=5000")
BY_HAND = """# kept by the shop team
http:
  services:
    other: {weighted: {services: [{name: blue, weight: 7}, {name: green, weight: 3}]}}
    shop:
      weighted:
        services:
          - name: blue   # the old one
            weight: 10000
          - {weight: 0, name: "green"}
        sticky: {cookie: {name: version}}
"""
SECOND = "{{weight: 0, name: {}}}\n          - {{weight: 0,"


def split(percent: str) -> Weights:
    return Weights.split(stable="blue", canary="green", canary_percent=Decimal(percent))


def services(**weights: int) -> dict[str, object]:
    return {"services": [{"name": name, "weight": weight} for name, weight in weights.items()]}


def service(**changes: object) -> Answer:
    body = {"status": "enabled", "usedBy": ["web@docker"], "weighted": services(blue=95, green=5), **changes}
    return Answer(json.dumps(body).encode())


@pytest.fixture
def api() -> Iterator[LittleServer]:
    known = {SERVICE: service(), ROUTER: Answer(b'{"status": "enabled"}'), **{path: Answer(b"[]") for path in LISTS}}
    with little_server(Answer(b'{"message": "not found"}', status=404), known) as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "dynamic.yaml"
    file.write_text(BY_HAND)
    return file


@pytest.fixture
def hook(api: LittleServer, file: Path, monkeypatch: pytest.MonkeyPatch) -> TraefikHook:
    connection = {"conn_type": "http", "host": "127.0.0.1", "port": api.port, "extra": {"file": str(file)}}
    monkeypatch.setenv("AIRFLOW_CONN_TRAEFIK", json.dumps(connection))
    return TraefikHook("traefik", ("blue", "green"), TraefikHook.Options(route="shop"))


def test_a_file_kept_by_hand_differs_in_two_numbers_only(hook: TraefikHook, file: Path) -> None:
    hook.set_weights(split("2.5"))
    expected = BY_HAND.replace("weight: 10000", "weight: 9750").replace("weight: 0,", "weight: 250,")
    assert file.read_text() == expected


def test_the_file_keeps_its_mode_and_a_link_stays_a_link(hook: TraefikHook, file: Path) -> None:
    real = file.rename(file.with_name("real.yaml"))
    real.chmod(0o640)
    file.symlink_to(real)
    hook.set_weights(split("1"))
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert file.is_symlink()
    assert "9900" in real.read_text()


def test_nothing_but_the_lock_is_left_beside_the_file(hook: TraefikHook, file: Path) -> None:
    hook.set_weights(split("1"))
    assert {path.name for path in file.parent.iterdir()} == {"dynamic.yaml", "dynamic.yaml.lock"}


def test_a_reader_never_sees_half_a_file(hook: TraefikHook, file: Path) -> None:
    over = threading.Event()
    seen: list[int] = []

    def read_on() -> None:
        while not over.is_set():
            entries = yaml.safe_load(file.read_text())["http"]["services"]["shop"]["weighted"]["services"]
            seen.append(sum(entry["weight"] for entry in entries))

    reader = threading.Thread(target=read_on)
    reader.start()
    for percent in range(0, 100, 5):
        hook.set_weights(split(str(percent)))
    over.set()
    reader.join()
    assert set(seen) == {10_000}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda text: text.replace("shop:", "shoe:"), UnknownTargetError, "does not exist"),
        (lambda text: text.replace('"green"', "red"), UnknownTargetError, "no weight for green"),
        (lambda text: text.replace("{weight: 0, ", "{"), UnknownTargetError, "no weight for green"),
        (lambda text: text.replace("{weight: 0,", SECOND.format("red")), LoadBalancerError, "others"),
        (lambda text: text.replace("{weight: 0,", SECOND.format("blue")), LoadBalancerError, "once"),
        (lambda text: text.replace("10000", "&w 10000").replace("weight: 0", "weight: *w"), LoadBalancerError, "alone"),
        (lambda text: text.replace("7}", "&w 7}").replace("weight: 0", "weight: *w"), LoadBalancerError, "alone"),
        (lambda text: text + "    shop: {}\n", LoadBalancerError, "alone"),
        (lambda text: "[http]\n" + text, LoadBalancerError, "neither YAML nor JSON"),
        (lambda text: "", UnknownTargetError, "does not exist"),
        (lambda text: "[" * 1000, LoadBalancerError, "neither YAML nor JSON"),
    ],
)
def test_a_file_in_which_the_two_weights_cannot_be_changed_alone_is_left_as_it_is(
    hook: TraefikHook, file: Path, change: Callable[[str], str], error: type[Exception], words: str
) -> None:
    file.write_text(change(BY_HAND))
    with pytest.raises(error, match=words):
        hook.set_weights(split("5"))
    assert file.read_text() == change(BY_HAND)


def test_a_file_that_is_not_there_is_an_error_that_names_it(hook: TraefikHook, file: Path) -> None:
    file.unlink()
    with pytest.raises(LoadBalancerError, match=r"dynamic\.yaml cannot be read"):
        hook.set_weights(split("5"))


def test_a_writer_who_keeps_the_lock_is_waited_for_no_longer_than_the_limit(
    hook: TraefikHook, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_file, "LOCK_SECONDS", 0.05)
    with shared_file.exclusive(file), pytest.raises(LoadBalancerError, match="Another writer"):
        hook.set_weights(split("5"))
    hook.set_weights(split("5"))


@pytest.mark.parametrize("extra", [{}, {"file": "relative.yaml"}, {"file": 3}, {"fiel": "/x.yaml"}])
def test_a_connection_without_a_usable_file_is_refused(
    hook: TraefikHook, extra: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_TRAEFIK", json.dumps({"conn_type": "http", "host": "lb", "extra": extra}))
    with pytest.raises(ConnectionSettingsError, match="file"):
        hook.set_weights(split("5"))


def test_weights_come_from_the_api_and_not_from_the_file(hook: TraefikHook) -> None:
    assert hook.get_weights() == split("5")


def test_weights_of_another_base_are_read_as_percentages_that_add_up(hook: TraefikHook, api: LittleServer) -> None:
    api.answers[SERVICE] = service(weighted=services(**{"green@file": 1, "blue@file": 2}))
    weights = hook.get_weights()
    assert sum(weights.shares.values()) == 100
    assert weights["green"] == pytest.approx(Decimal("33.333333"), abs=Decimal("0.00001"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            service(status="disabled", error=["the service blue@file does not exist"]),
            "the service blue@file does not exist",
        ),
        (service(usedBy=[]), "No router"),
        (service(usedBy=["gone@file"]), "answered 404"),
        (service(weighted=None), "no weighted service"),
        (service(weighted=services(blue=0, green=0)), "share out nothing"),
        (service(weighted=services(blue=100)), "no weight for green"),
        (service(weighted=services(blue=90, green=5, red=5)), "others, too"),
        (service(weighted={"services": ["blue"]}), "no weighted service"),
        (Answer(b"[]"), "as Traefik's API does"),
        (Answer(b"<html>"), "not JSON"),
        (Answer(b"boom", status=500), "answered 500: boom"),
        (Answer(b'{"message": "not found"}', status=404), "not found"),
    ],
)
def test_an_api_that_says_anything_else_is_an_error_in_its_own_words(
    hook: TraefikHook, api: LittleServer, answer: Answer, words: str
) -> None:
    api.answers[SERVICE] = answer
    with pytest.raises(LoadBalancerError, match=words):
        hook.get_weights()


def test_a_disabled_router_is_an_error_in_traefiks_words(hook: TraefikHook, api: LittleServer) -> None:
    api.answers[ROUTER] = Answer(b'{"status": "disabled", "error": ["the service shop@file does not exist"]}')
    with pytest.raises(LoadBalancerError, match="does not exist"):
        hook.get_weights()


def test_an_api_that_hangs_is_an_error(hook: TraefikHook, api: LittleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_SECONDS", 0.1)
    api.answers[SERVICE] = Answer(hold=30)
    with pytest.raises(LoadBalancerError, match="in time"):
        hook.get_weights()

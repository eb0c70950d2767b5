"""What only some load balancers can do: asked of the file, asked again of the configuration, and true under traffic."""

import http.client
import json
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from canary_release.core.ports import ForcesCanary, KeepsClients, KeepsLease, Mirrors
from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.release import Ability
from canary_release.core.release_file import lint
from canary_release.core.values import Weights
from canary_release.hooks.abilities import check_abilities
from canary_release.hooks.registry import BACKENDS
from canary_release.hooks.traefik import TraefikHook
from canary_release.hooks.traefik_routing import Routing, conjuncts
from contracts.little_servers import Answer, LittleServer, little_server
from contracts.waiting import wait_until
from control.world import BLUE, GREEN, World, WorldBalancer, a_release
from demo.traefik_server import TraefikServer, dynamic_configuration

FORCED = {"X-Canary": "always"}
FORCE = {"rule": "PathPrefix(`/`) && Header(`X-Canary`, `always`)", "entryPoints": ["web"], "service": GREEN}
MARKS = count()


class Edge:
    """A real Traefik over two little servers, whose whole file a test may rewrite."""

    def __init__(self, traefik: TraefikServer, servers: dict[str, LittleServer]) -> None:
        self.traefik = traefik
        self.servers = servers
        self.hook = TraefikHook("edge", (BLUE, GREEN), TraefikHook.Options(route="shop"))

    def configure(self, edit: Callable[[dict[str, Any]], None] = lambda parts: None) -> None:
        """Start from all traffic on blue, ``edit`` the http part, and return when Traefik has it."""
        urls = {name: server.url for name, server in self.servers.items()}
        whole = dynamic_configuration("shop", urls, {BLUE: 10_000, GREEN: 0})
        edit(whole["http"])
        # Weights of 0 and 10000 say nothing about which file is in force.
        mark = f"mark-{next(MARKS)}"
        whole["http"]["routers"][mark] = {"rule": f"Path(`/{mark}`)", "entryPoints": ["web"], "service": BLUE}
        self.traefik.dynamic_file.write_text(json.dumps(whole))
        wait_until(lambda: any(row["name"] == f"{mark}@file" for row in self.listed("routers")), "the new file")

    def shift(self, percent: str) -> None:
        weights = Weights.split(stable=BLUE, canary=GREEN, canary_percent=Decimal(percent))
        self.hook.set_weights(weights)
        wait_until(lambda: self.hook.get_weights() == weights, f"{percent} % in force")

    def ask(self, times: int, headers: dict[str, str] | None = None) -> Counter[str]:
        return Counter(body for body, _ in self.answers(times, headers))

    def answers(self, times: int, headers: dict[str, str] | None = None) -> Iterator[tuple[str, str]]:
        """Body and new cookie of each answer."""
        line = http.client.HTTPConnection("127.0.0.1", int(self.traefik.url.rpartition(":")[2]), timeout=5)
        for _ in range(times):
            line.request("GET", "/", headers=headers or {})
            response = line.getresponse()
            yield response.read().decode(), (response.getheader("Set-Cookie") or "").partition(";")[0]
        line.close()

    def listed(self, kind: str) -> Any:
        with urlopen(f"{self.traefik.api_url}/api/http/{kind}?per_page=5000", timeout=5) as response:
            return json.load(response)

    def counted(self, service: str) -> float:
        with urlopen(self.traefik.metrics_url, timeout=5) as response:
            lines = response.read().decode().splitlines()
        asked = f'service="{service}@file"'
        name = "traefik_service_requests_total{"
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and asked in line)


@pytest.fixture(scope="module")
def running_edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with little_server(Answer(BLUE.encode())) as blue, little_server(Answer(GREEN.encode())) as green:
        servers = {BLUE: blue, GREEN: green}
        urls = {name: server.url for name, server in servers.items()}
        with TraefikServer(tmp_path_factory.mktemp("edge"), urls) as traefik:
            yield Edge(traefik, servers)


@pytest.fixture
def edge(running_edge: Edge, monkeypatch: pytest.MonkeyPatch) -> Edge:
    monkeypatch.setenv("AIRFLOW_CONN_EDGE", json.dumps(running_edge.traefik.connection()))
    for server in running_edge.servers.values():
        server.seen.clear()
    return running_edge


# --- forced ---


def test_a_forced_request_reaches_the_canary_at_weight_0_and_no_other_does(edge: Edge) -> None:
    edge.configure(lambda parts: parts["routers"].update(force=FORCE))
    assert edge.hook.forced_by(GREEN) == "Header(`X-Canary`,`always`)"
    assert edge.ask(100, FORCED) == {GREEN: 100}
    assert edge.ask(100) == {BLUE: 100}


def test_nobody_is_forced_to_the_side_that_no_router_names(edge: Edge) -> None:
    edge.configure(lambda parts: parts["routers"].update(force=FORCE))
    with pytest.raises(UnknownTargetError, match=f"chosen requests of shop@file to {BLUE}"):
        edge.hook.forced_by(BLUE)


def test_the_cure_in_the_error_is_one(edge: Edge) -> None:
    edge.configure()
    with pytest.raises(UnknownTargetError) as raised:
        edge.hook.forced_by(GREEN)
    words = str(raised.value)
    rule = words.partition("the rule ")[2].partition(", the same")[0]
    priority = int(words.partition("above ")[2].partition(",")[0]) + 1
    force = {"rule": rule, "priority": priority, "entryPoints": ["web"], "service": GREEN}
    edge.configure(lambda parts: parts["routers"].update(force=force))
    assert edge.hook.forced_by(GREEN)
    assert edge.ask(20, FORCED) == {GREEN: 20}


def test_forced_requests_through_a_service_of_their_own_stay_out_of_the_canarys_counters(edge: Edge) -> None:
    def of_its_own(parts: dict[str, Any]) -> None:
        parts["services"]["green-forced"] = parts["services"][GREEN]
        parts["routers"]["force"] = {**FORCE, "service": "green-forced"}

    edge.configure(of_its_own)
    before = edge.counted(GREEN)
    assert edge.hook.forced_by(GREEN)
    assert edge.ask(20, FORCED) == {GREEN: 20}
    wait_until(lambda: edge.counted("green-forced") == 20, "Traefik has counted them")
    assert edge.counted(GREEN) == before


def entrance(**changes: Any) -> dict[str, Any]:
    usual = {"name": "web@file", "provider": "file", "service": "shop", "rule": "Host(`shop.example`)", "priority": 20}
    return {**usual, "status": "enabled", "entryPoints": ["web"], **changes}


@pytest.mark.parametrize(
    ("router", "forced"),
    [
        ({}, True),
        ({"rule": "( Header(`a`, `b`) )  &&  Host(`shop.example`)"}, True),
        ({"rule": "Host(`shop.example`) && HeaderRegexp(`Cookie`, `canary=(a|b)&&x`)"}, True),
        ({"rule": "Host(`shop.example`) && Query(`canary`, `1`)", "entryPoints": ["web", "other"]}, True),
        ({"rule": "Header(`a`, `b`)"}, False),
        ({"rule": "Host(`shop.example`)"}, False),
        ({"rule": "Host(`other.example`) && Header(`a`, `b`)"}, False),
        ({"rule": "Host(`shop.example`) || Header(`a`, `b`)"}, False),
        ({"rule": "Host(`shop.example`) && Path(`/beta`)"}, False),
        ({"rule": "Host(`shop.example`) && Header(`a`, `b`) && Path(`/beta`)"}, False),
        ({"rule": "Host(`shop.example`) && !Header(`a`, `b`)"}, False),
        ({"priority": 20}, False),
        ({"entryPoints": ["other"]}, False),
        ({"tls": {}}, True),
        ({"tls": {"options": "default"}}, False),
        ({"status": "disabled"}, False),
        ({"service": "blue"}, False),
        ({"service": "green@docker"}, False),
        ({"service": "same-servers"}, True),
    ],
)
def test_a_router_forces_only_when_it_takes_requests_of_the_entrance_by_something_added(
    router: dict[str, Any], forced: bool
) -> None:
    usual = {"rule": "Host(`shop.example`) && Header(`a`, `b`)", "priority": 21, "name": "force@file"}
    servers = {"loadBalancer": {"servers": [{"url": "http://green"}]}, "status": "enabled"}
    services = [{"name": f"{name}@file", "provider": "file", **servers} for name in ("green", "same-servers")]
    rows = [entrance(), entrance(**{**usual, "service": "green", **router})]
    if forced:
        assert Routing.read(rows, services).forced_by("shop", "green")
    else:
        with pytest.raises(UnknownTargetError, match=r"Host\(`shop\.example`\) && Header"):
            Routing.read(rows, services).forced_by("shop", "green")


def test_each_entrance_needs_its_own_way_past_it() -> None:
    plain, tls = entrance(), entrance(name="tls@file", tls={"options": "default"})
    force = entrance(name="force@file", service="green", rule="Host(`shop.example`) && Header(`a`, `b`)", priority=30)
    with pytest.raises(UnknownTargetError, match="tls@file"):
        Routing.read([plain, tls, force], []).forced_by("shop", "green")
    assert Routing.read([plain, tls, force, {**force, "tls": tls["tls"]}], []).forced_by("shop", "green")


def test_a_rule_is_taken_apart_outside_of_quotes_and_parentheses_only() -> None:
    rule = '(Host(`a`) && PathPrefix(`/`)) && (Header("x", "1 && (2") || Query(`y`, `z`))'
    assert conjuncts(rule) == {"Host(`a`)", 'Header("x","1 && (2")||Query(`y`,`z`)'}


# --- sticky ---


def test_a_client_stays_on_its_side_until_the_canary_has_no_weight(edge: Edge) -> None:
    def sticky(parts: dict[str, Any]) -> None:
        parts["services"]["shop"]["weighted"]["sticky"] = {"cookie": {"name": "version"}}

    edge.configure(sticky)
    assert edge.hook.sticky_by() == "cookie version"
    edge.shift("25")
    cookies = {body: cookie for body, cookie in edge.answers(40) if cookie}
    assert set(cookies) == {BLUE, GREEN}
    edge.shift("5")
    # The share lags behind the weight: whoever has met the canary keeps it.
    assert edge.ask(50, {"Cookie": cookies[GREEN]}) == {GREEN: 50}
    assert edge.ask(50, {"Cookie": cookies[BLUE]}) == {BLUE: 50}
    edge.shift("0")
    assert edge.ask(50, {"Cookie": cookies[GREEN]}) == {BLUE: 50}


def test_without_a_cookie_the_error_names_the_key_to_set(edge: Edge) -> None:
    edge.configure()
    with pytest.raises(UnknownTargetError, match=r"weighted\.sticky\.cookie\.name"):
        edge.hook.sticky_by()


# --- mirror ---


def mirrored(parts: dict[str, Any], to: str) -> None:
    parts["services"]["shop-mirrored"] = {"mirroring": {"service": "shop", "mirrors": [{"name": to, "percent": 50}]}}
    parts["routers"]["shop"]["service"] = "shop-mirrored"


def test_copies_reach_the_canary_and_their_answers_nobody(edge: Edge) -> None:
    def of_its_own(parts: dict[str, Any]) -> None:
        parts["services"]["green-copies"] = parts["services"][GREEN]
        mirrored(parts, "green-copies")

    edge.configure(of_its_own)
    counted = edge.counted(GREEN)
    assert edge.hook.mirrored_to(GREEN) == "green-copies, 50 % of the requests"
    assert edge.ask(100) == {BLUE: 100}
    wait_until(lambda: edge.servers[GREEN].seen["/"] == 50, "50 copies")
    assert edge.counted(GREEN) == counted
    edge.shift("25")


def test_copies_through_the_canarys_own_service_are_counted_as_its_traffic(edge: Edge) -> None:
    """The trap that the page on load balancers warns of."""
    edge.configure(lambda parts: mirrored(parts, GREEN))
    counted = edge.counted(GREEN)
    assert edge.hook.mirrored_to(GREEN) == f"{GREEN}, 50 % of the requests"
    assert edge.ask(100) == {BLUE: 100}
    wait_until(lambda: edge.counted(GREEN) == counted + 50, "Traefik has counted the copies")


def test_copies_to_the_stable_side_are_no_mirror_of_the_canary(edge: Edge) -> None:
    edge.configure(lambda parts: mirrored(parts, BLUE))
    with pytest.raises(UnknownTargetError, match=f"no copies of its requests to {GREEN}"):
        edge.hook.mirrored_to(GREEN)


def test_a_route_that_no_router_uses_is_still_an_error(edge: Edge) -> None:
    def unused(parts: dict[str, Any]) -> None:
        mirrored(parts, GREEN)
        parts["routers"]["shop"]["service"] = GREEN

    edge.configure(unused)
    for ask in (edge.hook.get_weights, lambda: edge.hook.mirrored_to(GREEN), lambda: edge.hook.forced_by(GREEN)):
        with pytest.raises(LoadBalancerError, match="No router of Traefik"):
            ask()


# --- in the file, and at the start ---


RELEASE = """\
service: shop
load_balancer:
  type: {type}
  connection: lb
  {options}
  backends: [a, b]
  needs: [{need}]
metrics: {{type: scrape, connection: metrics, preset: traefik}}
steps: [{{weight: 5%, bake: 10m}}, {{weight: 100%, bake: 10m}}]
checks: [{{metric: error_rate, max_increase: 0.5pp}}]
"""


@pytest.mark.parametrize(
    ("type", "options", "need", "able"),
    [
        ("traefik", "route: shop", "lease", "aws_alb_leased, haproxy"),
        ("haproxy", "", "forced_canary", "gateway_api, traefik"),
        ("haproxy", "", "sticky", "aws_alb, aws_alb_leased, gateway_api, traefik"),
        ("caddy", "", "mirror", "gateway_api, traefik"),
    ],
)
def test_lint_refuses_what_a_type_cannot_do_and_names_those_that_can(
    type: str, options: str, need: str, able: str
) -> None:
    problems = lint(RELEASE.format(type=type, options=options, need=need), source_name="shop.yaml", backends=BACKENDS)
    said = f"shop.yaml:7: load_balancer.needs[0]: `{need}` is nothing that {type} can do; take it out, or use one of: "
    assert said + able in problems


def test_every_type_can_do_what_its_protocols_say_and_nothing_else() -> None:
    protocols = {
        Ability.LEASE: KeepsLease,
        Ability.FORCED_CANARY: ForcesCanary,
        Ability.STICKY: KeepsClients,
        Ability.MIRROR: Mirrors,
    }
    found = {name: BACKENDS.abilities(name) for name in BACKENDS.load_balancer_types()}
    assert found["traefik"] == {Ability.FORCED_CANARY, Ability.STICKY, Ability.MIRROR}
    assert found["haproxy"] == {Ability.LEASE}
    assert set(Ability) == set(protocols)


class StickyWorld(WorldBalancer):
    sticky = ""

    def sticky_by(self) -> str:
        if not self.sticky:
            raise UnknownTargetError("the world keeps no client on its side; make it.")
        return f"cookie {self.sticky}"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[tuple[World, StickyWorld]]:
    world = World(tmp_path, a_release(needs=(Ability.STICKY,)))
    balancer = world.balancer = StickyWorld()
    yield world, balancer
    world.ledger.close()


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_start_that_relies_on_what_is_not_configured_is_refused_before_anything_is_written(
    world: tuple[World, StickyWorld], dry_run: bool
) -> None:
    here, balancer = world
    with pytest.raises(UnknownTargetError, match="keeps no client"):
        here.start(dry_run=dry_run)
    assert balancer.writes == []
    assert here.ledger.active("shop") is None
    balancer.sticky = "version"
    assert here.start("v3", dry_run=dry_run).relies_on == {Ability.STICKY: "cookie version"}


def test_a_release_made_by_hand_that_needs_what_the_hook_has_not_is_refused() -> None:
    with pytest.raises(UnknownTargetError, match=r"WorldBalancer has no mirror; take it out of load_balancer\.needs"):
        check_abilities(WorldBalancer(), [Ability.MIRROR], canary=GREEN)

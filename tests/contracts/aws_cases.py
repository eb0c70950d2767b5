"""Cases of the contract suites on AWS: moto's server keeps the state, a real Traefik that follows it the traffic."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import pytest

from canary_release.core.values import FULL, NONE, Weights
from canary_release.hooks import aws_client
from canary_release.hooks.aws_alb import AlbOptions, AwsAlbHook
from canary_release.hooks.aws_lambda import AwsLambdaHook
from canary_release.hooks.aws_lease import LeasedAlbHook, LeaseOptions
from canary_release.hooks.aws_route53 import AwsRoute53Hook
from contracts.case import Case, real
from contracts.little_servers import Answer, LittleServer, little_server
from contracts.shop import BACKENDS
from contracts.strict_lambda import StrictLambda
from demo.alb_mirror import AlbMirror
from demo.moto_server import Alb, MotoServer
from demo.traefik_server import traefik_binary

STABLE, CANARY = BACKENDS
LEASE_ROLE = "arn:aws:iam::123456789012:role/canary-lease"
FUNCTION = "shop"
RECORD = "www.shop.example"


@dataclass
class Aws:
    """A moto server with an ALB, and the real Traefik that follows the ALB's rule."""

    moto: MotoServer
    alb: Alb
    mirror: AlbMirror
    backends: dict[str, LittleServer]

    def options(self, *names: str, by: str = "rule") -> AlbOptions:
        """Options for these backends; one that the ALB does not have gets a target group that nothing forwards to."""
        stranger = self.alb.target_groups[CANARY].replace(f"/{CANARY}/", "/nobody/")
        groups = {name: self.alb.target_groups.get(name, stranger) for name in names}
        place = {"rule": self.alb.rule} if by == "rule" else {"listener": self.alb.listener}
        return AlbOptions(**place, target_groups=groups)

    def reset(self) -> None:
        """Everything to the first backend, in rule and listener."""
        elb, actions = self.moto.client("elbv2"), self.moto.first_actions(self.alb.target_groups)
        elb.modify_rule(RuleArn=self.alb.rule, Actions=actions)
        elb.modify_listener(ListenerArn=self.alb.listener, DefaultActions=actions)

    def configuration(self) -> Any:
        """All that describes the load balancer, but the weights."""
        elb = self.moto.client("elbv2")
        whole = {
            "rules": elb.describe_rules(ListenerArn=self.alb.listener)["Rules"],
            "listeners": elb.describe_listeners(ListenerArns=[self.alb.listener])["Listeners"],
            "groups": elb.describe_target_groups()["TargetGroups"],
        }
        actions = [action for rule in whole["rules"] for action in rule["Actions"]]
        for action in [*whole["listeners"][0]["DefaultActions"], *actions]:
            for group in action.get("ForwardConfig", {}).get("TargetGroups", []):
                del group["Weight"]
        return whole


@pytest.fixture(scope="session")
def running_moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoServer]:
    with MotoServer(tmp_path_factory.mktemp("moto")) as moto:
        yield moto


@pytest.fixture(scope="session")
def running_alb(tmp_path_factory: pytest.TempPathFactory, running_moto: MotoServer) -> Iterator[Aws]:
    answers = {name: Answer(name.encode()) for name in BACKENDS}
    with little_server(answers[STABLE]) as stable, little_server(answers[CANARY]) as canary:
        servers = {STABLE: stable, CANARY: canary}
        urls = {name: server.url for name, server in servers.items()}
        alb = running_moto.make_alb(BACKENDS)
        running_moto.client("scheduler").create_schedule_group(Name="canary-release")
        with AlbMirror(tmp_path_factory.mktemp("mirror"), running_moto, alb, urls) as mirror:
            yield Aws(running_moto, alb, mirror, servers)


@pytest.fixture
def aws(running_alb: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    """The running ALB as it was at first, and its connection ``aws_contract``."""
    running_alb.reset()
    running_alb.mirror.resume()
    monkeypatch.setenv("AIRFLOW_CONN_AWS_CONTRACT", json.dumps(running_alb.moto.connection()))
    yield running_alb
    running_alb.mirror.pause()


class SeenInTraffic(AwsAlbHook):
    """The hook as it is, except that a read waits for the mirror: an ALB's own nodes follow in some 100 ms, too, and
    the suite counts requests from the read-back on.
    """

    mirror: AlbMirror

    def get_weights(self) -> Weights:
        weights = super().get_weights()
        self.mirror.wait_until_followed()
        return weights


class LeaseInTraffic(SeenInTraffic, LeasedAlbHook):
    """The same with a lease. Its end is a schedule that moto never carries out: see tests/hooks/test_aws_lease.py."""


def alb_case(request: pytest.FixtureRequest, *, leased: bool = False) -> Case:
    aws: Aws = request.getfixturevalue("aws")

    def make(*backends: str) -> AwsAlbHook:
        options, both = aws.options(*backends), (backends[0], backends[1])
        hook: SeenInTraffic
        if leased:
            hook = LeaseInTraffic("aws_contract", both, LeaseOptions(**options.model_dump(), lease_role=LEASE_ROLE))
        else:
            hook = SeenInTraffic("aws_contract", both, options)
        hook.mirror = aws.mirror
        return hook

    traefik = real("Traefik", [traefik_binary(), "version"])
    schedule = "; its schedule on moto, ended by a strict fake in tests/hooks" if leased else ""
    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        aws.configuration,
        # moto would forget all; what an ALB loses and gets again are nodes that carry the traffic.
        aws.mirror.traefik.restart,
        url=aws.mirror.url,
        tested_against=f"moto {version('moto')}, traffic through a {traefik} that follows it{schedule}",
    )


def forget_clients() -> None:
    """There is no server of AWS's to restart: what ends is our process, with all that it remembers."""
    with aws_client._lock:
        aws_client._kept.clear()


@pytest.fixture(scope="session")
def strict_lambda(running_moto: MotoServer) -> Iterator[StrictLambda]:
    running_moto.make_function(FUNCTION, BACKENDS)
    with StrictLambda(running_moto.url) as strict:
        yield strict


def lambda_case(request: pytest.FixtureRequest) -> Case:
    strict: StrictLambda = request.getfixturevalue("strict_lambda")
    moto: MotoServer = request.getfixturevalue("running_moto")
    functions = moto.client("lambda")
    connection = moto.connection()
    connection["extra"]["endpoint_url"] = strict.url
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_AWS_LAMBDA_CONTRACT", json.dumps(connection))
    first = functions.get_alias(FunctionName=FUNCTION, Name=STABLE)["FunctionVersion"]
    functions.update_alias(FunctionName=FUNCTION, Name="live", FunctionVersion=first, RoutingConfig={})

    def make(*backends: str) -> AwsLambdaHook:
        return AwsLambdaHook(
            "aws_lambda_contract", (backends[0], backends[1]), AwsLambdaHook.Options(function=FUNCTION)
        )

    def configuration() -> Any:
        aliases = functions.list_aliases(FunctionName=FUNCTION)["Aliases"]
        return [
            (alias["Name"], alias["FunctionVersion"], alias["Description"])
            for alias in aliases
            if alias["Name"] != "live"
        ]

    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        restart=forget_clients,
        tested_against=f"moto {version('moto')} behind a proxy that is strict about RevisionId",
    )


@pytest.fixture(scope="session")
def hosted_zone(running_moto: MotoServer) -> str:
    return running_moto.make_records("shop.example", RECORD, BACKENDS)


def route53_case(request: pytest.FixtureRequest) -> Case:
    moto: MotoServer = request.getfixturevalue("running_moto")
    zone: str = request.getfixturevalue("hosted_zone")
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW_CONN_AWS_CONTRACT", json.dumps(moto.connection()))

    def make(*backends: str) -> AwsRoute53Hook:
        options = AwsRoute53Hook.Options(zone=zone, record=RECORD)
        return AwsRoute53Hook("aws_contract", (backends[0], backends[1]), options)

    def configuration() -> Any:
        records = moto.client("route53").list_resource_record_sets(HostedZoneId=zone)["ResourceRecordSets"]
        return [{key: value for key, value in record.items() if key != "Weight"} for record in records]

    make(*BACKENDS).set_weights(Weights({STABLE: FULL, CANARY: NONE}))
    return Case(
        make(*BACKENDS),
        make(*BACKENDS),
        make(STABLE, "nobody"),
        configuration,
        restart=forget_clients,
        tested_against=f"moto {version('moto')}",
    )


CASES: dict[str, Callable[[pytest.FixtureRequest], Case]] = {
    "aws_alb": alb_case,
    "aws_alb_leased": partial(alb_case, leased=True),
    "aws_lambda": lambda_case,
    "aws_route53": route53_case,
}
IN_TRAFFIC = ("aws_alb",)

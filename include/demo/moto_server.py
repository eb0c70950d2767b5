"""AWS on the loopback: moto's server with an Application Load Balancer in front of two target groups.

moto keeps the state of AWS's APIs and moves no traffic; ``alb_mirror`` does that with a real Traefik.
"""

import io
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from demo.free_ports import LOOPBACK, free_port
from demo.processes import Process, answers

REGION = "eu-central-1"
START_SECONDS = 60
# What everybody knows; moto takes any.
KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}


@dataclass(frozen=True)
class Alb:
    """The ARNs of a load balancer. target_groups: by backend, in the order they were given."""

    load_balancer: str
    listener: str
    rule: str
    target_groups: dict[str, str]

    def dimension(self, arn: str) -> str:
        """The value of a CloudWatch dimension for a load balancer or a target group."""
        return arn.rpartition(":")[2].removeprefix("loadbalancer/")


class MotoServer:
    """One moto server, ready when constructed. Raises ProcessError when it does not come up."""

    def __init__(self, folder: Path) -> None:
        self._clients: dict[str, Any] = {}
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        argv = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
        self.process = Process(argv, log=folder / "moto.log", env={"MOTO_LAMBDA_STUB_ECR": "true"}, name="moto")
        try:
            self.process.wait_until(answers(f"{self.url}/moto-api/"), START_SECONDS, f"answer on {self.url}")
        except BaseException:
            self.process.stop()
            raise

    def client(self, service: str) -> Any:
        """The boto3 client of this server for a service, with nothing of ours in between."""
        import boto3  # type: ignore[import-untyped]

        if service not in self._clients:
            session = boto3.session.Session(**KEYS, region_name=REGION)
            self._clients[service] = session.client(service, endpoint_url=self.url)
        return self._clients[service]

    def connection(self) -> dict[str, Any]:
        """The Airflow connection for the AWS hooks, as JSON for an ``AIRFLOW_CONN_…`` variable."""
        extra = {"endpoint_url": self.url, "region_name": REGION}
        keys = {"login": KEYS["aws_access_key_id"], "password": KEYS["aws_secret_access_key"]}
        return {"conn_type": "aws", **keys, "extra": extra}

    def make_alb(self, backends: Sequence[str]) -> Alb:
        """A new load balancer with a listener and a rule; both forward everything to the first backend."""
        elb, network = self.client("elbv2"), self.client("ec2")
        subnets = network.describe_subnets()["Subnets"][:2]
        made = elb.create_load_balancer(Name="shop", Subnets=[subnet["SubnetId"] for subnet in subnets])
        balancer = made["LoadBalancers"][0]["LoadBalancerArn"]
        groups = {
            name: self._target_group(elb, name, subnets[0]["VpcId"], place) for place, name in enumerate(backends)
        }
        listener = elb.create_listener(
            LoadBalancerArn=balancer, Port=80, Protocol="HTTP", DefaultActions=self.first_actions(groups)
        )["Listeners"][0]["ListenerArn"]
        rule = elb.create_rule(
            ListenerArn=listener,
            Priority=10,
            Conditions=[{"Field": "path-pattern", "PathPatternConfig": {"Values": ["/*"]}}],
            Actions=self.first_actions(groups),
        )["Rules"][0]["RuleArn"]
        return Alb(balancer, listener, rule, groups)

    def first_actions(self, target_groups: dict[str, str]) -> list[dict[str, Any]]:
        """Who has logged in goes to the first target group; visitors stay where they are for ten minutes."""
        pool = f"arn:aws:cognito-idp:{REGION}:123456789012:userpool/{REGION}_shop"
        login = {"UserPoolArn": pool, "UserPoolClientId": "shop", "UserPoolDomain": "shop", "Scope": "openid"}
        entries = [
            {"TargetGroupArn": arn, "Weight": 999 if place == 0 else 0}
            for place, arn in enumerate(target_groups.values())
        ]
        sticky = {"Enabled": True, "DurationSeconds": 600}
        return [
            {"Type": "authenticate-cognito", "Order": 1, "AuthenticateCognitoConfig": login},
            {
                "Type": "forward",
                "Order": 2,
                "ForwardConfig": {"TargetGroups": entries, "TargetGroupStickinessConfig": sticky},
            },
        ]

    def make_function(self, name: str, backends: Sequence[str], alias: str = "live") -> dict[str, str]:
        """A new function with a published version and an alias for each backend; ``alias`` calls the first one.

        The versions by backend.
        """
        roles, functions = self.client("iam"), self.client("lambda")
        role = roles.create_role(RoleName=name, AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        functions.create_function(
            FunctionName=name, Runtime="python3.11", Role=role, Handler="app.run", Code={"ZipFile": _code_of(name)}
        )
        versions: dict[str, str] = {}
        for backend in backends:
            functions.update_function_code(FunctionName=name, ZipFile=_code_of(backend))
            versions[backend] = str(functions.publish_version(FunctionName=name)["Version"])
            functions.create_alias(FunctionName=name, Name=backend, FunctionVersion=versions[backend])
        functions.create_alias(FunctionName=name, Name=alias, FunctionVersion=versions[backends[0]])
        return versions

    def make_records(self, domain: str, record: str, backends: Sequence[str]) -> str:
        """A new hosted zone with a weighted record for each backend, everything on the first; the zone's id."""
        names = self.client("route53")
        zone = names.create_hosted_zone(Name=domain, CallerReference=domain)["HostedZone"]["Id"].rpartition("/")[2]
        changes = [
            {
                "Action": "CREATE",
                "ResourceRecordSet": {
                    "Name": record,
                    "Type": "A",
                    "SetIdentifier": backend,
                    "Weight": 200 if place == 0 else 0,
                    "TTL": 30,
                    "ResourceRecords": [{"Value": f"10.0.0.{place + 1}"}],
                },
            }
            for place, backend in enumerate(backends)
        ]
        names.change_resource_record_sets(HostedZoneId=zone, ChangeBatch={"Changes": changes})
        return str(zone)

    def _target_group(self, elb: Any, name: str, network: str, place: int) -> str:
        made = elb.create_target_group(Name=name, Protocol="HTTP", Port=80, VpcId=network, TargetType="ip")
        arn = str(made["TargetGroups"][0]["TargetGroupArn"])
        elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": f"10.0.0.{place + 1}", "Port": 80}])
        return arn

    def stop(self) -> None:
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _code_of(word: str) -> bytes:
    """A function's code as a zip file; another word is another version."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", f"def run(event, context):\n    return {word!r}\n")
    return packed.getvalue()

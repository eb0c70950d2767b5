"""How AWS is asked, and what each of its errors becomes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ReadTimeoutError,
)

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError, UnknownTargetError
from canary_release.hooks import aws_client
from canary_release.hooks.aws_client import AwsClient, kept_client
from contracts.fake_aws import FakeClient, refusal

RULE = "arn:aws:elasticloadbalancing:eu-central-1:1:listener-rule/app/shop/1/2/3"


def client_that(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[..., dict[str, Any]], slept: list[float] | None = None
) -> AwsClient:
    fake = FakeClient("elbv2", {"describe_rules": answer})
    monkeypatch.setattr(aws_client, "kept_client", lambda *_: fake)
    waits = [] if slept is None else slept
    return AwsClient(
        "aws_default",
        "elbv2",
        raises=LoadBalancerError,
        missing=UnknownTargetError,
        unknown=frozenset({"RuleNotFound"}),
        sleep=waits.append,
    )


def raising(error: Exception) -> Callable[..., dict[str, Any]]:
    def answer(**_: Any) -> dict[str, Any]:
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (refusal("RuleNotFound", "One or more rules not found"), UnknownTargetError, "rules not found"),
        (refusal("AccessDenied", "not authorized"), LoadBalancerError, "elasticloadbalancing:DescribeRules"),
        (refusal("ExpiredToken", "FwoGZXIvYXdzEBYaD"), LoadBalancerError, "renew them"),
        (refusal("ValidationError", "bad weight"), LoadBalancerError, "ValidationError: bad weight"),
        (refusal(""), LoadBalancerError, "no code"),
        (EndpointConnectionError(endpoint_url="http://10.0.0.1"), LoadBalancerError, "cannot be reached"),
        (ConnectTimeoutError(endpoint_url="http://10.0.0.1"), LoadBalancerError, "in time"),
        (ReadTimeoutError(endpoint_url="http://10.0.0.1"), LoadBalancerError, "in time"),
        (NoCredentialsError(), LoadBalancerError, "login and password"),
        (NoRegionError(), LoadBalancerError, "region_name"),
        (ConnectionResetError(), LoadBalancerError, "cannot be reached"),
    ],
)
def test_an_error_of_aws_becomes_one_sentence_with_the_cure(
    error: Exception, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_that(monkeypatch, raising(error))
    with pytest.raises(kind, match=words) as caught:
        client.call("describe_rules", RuleArns=[RULE])
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert "aws_default" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        refusal("SignatureDoesNotMatch", "canonical string was X-Amz-Security-Token:FwoGZXIvYXdzEBYaDN"),
        refusal("InternalFailure", "token FwoGZXIvYXdzEBYaDNFwoGZXIvYXdzEBYaDNFwoGZXIvYXdz"),
    ],
)
def test_a_token_in_the_answer_of_aws_is_not_repeated(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadBalancerError) as caught:
        client_that(monkeypatch, raising(error)).call("describe_rules", RuleArns=[RULE])
    assert "FwoGZX" not in str(caught.value)


def test_a_call_that_botocore_would_not_send_names_the_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadBalancerError, match="RuleArns"):
        client_that(monkeypatch, raising(AssertionError())).call("describe_rules", RuleArns="not a list")


def test_throttling_is_waited_for_and_then_the_call_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([refusal("Throttling"), refusal("RequestLimitExceeded")])

    def answer(**_: Any) -> dict[str, Any]:
        error = next(answers, None)
        if error is not None:
            raise error
        return {"Rules": []}

    slept: list[float] = []
    assert client_that(monkeypatch, answer, slept).call("describe_rules", RuleArns=[RULE]) == {"Rules": []}
    assert [0.1 <= slept[0] <= 0.2, 0.2 <= slept[1] <= 0.4, len(slept)] == [True, True, 2]


def test_throttling_that_does_not_end_is_an_error_after_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    with pytest.raises(LoadBalancerError, match="throttles"):
        client_that(monkeypatch, raising(refusal("Throttling")), slept).call("describe_rules", RuleArns=[RULE])
    assert len(slept) == 4
    assert sum(slept) <= 3


def test_the_wait_that_aws_asks_for_is_kept_but_not_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    error = refusal("ThrottlingException", headers={"retry-after": "1"})
    with pytest.raises(LoadBalancerError):
        client_that(monkeypatch, raising(error), slept).call("describe_rules", RuleArns=[RULE])
    assert slept == [1, 1, 1, 1]
    slept.clear()
    error = refusal("ThrottlingException", headers={"retry-after": "900"})
    with pytest.raises(LoadBalancerError):
        client_that(monkeypatch, raising(error), slept).call("describe_rules", RuleArns=[RULE])
    assert slept == [5, 5, 5, 5]


def test_all_pages_of_an_answer_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = {None: {"Rules": [1], "NextToken": "a"}, "a": {"Rules": [2]}}
    fake = FakeClient("cloudwatch", {"list_metrics": lambda NextToken=None: pages[NextToken]})
    monkeypatch.setattr(aws_client, "kept_client", lambda *_: fake)
    client = AwsClient("aws_default", "cloudwatch", raises=LoadBalancerError)
    assert [page["Rules"] for page in client.pages("list_metrics")] == [[1], [2]]


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    connection = {"conn_type": "aws", "login": "key", "password": "secret", **fields}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_HERE", json.dumps(connection))


def test_a_client_is_made_once_without_retries_and_anew_when_the_connection_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = {"retries": {"max_attempts": 10}, "proxies": {"https": "http://proxy.example:3128"}}
    connect(monkeypatch, extra={"endpoint_url": "http://127.0.0.1:1", "config_kwargs": own})
    first = kept_client("aws_here", "elbv2", "eu-central-1")
    assert kept_client("aws_here", "elbv2", "eu-central-1") is first
    assert first.meta.region_name == "eu-central-1"
    assert first.meta.config.retries == {"total_max_attempts": 1, "mode": "standard"}
    assert first.meta.config.proxies == own["proxies"]
    connect(monkeypatch, extra={"endpoint_url": "http://127.0.0.1:2"})
    second = kept_client("aws_here", "elbv2", "eu-central-1")
    assert second.meta.endpoint_url == "http://127.0.0.1:2"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"conn_type": "http"}, "must be aws"),
        ({"extra": {"endpoint_url": "http://169.254.169.254"}}, "endpoint_url"),
        ({"extra": {"service_config": {"elbv2": {"endpoint_url": "http://169.254.169.254"}}}}, "endpoint_url"),
        ({"extra": {"endpoint_url": "file:///etc/passwd"}}, "endpoint_url"),
    ],
)
def test_a_connection_that_cannot_be_used_says_why(
    fields: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, **fields)
    with pytest.raises(ConnectionSettingsError, match=words):
        kept_client("aws_here", "elbv2", None)


def test_a_connection_that_does_not_exist_never_falls_back_to_the_credentials_of_the_machine() -> None:
    with pytest.raises(ConnectionSettingsError, match="AIRFLOW_CONN_NOWHERE"):
        kept_client("nowhere", "elbv2", "eu-central-1")


def test_reading_a_release_file_for_aws_does_not_import_boto3() -> None:
    modules = ("aws_alb", "aws_lease", "aws_lambda", "aws_route53", "cloudwatch")
    program = (
        "import importlib, sys\n"
        f"for name in {modules}: importlib.import_module('canary_release.hooks.' + name)\n"
        "print([name for name in ('boto3', 'botocore') if name in sys.modules])\n"
    )
    plugins = Path(aws_client.__file__).parents[2]
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=plugins, timeout=60, check=True
    )
    assert told.stdout.splitlines()[-1] == "[]"

"""Weighted records: what is written beside the weight, and how long a rollback takes."""

import copy
from decimal import Decimal
from typing import Any

import pytest

from canary_release.core.problems import LoadBalancerError, UnknownTargetError
from canary_release.core.values import Weights
from canary_release.hooks import aws_client
from canary_release.hooks.aws_route53 import AwsRoute53Hook
from contracts.fake_aws import FakeClient

ALIAS = {"HostedZoneId": "Z215JYRZR1TBD5", "DNSName": "alb.example.com.", "EvaluateTargetHealth": True}


class FakeZone:
    """A hosted zone whose change batches are carried out wholly."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *records: dict[str, Any]) -> None:
        self.records = list(records)
        self.client = FakeClient(
            "route53",
            {
                "list_resource_record_sets": lambda **_: {"ResourceRecordSets": copy.deepcopy(self.records)},
                "change_resource_record_sets": lambda **asked: self._change(asked["ChangeBatch"]["Changes"]),
            },
        )
        monkeypatch.setattr(aws_client, "kept_client", lambda *_: self.client)

    def _change(self, changes: list[dict[str, Any]]) -> dict[str, Any]:
        for change in changes:
            assert change["Action"] == "UPSERT"
            fresh = change["ResourceRecordSet"]
            kept = [one for one in self.records if one.get("SetIdentifier") != fresh["SetIdentifier"]]
            self.records = [*kept, fresh]
        return {"ChangeInfo": {"Status": "PENDING"}}


def record(name: str, weight: int, **more: Any) -> dict[str, Any]:
    whole = {"Name": "www.example.com.", "Type": "A", "SetIdentifier": name, "Weight": weight, **more}
    return whole if "AliasTarget" in more else {"TTL": 30, "ResourceRecords": [{"Value": "10.0.0.1"}], **whole}


def hook() -> AwsRoute53Hook:
    options = AwsRoute53Hook.Options(zone="Z1", record="www.example.com")
    return AwsRoute53Hook("aws_here", ("blue", "green"), options)


def green(percent: str) -> Weights:
    return Weights.split(stable="blue", canary="green", canary_percent=Decimal(percent))


def test_both_records_are_written_in_one_batch_with_all_else_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = FakeZone(monkeypatch, record("blue", 1, HealthCheckId="h1"), record("green", 0, AliasTarget=ALIAS))
    hook().set_weights(green("0.5"))
    assert zone.records == [record("blue", 199, HealthCheckId="h1"), record("green", 1, AliasTarget=ALIAS)]
    assert len(zone.client.asked("change_resource_record_sets")) == 1
    assert hook().get_weights() == green("0.5")


@pytest.mark.parametrize(
    ("records", "seconds"),
    [
        ([record("blue", 1), record("green", 0, TTL=300)], 360),
        ([record("blue", 1, AliasTarget=ALIAS), record("green", 0, AliasTarget=ALIAS)], 120),
    ],
)
def test_a_rollback_takes_the_longest_ttl_and_the_spreading(
    records: list[dict[str, Any]], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeZone(monkeypatch, *records)
    assert hook().rollback_seconds() == seconds


@pytest.mark.parametrize(
    "records",
    [
        [record("blue", 1)],
        [record("blue", 1), {**record("green", 1), "Type": "AAAA"}],
        [record("blue", 1), {**record("green", 1), "Name": "other.example.com."}],
        [],
    ],
)
def test_records_that_are_not_there_are_an_unknown_target(
    records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    zone = FakeZone(monkeypatch, *records)
    for act in (hook().get_weights, lambda: hook().set_weights(green("5"))):
        with pytest.raises(UnknownTargetError, match="green"):
            act()
    assert zone.client.asked("change_resource_record_sets") == []


def test_a_third_record_with_weight_bars_a_raise_but_not_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    zone = FakeZone(monkeypatch, record("blue", 100), record("green", 10), record("red", 5))
    with pytest.raises(LoadBalancerError, match="red"):
        hook().set_weights(green("10"))
    hook().set_weights(green("0"))
    assert {one["SetIdentifier"]: one["Weight"] for one in zone.records} == {"red": 5, "blue": 200, "green": 0}

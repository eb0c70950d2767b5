"""AWS as a Python object: botocore's own model checks each call's shape, then a function of the test answers it."""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

import botocore.session
from botocore.exceptions import ClientError, ParamValidationError
from botocore.validate import ParamValidator

Answer = Callable[..., dict[str, Any]]


@cache
def _model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


class FakeClient:
    """A boto3 client of one service. answers: by operation, as in boto3; calls: what was asked, in order."""

    def __init__(self, service: str, answers: Mapping[str, Answer]) -> None:
        self.service = service
        self.answers = dict(answers)
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Answer:
        def call(**parameters: Any) -> dict[str, Any]:
            name = "".join(part.capitalize() for part in operation.split("_"))
            report = ParamValidator().validate(parameters, _model(self.service).operation_model(name).input_shape)
            if report.has_errors():
                raise ParamValidationError(report=report.generate_report())
            self.calls.append((operation, parameters))
            return self.answers[operation](**parameters)

        return call

    def asked(self, operation: str) -> list[dict[str, Any]]:
        return [parameters for name, parameters in self.calls if name == operation]


def refusal(code: str, words: str = "", headers: Mapping[str, str] | None = None) -> ClientError:
    """What boto3 raises when AWS refuses a call."""
    metadata = {"HTTPStatusCode": 400, "HTTPHeaders": dict(headers or {})}
    return ClientError({"Error": {"Code": code, "Message": words}, "ResponseMetadata": metadata}, "Operation")


class FakeCloudWatch:
    """Values with their times, and GetMetricData over them as its documentation says: aligned periods, no data point
    where there is nothing, TC and percentiles from the values themselves. ``client``: the boto3 client of it.
    """

    def __init__(self, per_page: int = 0) -> None:
        self.values: list[tuple[float, str, frozenset[tuple[str, str]], float]] = []
        self.per_page = per_page
        self.client = FakeClient("cloudwatch", {"get_metric_data": self._get_metric_data})

    def put(self, at: float, metric: str, dimensions: Mapping[str, str], values: Sequence[float]) -> None:
        self.values += [(at, metric, frozenset(dimensions.items()), value) for value in values]

    def _get_metric_data(self, **asked: Any) -> dict[str, Any]:
        start, end = asked["StartTime"].timestamp(), asked["EndTime"].timestamp()
        results = [self._result(query, start, end, asked["StartTime"].tzinfo) for query in asked["MetricDataQueries"]]
        first = int(asked.get("NextToken", 0))
        last = first + (self.per_page or len(results))
        answer: dict[str, Any] = {"MetricDataResults": results[first:last]}
        return answer if last >= len(results) else answer | {"NextToken": str(last)}

    def _result(self, query: dict[str, Any], start: float, end: float, zone: Any) -> dict[str, Any]:
        stat, metric = query["MetricStat"], query["MetricStat"]["Metric"]
        assert start % stat["Period"] == 0, "CloudWatch would move a start that is not aligned"
        assert end % stat["Period"] == 0
        wanted = frozenset((one["Name"], one["Value"]) for one in metric["Dimensions"])
        stamps, values = [], []
        for at in range(int(start), int(end), stat["Period"]):
            inside = [
                value
                for time, name, dimensions, value in self.values
                if at <= time < at + stat["Period"] and name == metric["MetricName"] and dimensions == wanted
            ]
            if inside:
                stamps.append(datetime.fromtimestamp(at, zone))
                values.append(statistic(stat["Stat"], inside))
        found = {"Timestamps": stamps, "Values": values, "StatusCode": "Complete"}
        return {"Id": query["Id"], "Label": stat["Stat"], **found}


def statistic(name: str, values: Sequence[float]) -> float:
    """One of CloudWatch's statistics over values."""
    if name == "Sum":
        return math.fsum(values)
    if name.startswith("TC("):
        low, _, high = name.removeprefix("TC(").removesuffix(")").partition(":")
        lower, upper = float(low or "-inf"), float(high or "inf")
        return float(sum(lower < value <= upper for value in values))
    assert name.startswith("p"), f"{name} is no statistic that is known here"
    rank = math.ceil(float(name[1:]) / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]

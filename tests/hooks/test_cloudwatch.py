"""CloudWatch period by period: whole, late, once, and without inventing data."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from canary_release.core.problems import MetricSourceError, ReleaseFileError
from canary_release.core.release import Release, Target
from canary_release.core.values import Counts, Window
from canary_release.hooks import aws_client
from canary_release.hooks.cloudwatch import CloudWatchOptions, CloudWatchSource, whole_numbers
from canary_release.hooks.registry import make_metric_source
from contracts.fake_aws import FakeClient, FakeCloudWatch

NOON = 1_800_014_400
SHARED = {"LoadBalancer": "app/shop/50dc6c495c0c9188"}
OWN = {"blue": {"TargetGroup": "targetgroup/blue/73e2d6bc24d8a067"}, "green": {"TargetGroup": "targetgroup/green/94"}}
EDGES = (0.1, 0.5)


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, per_page: int = 0) -> None:
        self.now = float(NOON)
        self.store = FakeCloudWatch(per_page)
        monkeypatch.setattr(aws_client, "kept_client", lambda *_: self.store.client)

    def source(self, **options: Any) -> CloudWatchSource:
        chosen = {"dimensions": SHARED, "backends": OWN, "edges": EDGES, **options}
        made = CloudWatchOptions.model_validate_json(json.dumps(chosen))
        return CloudWatchSource("aws_here", "blue", "green", made, clock=lambda: self.now)

    def happen(self, at: float, backend: str, seconds: list[float], errors: int = 0, refused: int = 0) -> None:
        """Requests that were answered after so many seconds, as an ALB reports them."""
        dimensions = {**SHARED, **OWN[backend]}
        for metric, values in (
            ("RequestCount", [1.0] * len(seconds)),
            ("TargetResponseTime", seconds),
            ("HTTPCode_Target_5XX_Count", [1.0] * errors),
            ("TargetConnectionErrorCount", [1.0] * refused),
        ):
            self.store.put(at, metric, dimensions, values)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def placed(window: Window) -> Window:
    return window.placed(index=0, step=0, weight=0.1)


def test_a_minute_becomes_a_window_with_the_counts_of_both_sides(world: World) -> None:
    _, cursor = world.source().read(None)
    world.happen(NOON + 5, "blue", [0.05, 0.1, 0.3, 0.9], errors=1)
    world.happen(NOON + 59, "green", [0.2], refused=1)
    world.now = NOON + 180
    windows, cursor = world.source().read(cursor)
    stable, canary = Counts(4, 1, (2, 1, 1)), Counts(1, 1, (0, 1, 0))
    wanted = Window(NOON, NOON + 60, stable, canary, edges=EDGES)
    # Two open weights are never equal.
    assert [placed(window) for window in windows] == [placed(wanted)]


def test_the_period_in_which_the_weights_were_shifted_is_left_out(world: World) -> None:
    world.now = NOON + 17
    _, cursor = world.source().read(None)
    world.happen(NOON + 30, "blue", [0.1])
    world.happen(NOON + 70, "blue", [0.1, 0.1])
    world.now = NOON + 240
    windows, _ = world.source().read(cursor)
    assert [window.start for window in windows] == [NOON + 60]
    assert windows[0].stable == Counts(2, 0, (2, 0, 0))


def test_the_periods_in_which_it_settles_are_left_out(world: World) -> None:
    world.now = NOON + 17
    _, cursor = world.source(settle=60).read(None)
    for second in (30, 70, 130):
        world.happen(NOON + second, "blue", [0.1])
    world.now = NOON + 300
    windows, _ = world.source(settle=60).read(cursor)
    assert [window.start for window in windows] == [NOON + 120]


def test_a_period_is_read_when_the_delay_has_passed_and_never_again(world: World) -> None:
    _, cursor = world.source().read(None)
    seen: list[float] = []
    for second in range(0, 600, 10):
        world.happen(NOON + second, "blue", [0.1])
        world.now = NOON + second
        windows, cursor = world.source().read(json.loads(json.dumps(cursor)))
        seen += [window.start - NOON for window in windows]
        # Minute 0 to 60 is whole at 60, and certain at 180.
        assert len(seen) == max(0, (second - 120) // 60)
    assert seen == [0, 60, 120, 180, 240, 300, 360]


def test_a_gap_is_caught_up_window_by_window(world: World) -> None:
    _, cursor = world.source().read(None)
    for minute in range(10):
        world.happen(NOON + 60 * minute, "blue", [0.1] * (minute + 1))
    world.now = NOON + 720
    windows, _ = world.source().read(cursor)
    assert [window.stable.requests for window in windows if window.stable] == list(range(1, 11))


def test_missing_errors_are_none_and_a_side_that_was_not_asked_had_no_requests(world: World) -> None:
    _, cursor = world.source().read(None)
    world.happen(NOON, "green", [0.1])
    world.now = NOON + 180
    (window,), _ = world.source().read(cursor)
    assert (window.stable, window.canary) == (Counts(0, 0, (0, 0, 0)), Counts(1, 0, (1, 0, 0)))


def test_a_period_without_any_request_count_is_no_data_even_with_errors(world: World) -> None:
    _, cursor = world.source().read(None)
    world.store.put(NOON, "HTTPCode_Target_5XX_Count", {**SHARED, **OWN["blue"]}, [1.0])
    world.now = NOON + 180
    (window,), _ = world.source().read(cursor)
    assert (window.stable, window.canary, window.broken) == (None, None, None)


def test_more_failed_connections_than_requests_are_as_many_errors_as_requests(world: World) -> None:
    _, cursor = world.source().read(None)
    world.happen(NOON, "blue", [0.1, 0.1], refused=6)
    world.now = NOON + 180
    (window,), _ = world.source().read(cursor)
    assert window.stable == Counts(2, 2, (2, 0, 0))


def test_an_answer_in_pages_is_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, per_page=3)
    _, cursor = world.source().read(None)
    world.happen(NOON, "blue", [0.1, 0.3, 0.9])
    world.now = NOON + 180
    (window,), _ = world.source().read(cursor)
    assert window.stable == Counts(3, 0, (1, 1, 1))
    assert len(world.store.client.calls) > 1


def test_percentiles_are_values_where_counts_are_not_wanted(world: World) -> None:
    source = world.source(latency="percentiles", percentiles=[0.5, 0.95])
    _, cursor = source.read(None)
    world.happen(NOON, "blue", [0.1, 0.2, 0.3, 0.4])
    world.now = NOON + 180
    (window,), _ = source.read(cursor)
    assert window.stable == Counts(4, values={"p50": 0.2, "p95": 0.4})
    assert window.edges == ()


def test_history_has_the_whole_periods_with_requests(world: World) -> None:
    for minute in (0, 1, 3):
        world.happen(NOON + 60 * minute, "blue", [0.1])
    world.now = NOON + 3600
    windows = world.source().history(NOON - 30, NOON + 290)
    assert [window.start - NOON for window in windows] == [0, 60, 180]


def test_history_does_not_ask_for_periods_that_are_not_certain_yet(world: World) -> None:
    world.happen(NOON, "blue", [0.1])
    world.now = NOON + 100
    assert world.source().history(NOON - 600, NOON + 100) == []


@pytest.mark.parametrize("cursor", [{}, {"end": "x", "period": 60}, {"end": NOON, "period": 300}, {"end": NOON + 1}])
def test_a_cursor_of_somebody_else_is_refused(cursor: dict[str, Any], world: World) -> None:
    with pytest.raises(MetricSourceError, match="baseline"):
        world.source().read(cursor)


def answering(monkeypatch: pytest.MonkeyPatch, **result: Any) -> None:
    def answer(**asked: Any) -> dict[str, Any]:
        start = asked["StartTime"]
        ids = [query["Id"] for query in asked["MetricDataQueries"]]
        return {
            "MetricDataResults": [
                {"Id": each, "Timestamps": [start], "StatusCode": "Complete", **result} for each in ids
            ]
        }

    monkeypatch.setattr(aws_client, "kept_client", lambda *_: FakeClient("cloudwatch", {"get_metric_data": answer}))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -3.0])
def test_a_number_that_is_no_count_breaks_the_window(
    number: float, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cursor = world.source().read(None)
    answering(monkeypatch, Values=[number])
    world.now = NOON + 180
    (window,), _ = world.source().read(cursor)
    assert window.broken is not None
    assert "no count" in window.broken


def test_a_metric_that_cloudwatch_could_not_give_is_an_error_and_not_zero(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cursor = world.source().read(None)
    answering(monkeypatch, Values=[1.0], StatusCode="InternalError")
    world.now = NOON + 180
    with pytest.raises(MetricSourceError, match="InternalError"):
        world.source().read(cursor)


def test_a_function_is_counted_by_the_versions_that_its_aliases_name(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"blue": "7", "green": "8"}
    functions = FakeClient("lambda", {"get_alias": lambda **asked: {"FunctionVersion": versions[asked["Name"]]}})
    store = FakeCloudWatch()
    clients = {"lambda": functions, "cloudwatch": store.client}
    monkeypatch.setattr(aws_client, "kept_client", lambda _, service, __: clients[service])
    options = CloudWatchOptions(preset="lambda", function="shop", edges=EDGES)
    source = CloudWatchSource("aws_here", "blue", "green", options, clock=lambda: NOON + 180)
    dimensions = {"FunctionName": "shop", "Resource": "shop:live", "ExecutedVersion": "8"}
    store.put(NOON, "Invocations", dimensions, [1.0, 1.0])
    store.put(NOON, "Duration", dimensions, [90.0, 700.0])
    (window,), _ = source.read({"end": NOON, "period": 60})
    assert window.canary == Counts(2, 0, (1, 0, 1))
    assert window.stable == Counts(0, 0, (0, 0, 0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"period": 30}, "60"),
        ({"period": 90}, "multiple of 60"),
        ({"backends": {"blue": {}}}, "two backends"),
        ({"edges": [0.5, 0.1]}, "rise"),
        ({"edges": []}, "rise"),
        ({"percentiles": [95]}, "between 0 and 1"),
        ({"preset": "lambda"}, "function"),
        ({"preset": "alb", "names": {"namespace": "A", "requests": "R", "errors": ["E"]}}, "not both"),
        ({"names": {"namespace": "A", "requests": "R", "errors": ["E"]}}, "latency: none"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], words: str) -> None:
    whole = {"dimensions": SHARED, "backends": OWN, **options}
    with pytest.raises(ValidationError, match=words):
        CloudWatchOptions.model_validate_json(json.dumps(whole))


def test_a_backend_without_dimensions_is_an_error_that_lists_the_known(world: World) -> None:
    source = CloudWatchSource("aws_here", "blue", "red", world.source().options, clock=lambda: NOON + 180)
    with pytest.raises(MetricSourceError, match="red; it has blue, green"):
        source.read({"end": NOON, "period": 60})


@pytest.mark.parametrize(("lease", "fine"), [(60.0, False), (249.0, False), (250.0, True)])
def test_a_lease_that_would_run_out_before_the_first_news_is_refused(lease: float, fine: bool) -> None:
    options = CloudWatchOptions(dimensions=SHARED, backends=OWN)
    release = Release(
        service="shop",
        load_balancer=Target("memory", "memory"),
        backends=("blue", "green"),
        metrics=Target("cloudwatch", "aws_here", options),
        steps=(),
        checks=(),
        poll=10.0,
        lease=lease,
    )
    if fine:
        assert isinstance(make_metric_source(release, stable="blue", canary="green"), CloudWatchSource)
        return
    with pytest.raises(ReleaseFileError, match="lease: is too short for cloudwatch; write `5m` or more"):
        make_metric_source(release, stable="blue", canary="green")


def parts() -> Iterator[tuple[list[float], tuple[int, ...]]]:
    yield [0.4, 0.4, 0.4], (1, 0, 0)
    yield [1.5, 2.5, 3.0], (2, 2, 3)
    yield [], ()
    yield [2.0, 0.0], (2, 0)


@pytest.mark.parametrize(("interpolated", "whole"), list(parts()))
def test_interpolated_counts_become_whole_numbers_with_the_same_sum(
    interpolated: list[float], whole: tuple[int, ...]
) -> None:
    assert whole_numbers(interpolated) == whole

"""What follows from the records of what the clients saw."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import traffic_log
from demo.traffic_log import Answers, Second, TrafficLogError
from demo.traffic_recorder import Recorder

BLUE = Answers("v1", "shop-blue", 96, 1, {9: 50, 12: 40, 60: 5}, 100.0, 100.9)
GREEN = Answers("v2", "shop-green", 4, 2, {20: 1, 57: 1}, 100.25, 100.75)
SECONDS = [
    Second(100, (BLUE, GREEN), {"502": 2}),
    Second(101, (), {}, held_back=3),
    Second(102, (Answers("v2", "shop-green", 1, 0, {80: 1}, 102.5, 102.5),), {"502": 1, "reset": 4}),
]


def test_share_is_of_the_answered_requests_not_of_the_lost_ones() -> None:
    assert traffic_log.share_observed(SECONDS[:1], "v2") == 0.04
    assert traffic_log.share_observed(SECONDS[:1], backend="shop-blue") == 0.96


def test_version_without_requests_has_no_share_while_others_have() -> None:
    assert traffic_log.share_observed(SECONDS, "v9") == 0.0


def test_share_without_any_traffic_is_unknown_not_zero() -> None:
    assert traffic_log.share_observed([SECONDS[1]], "v2") is None
    assert traffic_log.share_observed([], "v2") is None


def test_slow_and_failed_requests_are_hurt_once_each() -> None:
    assert traffic_log.hurt(SECONDS, "v2", slow_after=0.057) == 2 + 2
    assert traffic_log.hurt(SECONDS, "v2", slow_after=0.058) == 2 + 1
    assert traffic_log.hurt(SECONDS, "v1", slow_after=10.0) == 1
    assert traffic_log.hurt(SECONDS, "v9", slow_after=0.0) == 0


def test_request_exactly_at_the_threshold_is_slow_whatever_the_floats_say() -> None:
    edge = Second(1, (Answers("v2", "b", 1, 0, {2007: 1}, 1.0, 1.0),))
    assert traffic_log.hurt([edge], "v2", slow_after=2.007) == 1


def test_exposure_lasts_from_the_first_to_the_last_answer() -> None:
    assert traffic_log.exposure(SECONDS, "v2") == pytest.approx(2.25)
    assert traffic_log.exposure(SECONDS, "v9") == 0.0


def test_lost_requests_are_counted_by_reason() -> None:
    assert traffic_log.lost(SECONDS) == 7
    assert traffic_log.lost_by_reason(SECONDS) == {"502": 3, "reset": 4}


def test_error_rate_and_latency_are_of_one_version() -> None:
    assert traffic_log.error_rate(SECONDS, "v2") == 0.4
    assert traffic_log.error_rate(SECONDS, "v9") is None
    assert traffic_log.latency(SECONDS, "v1", 0.5) == 0.009
    assert traffic_log.latency(SECONDS, "v1", 0.95) == 0.06
    assert traffic_log.latency(SECONDS, "v1", 0.0) == 0.009
    assert traffic_log.latency(SECONDS, "v9", 0.5) is None


def test_version_with_errors_only_has_no_latency() -> None:
    broken = Second(1, (Answers("v2", "b", 3, 3, {}, 1.0, 1.5),))
    assert traffic_log.latency([broken], "v2", 0.5) is None


def test_parts_of_the_log_are_chosen_by_time() -> None:
    assert [each.second for each in traffic_log.newest(SECONDS, 2)] == [101, 102]
    assert traffic_log.newest([], 2) == []
    assert [each.second for each in traffic_log.between(SECONDS, 100.5, 102.0)] == [100, 101]


def test_versions_come_in_the_order_in_which_they_appeared() -> None:
    assert traffic_log.versions(SECONDS) == ["v1", "v2"]


def write(path: Path, seconds: list[Second], end: str = "") -> None:
    path.write_text("".join(json.dumps(traffic_log.to_json(second)) + "\n" for second in seconds) + end)


def test_log_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    write(tmp_path / "t.jsonl", SECONDS, end='{"second": 10')
    assert traffic_log.read_log(tmp_path / "t.jsonl") == SECONDS


@pytest.mark.parametrize(
    "line", ["{", "[]", "null", '{"second": 1}', '{"second":1e999,"answers":[],"lost":{},"held_back":0}']
)
def test_broken_line_in_the_log_is_named(tmp_path: Path, line: str) -> None:
    write(tmp_path / "t.jsonl", SECONDS, end=f"{line}\n")
    with pytest.raises(TrafficLogError, match=r"t\.jsonl:4: "):
        traffic_log.read_log(tmp_path / "t.jsonl")


def test_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrafficLogError, match=r"no\.jsonl: the traffic log cannot be read"):
        traffic_log.read_log(tmp_path / "no.jsonl")


events = st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["v1", "v2", "lost", "held"]), st.booleans()), max_size=60)


@given(events)
def test_no_event_is_lost_or_counted_twice_on_the_way_into_the_records(events: list[tuple[float, str, bool]]) -> None:
    recorder = Recorder(50.5)
    at = 50.5
    records = []
    for gap, kind, error in events:
        at += gap
        if kind == "lost":
            recorder.lose(at, "502")
        elif kind == "held":
            recorder.hold_back(at, 2)
        else:
            recorder.answer(at, version=kind, backend="b", error=error, seconds=gap)
        records += recorder.close_until(at)
    total = recorder.total()
    records += recorder.close_all(at)
    kinds = [kind for _, kind, _ in events]
    assert [each.second for each in records] == list(range(50, int(at) + 1))
    assert sum(each.held_back for each in records) == total.held_back == 2 * kinds.count("held")
    assert traffic_log.lost(records) == traffic_log.lost([total]) == kinds.count("lost")
    for version in ("v1", "v2"):
        own = traffic_log.answers_of(records, version)
        assert own == traffic_log.answers_of([total], version)
        assert (own.requests if own else 0) == kinds.count(version)
        assert (own.errors if own else 0) == sum(error for _, kind, error in events if kind == version)
    assert [traffic_log.from_json(json.loads(json.dumps(traffic_log.to_json(each)))) for each in records] == records

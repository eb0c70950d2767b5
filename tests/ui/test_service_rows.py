"""Where a service stands, in words, and who must act first."""

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from canary_release.core.plan import Plan
from canary_release.core.release import Step
from canary_release.core.values import Weights
from canary_release.ledger.overview import Brief, Finished, LastWrite, OpenQuestion, Requests, ServiceView
from canary_release.ledger.records import DecisionRecord, State
from canary_release.ui.phases import phase_of
from canary_release.ui.service_rows import figures_of, service_row, traffic_of
from demo.page_states import RELEASE

NOW = 10_000.0
PLAN = Plan(tuple(Step(Decimal(weight), 600.0) for weight in (1, 5, 100)), 0.0, 1800.0).to_json()


def brief(**changes: Any) -> Brief:
    known = {
        "id": "shop-3", "service": "shop", "generation": 3, "dag_id": "release_shop", "run_id": "r", "version": "v3",
        "old_version": "v2", "stable": "blue", "canary": "green", "safe_side": "blue", "state": State.RUNNING,
        "outcome_reason": "", "profile": "standard", "started_by": "ada", "reason": "", "step": 1,
        "step_started_at": NOW - 100, "lease_until": NOW + 60, "deadline": NOW + 9000, "blind_since": None,
        "started_at": NOW - 800, "ended_at": None, "kept_until": None,
    }  # fmt: skip
    return Brief(**(known | changes))


def wrote(asked: str, seen: str | None) -> LastWrite:
    def of(percent: str) -> Weights:
        return Weights.split(stable="blue", canary="green", canary_percent=Decimal(percent))

    return LastWrite(of(asked), True, NOW - 90, None if seen is None else of(seen), NOW - 89)


def view(rollout: Brief, **changes: Any) -> ServiceView:
    return replace(ServiceView("shop", rollout.id, rollout, (), PLAN, write=wrote("5", "5")), **changes)


def decided(decision: str) -> DecisionRecord:
    return DecisionRecord(1, 7, NOW - 1, decision, "undecided", "because", None)


PHASES = [
    ({"step": -1, "step_started_at": None}, {}, "starting", "starting"),
    ({"step_started_at": None}, {}, "shifting", "shifting to 5 %"),
    ({}, {}, "baking", "baking at 5 %"),
    ({"step_started_at": NOW - 700}, {"decision": decided("hold")}, "holding", "on hold at 5 %"),
    ({}, {"decision": decided("advance")}, "deciding", "advance at 5 %"),
    ({"blind_since": NOW - 30}, {}, "blind", "blind at 5 % for 30 s: the metrics cannot be read"),
    ({}, {"question": OpenQuestion(2, NOW - 9, NOW + 90, ("eve",))}, "waiting", "waiting for approval of 100 %"),
    ({"state": State.ROLLING_BACK}, {}, "rolling_back", "rolling back"),
    ({"state": State.PROMOTING}, {}, "promoting", "promoting"),
    ({"lease_until": NOW - 90}, {}, "stuck", "abandoned: its lease ran out 1 min 30 s ago"),
    ({"deadline": NOW - 120}, {}, "stuck", "abandoned: it is 2 min past its deadline"),
    ({"state": State.ROLLED_BACK, "ended_at": NOW}, {"write": wrote("0", "0")}, "rolled_back", "rolled back at 5 %"),
    (
        {"state": State.ROLLED_BACK, "ended_at": NOW, "step": -1, "step_started_at": None}, {"write": wrote("0", "0")},
        "rolled_back", "rolled back",
    ),
    ({"state": State.PROMOTED, "safe_side": "green"}, {"write": wrote("100", "100")}, "promoted", "promoted"),
    (
        {"state": State.ROLLED_BACK, "ended_at": NOW}, {}, "stuck",
        "weight without a rollout: green was last seen with 5 % of the traffic, and nobody is in charge of it",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("rollout", "around", "name", "words"), PHASES, ids=[each[3][:40] for each in PHASES])
def test_phase_is_told(rollout: dict[str, Any], around: dict[str, Any], name: str, words: str) -> None:
    one = brief(**rollout)
    phase = phase_of(view(one, **around), one, NOW)
    assert (phase.name, phase.words) == (name, words)


def test_bake_counts_down_to_its_end() -> None:
    assert phase_of(view(brief()), brief(), NOW).until == NOW + 500


def test_lease_that_has_just_run_out_is_left_to_the_guardian() -> None:
    one = brief(lease_until=NOW - 10)
    assert phase_of(view(one), one, NOW).name == "baking"


def test_people_come_before_machines() -> None:
    order = [phase_of(view(one, **around), one, NOW).urgency for one, around in (
        (brief(lease_until=NOW - 90), {}),
        (brief(), {"question": OpenQuestion(2, NOW, NOW + 90, ())}),
        (brief(state=State.ROLLING_BACK), {}),
        (brief(blind_since=NOW - 5), {}),
        (brief(), {}),
        (brief(state=State.ROLLED_BACK, ended_at=NOW - 60), {"write": wrote("0", "0")}),
        (brief(state=State.PROMOTED, safe_side="green"), {"write": wrote("100", "100")}),
    )]  # fmt: skip
    assert order == sorted(order)
    assert len(set(order)) == len(order)


def test_share_seen_in_requests_that_is_no_chance_is_told() -> None:
    far = traffic_of(view(brief(), requests=Requests(200, 800)), brief())
    assert (far.observed, far.differs) == (
        20.0, "the load balancer says 5 %, 20 % of the requests were seen on the canary",
    )  # fmt: skip
    assert traffic_of(view(brief(), requests=Requests(60, 940)), brief()).differs == ""


def test_write_that_was_not_read_back_yet_is_no_difference() -> None:
    told = traffic_of(view(brief(), write=wrote("5", None)), brief())
    assert (told.asked, told.read_back, told.differs) == (5.0, None, "")


def test_plan_that_cannot_be_read_leaves_the_row_readable() -> None:
    row = service_row(view(brief(), plan={"steps": "?"}), brief(), now=NOW, user="eve", may_change=False)
    assert (row.phase.name, row.steps) == ("starting", 0)


def test_rollout_is_yours_when_you_started_it_or_are_asked() -> None:
    asked = view(brief(), question=OpenQuestion(2, NOW, NOW + 9, ("eve",)))
    for user, yours in (("ada", True), ("eve", True), ("bob", False)):
        assert service_row(asked, brief(), now=NOW, user=user, may_change=True).yours is yours


def test_figures_of_nothing_are_unknown_and_not_zero() -> None:
    nothing = figures_of([], 30)
    assert (nothing.success_rate, nothing.seconds_to_full, nothing.seconds_to_zero) == (None, None, None)
    some = figures_of(
        [
            Finished("d", "promoted", 100.0),
            Finished("d", "promoted", 300.0),
            Finished("d", "rolled_back", 40.0),
            Finished("d", "rolled_back", None),
        ],
        30,
    )
    assert (some.success_rate, some.seconds_to_full, some.seconds_to_zero) == (0.5, 200.0, 40.0)


FREEZE = "freeze:\n  - {from: 2026-12-20T00:00Z, to: 2027-01-03T00:00Z, why: stocktaking}\n"
IN_IT = 1_798_000_000.0  # 2026-12-23


def advanced(text: str, plan: dict[str, Any] | None = None) -> tuple[str, str, float | None]:
    """name, why and until of a rollout whose next raise is due, under a release file with this at its end."""
    frozen = (RELEASE.format(service="shop") + text, "shop.yaml")
    one = brief(step_started_at=IN_IT - 900, lease_until=IN_IT + 60, deadline=IN_IT + 9000)
    phase = phase_of(view(one, decision=decided("advance"), frozen=frozen, plan=PLAN | (plan or {})), one, IN_IT)
    return phase.name, phase.why, phase.until


def test_raise_that_waits_for_the_calendar_says_until_when_and_why() -> None:
    name, why, until = advanced(FREEZE)
    assert (name, until) == ("closed", 1_798_934_400.0)
    assert why == "releases are frozen until sun 2027-01-03 00:00 UTC (stocktaking); it opens then."


@pytest.mark.parametrize(
    ("text", "plan"),
    [("", {}), (FREEZE + "allow_finish: true\n", {}), (FREEZE, {"override": "the shop is down"}), ("?: ?", {})],
)
def test_raise_that_does_not_wait_is_only_being_decided(text: str, plan: dict[str, Any]) -> None:
    assert advanced(text, plan) == ("deciding", "", None)

"""The plan: which weights a rollout goes through, what a person may pick, and how it is frozen."""

import json
from dataclasses import replace
from decimal import Decimal
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canary_release.core.plan import Plan, make_plan, render_plan
from canary_release.core.problems import LedgerError, RefusedError
from canary_release.core.release import Approval, Check, CheckKind, Release, Step, Target, WhenUndecided

APPROVAL = Approval(("release-managers", "ops"), 14400.0, "roll_back")
RELEASE = Release(
    service="checkout",
    load_balancer=Target("traefik", "lb"),
    backends=("blue", "green"),
    metrics=Target("scrape", "metrics"),
    steps=(
        Step(Decimal("0.1"), 600.0, min_requests=500),
        Step(Decimal(5), 600.0, min_bake=120.0, when_undecided=WhenUndecided.EXTEND, extend_up_to=1800.0),
        APPROVAL,
        Step(Decimal(25), 1200.0),
        Step(Decimal(100), 300.0),
    ),
    checks=(Check("error_rate", CheckKind.PROPORTION),),
    profiles={"hotfix": (Step(Decimal(10), 60.0), Step(Decimal(100), 60.0))},
)


def test_without_wishes_the_plan_is_the_files_own_steps() -> None:
    plan = make_plan(RELEASE)
    assert plan.steps == RELEASE.steps
    assert plan.weights == (Decimal("0.1"), 5, 25, 100)
    assert plan.profile == "standard"


def test_the_longest_time_counts_extensions_and_approvals() -> None:
    assert make_plan(RELEASE).longest_seconds == 600 + 1800 + 14400 + 1200 + 300


def test_the_shortest_time_is_two_looks_a_step_or_its_least_bake_and_the_last_bakes_in_full() -> None:
    assert make_plan(RELEASE).shortest_seconds == 20 + 120 + 20 + 300


def test_without_early_promotion_the_shortest_time_is_all_bakes() -> None:
    assert make_plan(replace(RELEASE, early_promotion=False)).shortest_seconds == 600 + 600 + 1200 + 300


def test_a_profile_has_its_own_steps() -> None:
    plan = make_plan(RELEASE, profile="hotfix")
    assert (plan.profile, plan.weights) == ("hotfix", (10, 100))


def test_a_misspelt_profile_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        RefusedError, match=r"no profile `hotfx` \(did you mean `hotfix`\?\); there are: hotfix, standard"
    ):
        make_plan(RELEASE, profile="hotfx")


@pytest.mark.parametrize("wish", ["5,100", "5%,100%", " 5 , 100 "])
def test_a_part_of_the_weights_can_be_picked(wish: str) -> None:
    assert make_plan(RELEASE, steps=wish).steps == (RELEASE.steps[1], APPROVAL, RELEASE.steps[4])


def test_an_approval_cannot_be_picked_away() -> None:
    for size in range(4):
        for chosen in combinations(["0.1", "5", "25"], size):
            assert APPROVAL in make_plan(RELEASE, steps=",".join([*chosen, "100"])).steps


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ("", "not a list"),
        ("abc", "not a list"),
        ("5;100", "not a list"),
        ("5,,100", "not a list"),
        ("50,100", "50 is no weight"),
        ("100,5", "does not rise"),
        ("5,5,100", "does not rise"),
        ("5,25", "rise to 100"),
        ("-5,100", "not a list"),
        ("1e1,100", "not a list"),
        ("nan", "not a list"),
        ("9" * 5000, "not a list"),
    ],
)
def test_any_other_wish_is_refused_with_the_weights_there_are(wish: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words) as refused:
        make_plan(RELEASE, steps=wish)
    assert "choose from 0.1, 5, 25, 100" in str(refused.value)


STEPS = st.builds(
    Step,
    weight=st.decimals("0.0001", 100, places=4),
    bake=st.floats(1, 1e6),
    min_bake=st.floats(0, 1e6),
    min_requests=st.integers(0, 10**9),
    when_undecided=st.sampled_from(WhenUndecided),
    extend_up_to=st.floats(0, 1e6),
)
APPROVALS = st.builds(
    Approval,
    by=st.lists(st.text(min_size=1), min_size=1).map(tuple),
    timeout=st.floats(1, 1e6),
    on_timeout=st.sampled_from(["hold", "roll_back"]),
)


@given(st.lists(STEPS | APPROVALS, max_size=6))
@settings(derandomize=True, deadline=None)
def test_a_frozen_plan_thaws_as_it_was(steps: list[Step | Approval]) -> None:
    plan = Plan(tuple(steps), 1.5, 2.5, "fast")
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


@pytest.mark.parametrize(
    "damage",
    [
        {},
        {"steps": None},
        {"steps": [{}]},
        {"steps": ["x"]},
        {"steps": [{"weight": "many"}]},
        {"shortest_seconds": "x"},
    ],
)
def test_a_damaged_frozen_plan_is_a_ledger_error(damage: dict[str, object]) -> None:
    whole = make_plan(RELEASE).to_json() if damage else {}
    with pytest.raises(LedgerError, match="cannot be read"):
        Plan.from_json({**whole, **damage})


def test_the_plan_reads_as_a_table() -> None:
    assert render_plan(RELEASE, make_plan(RELEASE)).splitlines() == [
        "checkout (standard): 0.1/5/25/100 %, 7m40s to 5h5m",
        "step  canary    bake  soonest  requests  undecided",
        "1     0.1%      10m   20s      500       advance",
        "2     5%        10m   2m       -         extend to 30m",
        "      approval  release-managers, ops; after 4h: roll_back",
        "3     25%       20m   20s      -         advance",
        "4     100%      5m    5m       -         advance",
    ]


def test_the_table_has_room_for_what_a_step_can_detect() -> None:
    plan = make_plan(RELEASE, profile="hotfix")
    table = render_plan(RELEASE, plan, detects=["errors x3", "errors x1.2"]).splitlines()
    assert [line.split("advance")[-1].strip() for line in table[2:]] == ["errors x3", "errors x1.2"]
    with pytest.raises(ValueError, match="1 texts for 2"):
        render_plan(RELEASE, plan, detects=["errors x3"])

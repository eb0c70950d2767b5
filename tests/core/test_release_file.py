"""Release files: what the examples mean, and that whatever is broken is refused in words that name place and cure."""

import json
from decimal import Decimal
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from canary_release.core.problems import ReleaseFileError
from canary_release.core.release import (
    Ability,
    Approval,
    Calendar,
    CheckKind,
    Direction,
    LimitKind,
    Release,
    ReleaseWindow,
    Step,
    WhenUndecided,
)
from canary_release.core.release_file import lint, load_release
from canary_release.core.release_schema import release_schema, schema_text
from core.small_world import WORLD, RouteOptions

ROOT = Path(__file__).resolve().parent.parent.parent
RELEASES = ROOT / "include" / "releases"
EXAMPLES = [RELEASES / "shop.yaml", RELEASES / "checkout.yaml"]
REFUSED = Path(__file__).resolve().parent / "refused"
EXPECTATIONS = [
    [part.strip() for part in line.split("|", 2)]
    for line in (REFUSED / "expectations.txt").read_text().splitlines()
    if line and not line.startswith("#")
]

SMALL = """\
service: shop
load_balancer: {type: traefik, connection: lb, route: shop, backends: [shop-blue, shop-green]}
metrics: {type: scrape, connection: metrics, preset: traefik}
steps:
  - {weight: 5%, bake: 10m}
  - {weight: 100%, bake: 10m}
checks:
  - {metric: error_rate, max_increase: 0.5pp}
"""


def load(text: str) -> Release:
    return load_release(text, source_name="shop.yaml", backends=WORLD)


def problems_of(text: str) -> list[str]:
    return lint(text, source_name="shop.yaml", backends=WORLD)


def test_the_small_file_the_broken_ones_are_made_from_is_fine() -> None:
    assert problems_of(SMALL) == []


def test_everything_left_out_has_its_stated_default() -> None:
    release = load(SMALL)
    assert (release.poll, release.lease, release.max_no_data, release.max_blind) == (10.0, 60.0, 600.0, 300.0)
    assert (release.on_no_data, release.early_promotion, release.harm_budget) == ("roll_back", True, 0.25)
    assert (release.calendar, release.profiles, release.owner) == (Calendar(), {}, "")
    assert (dict(release.hooks), release.keep_old_for, release.on_asset) == ({}, 0.0, "")
    assert release.steps[0] == Step(Decimal(5), 600.0, when_undecided=WhenUndecided.ADVANCE)


def test_a_long_poll_gets_a_default_lease_that_outlives_three_of_them() -> None:
    assert load(SMALL + "poll: 1m\n").lease == 180.0


def test_the_checkout_example_means_what_it_says() -> None:
    release = load_release(EXAMPLES[1], backends=WORLD)
    assert [step.weight for step in release.steps if isinstance(step, Step)] == [1, 5, 25, 100]
    assert release.calendar.windows == (ReleaseWindow((0, 1, 2, 3), 540, 960, "Europe/Berlin"),)
    errors, load_time = release.checks
    assert errors.kind is CheckKind.PROPORTION
    assert errors.max_change is not None
    assert (errors.max_change.kind, errors.max_change.amount) == (LimitKind.POINTS, 0.005)
    assert (load_time.kind, load_time.quantile) == (CheckKind.LATENCY, 0.95)
    assert release.load_balancer.options == RouteOptions(route="checkout")


def test_the_shop_example_fits_the_demo() -> None:
    release = load_release(EXAMPLES[0], backends=WORLD)
    assert (release.poll, release.lease, release.backends) == (1.0, 30.0, ("shop-blue", "shop-green"))
    assert [step.bake for step in release.steps if isinstance(step, Step)] == [10.0, 15.0, 45.0, 10.0]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_fits_the_load_balancers_and_metric_sources_that_exist(path: Path) -> None:
    from canary_release.hooks.registry import BACKENDS

    assert lint(path, backends=BACKENDS) == []


def test_every_optional_key_of_the_copied_example_may_be_switched_on() -> None:
    """The comments of checkout.yaml are examples, too: uncommented they must be a release."""
    lines = EXAMPLES[1].read_text().splitlines()
    body = lines[3:]
    prose = ("# A metric of your own",)
    switched = [
        line.replace("# ", "", 1) if line.lstrip().startswith("#") and not line.lstrip().startswith(prose) else line
        for line in body
    ]
    text = "\n".join(switched).replace("undecided: advance", "undecided: extend")
    release = load(text)
    assert set(release.profiles) == {"hotfix"}
    assert release.steps[3] == Approval(("release-managers",), 14400.0, "roll_back")
    assert release.owner == "nobody"
    assert release.checks[2].direction is Direction.HIGHER_IS_BETTER


def test_an_absolute_limit_on_a_rate_is_a_share_of_its_own() -> None:
    text = SMALL.replace("max_increase: 0.5pp", "max: 1%")
    absolute = load(text).checks[0].absolute
    assert absolute is not None
    assert (absolute.kind, absolute.amount, absolute.text) == (LimitKind.POINTS, 0.01, "1%")


def test_early_promotion_can_be_switched_off_and_given_a_budget() -> None:
    assert load(SMALL + "early_promotion: false\n").early_promotion is False
    assert load(SMALL + "early_promotion: {harm_budget: 10%}\n").harm_budget == 0.1


def test_the_frozen_text_reads_back_as_the_same_release(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_bytes(("\ufeff" + SMALL.replace("\n", "\r\n") + "owner: Jürgen\r\n").encode())
    first = load_release(path, backends=WORLD)
    assert load(first.text) == first


def test_a_file_that_is_not_there_is_one_line() -> None:
    (problem,) = lint(Path("no/such/release.yaml"), backends=WORLD)
    assert problem.startswith("no/such/release.yaml:1: the file cannot be read")


def test_a_folder_instead_of_a_file_is_one_line(tmp_path: Path) -> None:
    (problem,) = lint(tmp_path, source_name="releases", backends=WORLD)
    assert problem == "releases:1: the file cannot be read (it is not a regular file); check its path and permissions"


def test_all_problems_of_a_file_come_at_once_in_its_order() -> None:
    text = SMALL.replace("5%, bake: 10m", "5, bake: 10").replace("0.5pp", "5") + "colour: blue\nlease: 3s\n"
    problems = problems_of(text)
    assert [problem.split(": ")[0] for problem in problems] == [f"shop.yaml:{line}" for line in (5, 5, 8, 9, 10)]
    assert problems[0] == "shop.yaml:5: steps[0].bake: `10` is not a duration; give it a unit, such as `10s` or `10m`"


def test_a_misspelt_key_is_not_also_called_missing() -> None:
    (problem,) = problems_of(SMALL.replace("{weight: 5%,", "{weigth: 5%,"))
    assert "did you mean `weight`?" in problem


def test_a_thousand_problems_are_cut_to_what_a_person_reads() -> None:
    problems = problems_of(SMALL + "".join(f"key{number}: 1\n" for number in range(1000)))
    assert len(problems) == 51
    assert "more problems" in problems[-1]


def test_a_value_of_thousands_of_characters_is_told_in_a_line_that_can_be_read() -> None:
    (line,) = problems_of(SMALL.replace("service: shop", f"service: {'7' * 4000}"))
    assert line.startswith("shop.yaml:1: service: `777")
    assert len(line) <= 800


def test_a_weight_finer_than_the_balancer_is_refused_in_profiles_too() -> None:
    balancer = "{type: haproxy, connection: lb, backends: [a, b]}"
    text = "\n".join(
        f"load_balancer: {balancer}" if line.startswith("load_b") else line for line in SMALL.splitlines()
    ).replace("5%", "4%")
    assert problems_of(text) == []
    (problem,) = problems_of(text + "\nprofiles: {fast: [{weight: 5%, bake: 1m}, {weight: 100%, bake: 1m}]}\n")
    assert "profiles.fast[0].weight: `5%` is finer than haproxy can set; write a multiple of `0.4%`" in problem


def test_what_the_balancer_cannot_do_is_refused_with_those_that_can() -> None:
    text = SMALL.replace("route: shop,", "route: shop, needs: [sticky, lease],")
    (problem,) = problems_of(text)
    said = "shop.yaml:2: load_balancer.needs[1]: `lease` is nothing that traefik can do; take it out, or use one of: "
    assert problem == said + "haproxy"
    assert load(text.replace(", lease", "")).needs == (Ability.STICKY,)


def test_a_misspelt_or_repeated_need_is_refused() -> None:
    (problem,) = problems_of(SMALL.replace("route: shop,", "route: shop, needs: [stiky],"))
    assert "load_balancer.needs[0]: `stiky` is not known (did you mean `sticky`?); allowed: lease, forced_c" in problem
    (problem,) = problems_of(SMALL.replace("route: shop,", "route: shop, needs: [sticky, sticky],"))
    assert "load_balancer.needs: sticky stands twice; name each once" in problem
    assert problems_of(SMALL.replace("route: shop,", "route: shop, needs: sticky,"))


def test_an_options_model_of_a_hook_is_checked_at_its_line() -> None:
    (problem,) = problems_of(SMALL.replace("route: shop", "route: shop, port: 0"))
    assert problem.startswith("shop.yaml:2: load_balancer.port: `0` is not allowed")


@pytest.mark.parametrize(("name", "line", "words"), EXPECTATIONS, ids=[one[0] for one in EXPECTATIONS])
def test_a_broken_file_is_refused_with_its_line_and_the_cure(name: str, line: str, words: str) -> None:
    path = REFUSED / f"{name}.yaml"
    problems = lint(path, source_name=path.name, backends=WORLD)
    matching = [problem for problem in problems if words in problem]
    assert matching, f"none of these says {words!r}:\n" + "\n".join(problems)
    assert all(problem.startswith(f"{path.name}:") and "\n" not in problem for problem in problems)
    assert line == "0" or any(problem.startswith(f"{path.name}:{line}: ") for problem in matching), matching
    jargon = ("Input should", "Value error", "pydantic", "Traceback", "type=", "str_type")
    assert not [problem for problem in problems if any(word in problem for word in jargon)]
    with pytest.raises(ReleaseFileError):
        load_release(path, backends=WORLD)


def test_every_broken_file_has_an_expectation() -> None:
    assert {one[0] for one in EXPECTATIONS} == {path.stem for path in REFUSED.glob("*.yaml")}
    assert len(EXPECTATIONS) >= 100


PIECES = st.sampled_from(
    [
        *"{}[]:\t\n'\"|~\x00\ud800\u202e",
        *["- ", "&a", "*a", "!!x", "---", "? ", "<<", "5%", "1:30", ".nan", "weight", "approve", "null"],
        "9" * 30,
    ]
)


@given(st.lists(st.tuples(st.integers(0, len(SMALL)), st.integers(0, 4), PIECES), min_size=1, max_size=5))
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_a_file_damaged_anywhere_gives_lines_or_a_release_but_no_traceback(
    damage: list[tuple[int, int, str]],
) -> None:
    text = SMALL
    for place, cut, piece in damage:
        text = text[:place] + piece + text[place + cut :]
    for problem in problems_of(text):
        assert problem.startswith("shop.yaml:")
        assert problem.isprintable()


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_bytes_give_lines(data: bytes) -> None:
    assert all(problem.startswith("shop.yaml:") for problem in problems_of(data.decode("latin-1")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_editor_with_the_schema_accepts_the_example(path: Path) -> None:
    jsonschema.Draft202012Validator(release_schema()).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "name",
    [
        "unknown_key",
        "misspelt_weight",
        "weight_without_percent",
        "bake_without_unit",
        "undecided_misspelt",
        "key_without_value",
        "critical_quoted",
        "service_missing",
        "early_promotion_off",
        "window_long_day",
    ],
)
def test_an_editor_with_the_schema_marks_a_broken_file(name: str) -> None:
    data = yaml.safe_load((REFUSED / f"{name}.yaml").read_text())
    if name == "early_promotion_off":
        data["early_promotion"] = "off"  # what YAML 1.2, which editors use, makes of it
    assert list(jsonschema.Draft202012Validator(release_schema()).iter_errors(data))


def test_the_schema_in_the_repository_is_the_models() -> None:
    path = ROOT / "include" / "release.schema.json"
    jsonschema.Draft202012Validator.check_schema(json.loads(path.read_text()))
    refresh = "PYTHONPATH=plugins python -m canary_release.core.release_schema > include/release.schema.json"
    assert path.read_text() == schema_text(), f"stale; refresh it: {refresh}"

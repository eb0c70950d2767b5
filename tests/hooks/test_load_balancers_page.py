"""docs/load-balancers.md says what the hooks say: every type, its finest step, its abilities; and its links lead on."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from canary_release.core.release import Ability
from canary_release.core.release_file import load_release
from canary_release.hooks.registry import BACKENDS

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "load-balancers.md"
TEXT = PAGE.read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]
TYPES = {name: row for row in ROWS if len(row) == 7 for name in re.findall(r"`(\w+)`", row[0])}
NEEDS = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in ROWS if len(row) == 3}


def test_every_type_has_a_row_with_its_finest_step() -> None:
    assert sorted(TYPES) == BACKENDS.load_balancer_types()
    steps = {name: Decimal(row[1].removesuffix(" %")) for name, row in TYPES.items() if row[1] != "as declared"}
    assert steps == {name: BACKENDS.finest_step(name) for name in steps}
    assert set(TYPES) - set(steps) == {"http"}


@pytest.mark.parametrize("ability", list(Ability))
def test_an_ability_names_exactly_the_types_that_have_it(ability: Ability) -> None:
    assert NEEDS[ability] == {name for name in BACKENDS.load_balancer_types() if ability in BACKENDS.abilities(name)}


def test_the_types_that_keep_a_lease_say_so_in_their_row() -> None:
    assert {name for name, row in TYPES.items() if row[5] == "**yes**"} == NEEDS["lease"]
    assert all(row[5] in ("no", "**yes**") for row in TYPES.values())


def test_the_block_of_the_page_is_a_release_file() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    rest = (
        "service: checkout\n"
        "metrics: {type: scrape, connection: checkout_metrics, preset: traefik}\n"
        "steps: [{weight: 1%, bake: 30m}, {weight: 100%, bake: 30m}]\n"
        "checks: [{metric: error_rate, max_increase: 0.5pp}]\n"
    )
    release = load_release(rest + block, source_name="checkout.yaml", backends=BACKENDS)
    assert release.needs == (Ability.FORCED_CANARY, Ability.STICKY)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_a_link_of_the_page_leads_to_a_file(target: str) -> None:
    assert (PAGE.parent / target).is_file()

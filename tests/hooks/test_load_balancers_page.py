"""The README's table and docs/load-balancers.md say what the hooks say: every type, its finest step, its abilities."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from bench.shift_table import BEGIN, END
from canary_release.core.release import Ability
from canary_release.core.release_file import load_release
from canary_release.hooks.registry import BACKENDS

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "load-balancers.md"
TEXT = PAGE.read_text()


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]


NEEDS = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in rows(TEXT) if len(row) == 3}
# What `make bench-shift` wrote: a row for each type, or for each way to use it.
TABLE = (ROOT / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
ROWS = [(re.findall(r"`(\w+)`", row[0])[0], row) for row in rows(TABLE)]


def test_every_type_has_a_row_with_its_finest_step() -> None:
    # The memory balancer is for trying things out.
    assert {name for name, _ in ROWS} == set(BACKENDS.load_balancer_types()) - {"memory"}
    steps = {name: Decimal(row[5].removesuffix(" %")) for name, row in ROWS if name != "http"}
    assert steps == {name: BACKENDS.finest_step(name) for name in steps}


def test_a_row_names_the_abilities_of_its_type() -> None:
    for name, row in ROWS:
        assert set(re.findall(r"`(\w+)`", row[6])) == BACKENDS.abilities(name), name


@pytest.mark.parametrize("ability", list(Ability))
def test_an_ability_names_exactly_the_types_that_have_it(ability: Ability) -> None:
    assert NEEDS[ability] == {name for name in BACKENDS.load_balancer_types() if ability in BACKENDS.abilities(name)}


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

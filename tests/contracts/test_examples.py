"""Every release file that a user may copy: linted, planned, promoted and rolled back on what it is an example for."""

from pathlib import Path

import pytest

from canary_release.control.real_desk import read_release
from canary_release.core.plan import make_plan, render_plan
from canary_release.core.release_file import lint
from canary_release.hooks.registry import BACKENDS as KNOWN
from canary_release.ledger.records import State
from contracts.every_case import CASES
from contracts.little_servers import ill
from contracts.rehearsal import Rehearsal, behind
from contracts.shop import BACKENDS

RELEASES = Path(__file__).parents[2] / "include" / "releases"
FILES = sorted(path.name for path in RELEASES.glob("*.yaml"))


def case_of(name: str) -> str:
    """The entry of the contract suite that an example is for: its type, or the one of its mode."""
    balancer = read_release(RELEASES / name).load_balancer
    if balancer.type == "http":
        return f"http: {Path(name).stem}"
    with_mode = f"{balancer.type}_{getattr(balancer.options, 'mode', '')}"
    return with_mode if with_mode in CASES else balancer.type


def test_whatever_lies_among_the_examples_is_tried() -> None:
    assert sorted(path.name for path in RELEASES.iterdir()) == FILES


def test_every_load_balancer_and_every_way_to_use_it_has_an_example() -> None:
    # The memory balancer is for trying things out: nobody's traffic goes through it.
    assert {case_of(name) for name in FILES} == CASES.keys() - {"memory"}
    types = {read_release(RELEASES / name).load_balancer.type for name in FILES}
    assert types == set(KNOWN.load_balancer_types()) - {"memory"}


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_sound_and_says_what_it_would_do(name: str) -> None:
    assert lint(RELEASES / name, source_name=name, backends=KNOWN) == []
    release = read_release(RELEASES / name)
    assert render_plan(release, make_plan(release))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_good_version_is_promoted_and_a_bad_one_taken_back(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    release = read_release(RELEASES / name)
    case = CASES[case_of(name)](request)
    rehearsal = Rehearsal.of(behind(release, BACKENDS), case.balancer, case.url, tmp_path)
    assert rehearsal.run(path_for=lambda _: "/").state is State.PROMOTED
    assert case.balancer.get_weights()[BACKENDS[1]] == 100
    bad = rehearsal.run(path_for=lambda rollout: ill(rollout.canary))
    assert bad.state is State.ROLLED_BACK
    assert case.balancer.get_weights()[BACKENDS[1]] == 100  # the proven side since the promotion

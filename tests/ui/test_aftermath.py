"""What a rollout did to its users, from counts whose truth is known."""

from dataclasses import replace

import pytest

from canary_release.core.aftermath import Aftermath, Shown, aftermath, stable_quantile
from canary_release.core.release import Check, CheckKind, Limit, LimitKind
from canary_release.core.values import Counts, Window
from canary_release.ui.past_harm import harm_sentences

ERRORS = Check("error_rate", CheckKind.PROPORTION, max_change=Limit(LimitKind.POINTS, 0.005, "0.5pp"))
SLOW = Check("page_load_time", CheckKind.LATENCY, quantile=0.9, max_change=Limit(LimitKind.RELATIVE, 0.1, "10%"))
EDGES = (0.1, 0.2, 0.4)


def window(number: int, bad: int, *, step: int = 0, of: int = 100, stable: Counts | None = None) -> Window:
    """Ten seconds in which stable failed 1 % of 1000 requests."""
    canary = Counts(of, bad)
    return Window(10.0 * number, 10.0 * number + 10, stable or Counts(1000, 10), canary, index=number, step=step)


def harmed(windows: list[Window], *, decided: int | None, ended: float) -> Aftermath:
    shown = [Shown(0.0, 0.0), Shown(0.5, 5.0), Shown(ended, 0.0)]
    return aftermath(
        windows, shown, [ERRORS], started_at=0.0, ended_at=ended, decided=decided, blamed="error_rate"
    )  # fmt: skip


def test_harm_that_began_in_the_fourth_window_is_dated_there() -> None:
    windows = [window(number, 1 if number < 3 else 30) for number in range(6)]
    told = harmed(windows, decided=5, ended=60.4)
    assert told.first_harm_at == 30.0
    assert told.seconds_to_zero == pytest.approx(30.4)
    assert told.seconds_from_evidence == pytest.approx(0.4)
    assert told.errors == 93
    assert told.errors_above_stable == pytest.approx(93 - 6)
    assert (told.highest_weight, told.exposed_seconds) == (5.0, pytest.approx(59.9))


def test_one_unlucky_window_long_before_is_not_taken_for_the_beginning() -> None:
    windows = [window(number, {1: 3, 9: 40, 10: 40}.get(number, 0)) for number in range(11)]
    assert harmed(windows, decided=10, ended=111).first_harm_at == 90.0


def test_rollout_that_was_not_taken_off_for_a_check_has_no_first_harm() -> None:
    told = harmed([window(number, 30) for number in range(3)], decided=None, ended=30)
    assert (told.first_harm_at, told.seconds_to_zero, told.zero_at) == (None, None, None)
    assert told.errors_above_stable == pytest.approx(87)


def test_canary_that_was_better_hurt_fewer_than_none() -> None:
    assert harmed([window(0, 0)], decided=None, ended=10).errors_above_stable == pytest.approx(-1)


def test_step_without_stable_traffic_is_held_against_stable_before_it() -> None:
    alone = window(1, 20, step=1, stable=Counts(0))
    assert harmed([window(0, 1), alone], decided=None, ended=20).errors_above_stable == pytest.approx(19)


def test_without_any_stable_nothing_is_claimed() -> None:
    assert harmed([replace(window(0, 20), stable=None)], decided=None, ended=10).errors_above_stable is None


def test_broken_windows_do_not_count() -> None:
    broken = replace(window(0, 99), broken="a counter went backwards")
    assert harmed([broken, window(1, 1)], decided=None, ended=20).errors == 1


def test_promoted_rollout_says_how_long_it_took_to_everybody() -> None:
    shown = [Shown(3.0, 1.0), Shown(100.0, 100.0), Shown(200.0, 100.0)]
    told = aftermath([window(0, 1)], shown, [ERRORS], started_at=1.0, ended_at=201.0)
    assert (told.seconds_to_full, told.zero_at, told.highest_weight) == (99.0, None, 100.0)


def test_slow_pages_are_counted_beyond_the_limit() -> None:
    stable = Counts(1000, 0, (900, 90, 10, 0))
    canary = Counts(100, 0, (50, 10, 40, 0))
    windows = [replace(window(0, 0), stable=stable, canary=canary, edges=EDGES)]
    told = aftermath(windows, [], [SLOW], started_at=0.0, ended_at=10.0)
    # p90 of stable is 0.1 s; with 10 % more allowed a page is too slow from the next edge, 0.2 s, on.
    assert told.slow_above_stable == pytest.approx(40 - 1)


def test_users_are_told_between_bounds_from_what_one_of_them_asks_for() -> None:
    told = Aftermath(requests=1000, errors=50, errors_above_stable=40.0, slow_above_stable=-3.0)
    apart = told.for_users(25, sticky=False)
    # 40 bad requests are those of two users who lost nearly all of theirs, or of forty who lost one each.
    assert (told.hurt, apart.users, apart.users_hurt_least, apart.users_hurt_most) == (40, 40, 2, 40)
    many = replace(told, errors_above_stable=400.0)
    assert many.for_users(25, sticky=False).users_hurt_most == 400
    assert many.for_users(25, sticky=True).users_hurt_most == 40


def test_users_are_not_guessed_where_nobody_said_what_one_asks_for() -> None:
    told = Aftermath(requests=1000, errors=9)
    assert told.for_users(0.0, sticky=True) == told
    assert Aftermath().for_users(25, sticky=True).users is None


@pytest.mark.parametrize(
    ("each", "hurt", "words"),
    [
        (0.0, 40.0, "In users: not known; requests_per_user in the release file would tell."),
        (25.0, 40.0, "that is the traffic of about 40 users; hurt: 2 to 40."),
        (1000.0, 1.0, "that is the traffic of about 1 user; hurt: 1."),
        (25.0, -4.0, "that is the traffic of about 40 users; none was hurt."),
    ],
)
def test_sentences_say_what_is_known_of_users(each: float, hurt: float, words: str) -> None:
    told = Aftermath(requests=1000, errors_above_stable=hurt, highest_weight=5.0, exposed_seconds=60.0)
    assert [said for said in harm_sentences(told.for_users(each, sticky=False)) if words in said]


def test_aftermath_is_read_back_from_the_ledger_also_when_a_later_version_wrote_more() -> None:
    told = harmed([window(0, 1)], decided=None, ended=10)
    assert Aftermath.from_json(told.to_json() | {"something": "new"}) == told


def test_quantile_lies_inside_its_bucket() -> None:
    assert stable_quantile(EDGES, (0, 10, 0, 0), 0.5) == pytest.approx(0.15)
    assert stable_quantile(EDGES, (0, 0, 0, 5), 0.5) == 0.4
    assert stable_quantile(EDGES, (0, 0, 0, 0), 0.5) is None

"""What start learns of a service: from a source that remembers, from past rollouts, or not at all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from canary_release.control.learning import (
    HISTORY_SECONDS,
    Learned,
    learn_frame,
    noise_of_rollout,
    source_history,
    told,
)
from canary_release.control.past_rollouts import recorded_rollouts, remembered_windows
from canary_release.control.stepping import judgement_of, observe, shift
from canary_release.control.table_files import read_table, write_table
from canary_release.core.backtest import PROMOTED, ROLLED_BACK
from canary_release.core.frames import frame_from_windows, windows_from_frame
from canary_release.core.judge import judge
from canary_release.core.problems import FrameError, MetricSourceError, UnitError
from canary_release.core.values import Counts, Window
from canary_release.ledger.store import Ledger
from control.test_rollout import release
from control.world import BLUE, GREEN, World, WorldMetrics, a_release
from core.simulated import Traffic, rollout


class RememberingMetrics(WorldMetrics):
    """A store that also knows the last hours, one window of ten seconds after the other."""

    forgetful = False

    def history(self, start: float, end: float) -> list[Window]:
        if self.forgetful:
            raise MetricSourceError("the store keeps one hour only")
        rng = np.random.default_rng(9)
        made = rollout(rng, Traffic(self.rate, self.error_rate[BLUE], windows=200, seconds=10.0, plan=(0.0,)))
        return [replace(window, start=start + window.start, end=start + window.end) for window in made]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, a_release(5, 100, bake=8.0))


@pytest.fixture
def remembering(tmp_path: Path) -> World:
    world = World(tmp_path, a_release(5, 100, bake=8.0))
    world.metrics = RememberingMetrics(world.clock, world.balancer)
    return world


def learned(world: World, version: str = "v2") -> Learned:
    found = world.start(version).learned
    assert found is not None
    return found


def test_first_rollout_of_a_service_whose_metrics_forget_knows_nothing_and_says_so(world: World) -> None:
    found = learned(world)
    assert found.traffic is None
    assert "the metric source does not remember, and the ledger has no past rollout" in found.sentences[0]


def test_second_rollout_knows_the_traffic_of_the_first(world: World) -> None:
    release(world)
    found = learned(world, "v3")
    assert found.traffic is not None
    assert found.traffic.rate == pytest.approx(1000, rel=0.01)
    assert found.traffic.error_rate == pytest.approx(0.002, rel=0.1)
    assert "of stable's traffic in past rollouts (the metric source does not remember)" in found.sentences[0]


def test_history_of_the_source_comes_first(remembering: World) -> None:
    found = learned(remembering)
    assert found.traffic is not None
    assert found.traffic.seconds == pytest.approx(2000)
    assert found.sentences[0] == "from 33 min of history of the metric source"


def test_noise_of_the_history_is_kept_with_the_rollout(remembering: World) -> None:
    started = remembering.start()
    assert started.learned is not None
    kept = noise_of_rollout(remembering.ledger.rollout(started.rollout.id))
    assert kept == started.learned.noise
    assert kept is not None
    assert kept.checks["error_rate"].phi < 2.0, "the traffic is calm"
    assert "learned from 0.6 h of the service" in started.learned.sentences[1]
    events = [entry.event for entry in remembering.ledger.audit_trail(rollout_id=started.rollout.id)]
    assert "learned" in events


def test_rollout_of_a_service_that_nobody_knows_keeps_no_noise(world: World) -> None:
    assert noise_of_rollout(world.start().rollout) is None


def test_past_rollouts_teach_the_noise_but_not_how_stable_is_doing_today(world: World) -> None:
    release(world)
    found = learned(world, "v3").noise
    assert found is not None
    assert found.baseline.events == {}
    assert found.baseline.requests == 0.0


def test_rollout_is_judged_with_the_noise_that_it_learned(remembering: World) -> None:
    remembering.metrics.error_rate[GREEN] = 0.02
    rollout = remembering.start().rollout
    shift(remembering.desk, rollout, 0, actor="task")
    remembering.clock.sleep(5)
    seen = observe(remembering.desk, rollout.id, 0, actor="trigger")
    windows = remembering.ledger.windows(rollout.id)
    learned_noise, careful = (
        judge(remembering.release, windows, noise=of)[-1] for of in (noise_of_rollout(rollout), None)
    )
    assert learned_noise.evidence != careful.evidence
    assert seen.judgement == learned_noise
    assert judgement_of(remembering.desk, rollout, 0) == learned_noise


def test_history_that_cannot_be_read_does_not_stop_the_start(remembering: World) -> None:
    assert isinstance(remembering.metrics, RememberingMetrics)
    remembering.metrics.forgetful = True
    found = learned(remembering)
    assert found.traffic is None
    assert "could not be read (the store keeps one hour only)" in found.sentences[0]


def test_start_that_is_run_again_learns_nothing_new(remembering: World) -> None:
    remembering.start("v2")
    assert remembering.start("v2").learned is None


class TellingInstancesApart(RememberingMetrics):
    """A store that also knows three instances, of which each wanders by itself; two of them came to another side."""

    instances = 3
    swapped = False

    def history_of_instances(self, start: float, end: float) -> list[dict[str, Window]]:
        rng = np.random.default_rng(4)
        moments: list[dict[str, Window]] = []
        wander = np.zeros(self.instances)
        for minute in range(240):
            wander = 0.9 * wander + rng.normal(0.0, 0.3 * (1 - 0.9**2) ** 0.5, self.instances)
            moment = {}
            for name, own in enumerate(wander):
                requests = int(rng.poisson(20_000))
                counts = Counts(requests, errors=int(rng.binomial(requests, 0.005 * np.exp(own))), instances=1)
                sides = (None, counts) if self.swapped else (counts, None)
                moment[f"pod-{name}"] = Window(start + 60.0 * minute, start + 60.0 * (minute + 1), *sides)
            moments.append(moment)
        if self.instances > 1:
            moments[100]["pod-0"] = replace(moments[100]["pod-0"], start=start)  # it was away
        return moments


@pytest.mark.parametrize("swapped", [False, True])
def test_source_that_tells_instances_apart_teaches_how_far_each_wanders(remembering: World, swapped: bool) -> None:
    source = remembering.metrics = TellingInstancesApart(remembering.clock, remembering.balancer)
    source.swapped = swapped
    found = learned(remembering)
    assert found.sentences[0] == "from 4.0 h of history of 3 instances from the metric source"
    assert found.noise is not None
    noise = found.noise.checks["error_rate"]
    assert 0.2 < noise.wander < 0.5, "0.3 it was"
    assert not any("cannot be seen" in sentence for sentence in found.sentences)
    assert found.traffic is not None
    assert found.traffic.rate == pytest.approx(1000, rel=0.02)


def test_source_with_a_single_instance_teaches_what_the_service_as_a_whole_does(remembering: World) -> None:
    source = remembering.metrics = TellingInstancesApart(remembering.clock, remembering.balancer)
    source.instances = 1
    source.forgetful = True  # what was told by instance is not asked for again
    assert learned(remembering).sentences[0] == "from 4.0 h of history of the metric source"


def test_history_hands_on_the_side_that_had_the_traffic() -> None:
    class Swapped:
        def read(self, cursor: object) -> tuple[list[Window], dict[str, float]]:
            return [], {}

        def history(self, start: float, end: float) -> list[Window]:
            assert end - start == HISTORY_SECONDS
            (window,) = rollout(np.random.default_rng(1), Traffic(100, windows=1, plan=(1.0,)))
            return [window, replace(window, stable=window.canary, canary=window.stable)]

    windows = source_history(Swapped(), 1_800_000_000.0)
    assert [window.stable for window in windows] == [windows[0].stable] * 2
    assert windows[0].stable is not None
    assert windows[0].stable.requests > 0


# --- the ledger remembers ---------------------------------------------------------------------------------------------


def test_recorded_rollouts_say_how_and_when_each_ended(world: World) -> None:
    good = release(world, "v2")
    world.metrics.error_rate[BLUE] = 0.3
    bad = release(world, "v3")
    world.start("v4", dry_run=True)
    world.start("v5")
    second, first = recorded_rollouts(world.ledger, "shop", limit=10)
    assert (first.rollout, first.was, second.rollout, second.was) == (good, PROMOTED, bad, ROLLED_BACK)
    assert first.was_window == first.windows[-1].index
    assert second.was_window == second.windows[-1].index
    assert (first.noise, second.noise is None) == (None, False), "the second knew the first one's traffic"
    assert recorded_rollouts(world.ledger, "shop", limit=1) == [second]
    assert recorded_rollouts(world.ledger, "other", limit=10) == []


def test_remembered_windows_are_those_in_which_stable_had_traffic(world: World) -> None:
    release(world)
    whole = world.ledger.windows("shop-1")
    remembered = remembered_windows(world.ledger, "shop", rollouts=5)
    assert 0 < len(remembered) < len(whole)
    assert all(window.stable is not None and window.stable.requests for window in remembered)
    assert [window.index for window in remembered] == list(range(len(remembered)))


def test_ledger_of_the_first_version_is_brought_up_to_date_and_keeps_its_rollouts(tmp_path: Path) -> None:
    world = World(tmp_path, a_release(5, 100, bake=8.0))
    done = release(world)
    before = world.ledger.rollout(done)
    downgrade(world.ledger)
    reopened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    assert reopened.rollout(done) == before
    assert reopened.windows(done) == world.ledger.windows(done)


def downgrade(ledger: Ledger) -> None:
    """Back to the schema of the first release, by the migrations' own way back."""
    from alembic import command
    from alembic.config import Config

    from canary_release.ledger.schema_version import MIGRATIONS

    with ledger._engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        connection.commit()


# --- what people say, and tables --------------------------------------------------------------------------------------


def test_people_may_say_what_they_know() -> None:
    found = told("2400/min", "0.5%")
    assert found.traffic is not None
    assert (found.traffic.rate, found.traffic.error_rate) == (40.0, 0.005)
    with pytest.raises(UnitError, match="is not a percentage"):
        told("40/s", "0.5")


def test_table_of_a_history_teaches_the_traffic(world: World) -> None:
    windows = rollout(np.random.default_rng(2), Traffic(300))
    found = learn_frame(world.release, frame_from_windows(windows), "from a table")
    assert found.traffic is not None
    assert found.traffic.rate == pytest.approx(300, rel=0.02)


def test_table_without_traffic_is_refused_in_words(world: World) -> None:
    with pytest.raises(FrameError, match="no window with requests on stable"):
        learn_frame(world.release, frame_from_windows([]), "from a table")


def test_csv_is_written_and_read_back(tmp_path: Path) -> None:
    windows = rollout(np.random.default_rng(2), Traffic(300, windows=4))
    write_table(frame_from_windows(windows), str(tmp_path / "windows.csv"))
    assert windows_from_frame(read_table(str(tmp_path / "windows.csv"))) == windows


@pytest.mark.parametrize("name", ["windows.txt", "windows", "no/such/folder/windows.csv"])
def test_table_that_cannot_be_written_is_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(FrameError, match=r"is written as|cannot be written"):
        write_table(pd.DataFrame({"a": [1]}), str(tmp_path / name))


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe\x01", b'a,b\n"1,2\n3'])
@pytest.mark.parametrize("name", ["windows.csv", "windows.parquet"])
def test_file_that_is_no_table_is_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FrameError) as raised:
        read_table(str(tmp_path / name))
    assert len(str(raised.value).splitlines()) == 1

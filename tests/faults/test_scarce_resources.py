"""A process that may open no file, write no byte or only read its ledger still takes the canary off.

The limits are set in a process of its own, after the canary has its traffic; its ledger is looked at afterwards.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from canary_release.control.guardian import Guardian
from canary_release.control.stepping import observe, shift, take_off
from canary_release.core.problems import LedgerError
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger
from control.world import GREEN, World
from faults.results_file import record_own

ROOT = Path(__file__).resolve().parents[2]


def no_disk(world: World) -> None:
    """Every write to a file fails, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def no_handles(world: World) -> None:
    """No file can be opened; the load balancer of this world needs none, one behind a socket has to be connected."""
    world.ledger.close()
    opened = len(os.listdir("/proc/self/fd")) - 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (opened, opened))


def read_only(world: World) -> None:
    with world.ledger._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = 1")


LIMITS: dict[str, Callable[[World], None]] = {each.__name__: each for each in (no_disk, no_handles, read_only)}


def by_trigger(world: World, rollout: Rollout) -> None:
    """Its look at a bad version cannot store what it saw."""
    for _ in range(3):
        world.clock.sleep(1)
        try:
            observe(world.desk, rollout.id, 0, actor="trigger")
        except LedgerError:
            break
    take_off(world.desk, rollout, "worse", actor="trigger")


def by_guardian(world: World, rollout: Rollout) -> None:
    world.clock.sleep(100)
    guardian = Guardian(world.new_desk, name="test")
    guardian._desk, guardian._remembered = world.desk, {rollout.id: rollout}
    guardian.tick()


ACTS = {each.__name__: each for each in (by_trigger, by_guardian)}


def main(limit: str, act: str, folder: str) -> None:
    """What the process does: expose a canary, be limited, take it off, say what clients get."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    world = World(Path(folder))
    rollout = world.start().rollout
    shift(world.desk, rollout, 0, actor="task")
    exposed, seen = float(world.canary_percent), world.ledger.rollout(rollout.id)
    LIMITS[limit](world)
    ACTS[act](world, seen)
    print(json.dumps({"before": exposed, "after": float(world.balancer.weights[GREEN])}))


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("limit", LIMITS)
def test_row_20_canary_is_taken_off_and_the_ledger_is_whole_without(limit: str, act: str, tmp_path: Path) -> None:
    paths = [ROOT / "plugins", ROOT / "include", ROOT / "tests"]
    code = f"from faults.test_scarce_resources import main; main({limit!r}, {act!r}, {str(tmp_path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"before": 1.0, "after": 0.0}
    with closing(Ledger.open(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        (rollout,) = ledger.history("shop")
        assert rollout.state in (State.RUNNING, State.ROLLING_BACK, State.ROLLED_BACK)
        assert ledger.verify_audit()[1] == [], "no torn record"
        assert all(write.asked[GREEN] in (0, 1) for write in ledger.writes(rollout.id))
    record_own(20, f"{limit.replace('_', ' ')}: canary taken off {act.replace('_', ' ')}, the ledger whole")

"""``canary guard`` and ``canary doctor`` as processes, on a real Traefik, after a controller was killed."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import httpx
import pytest

from canary_release.cli import main
from canary_release.control.real_desk import open_ledger
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger
from contracts.little_servers import Answer, little_server
from contracts.waiting import wait_until
from demo.processes import Process
from demo.traefik_server import TraefikServer

ROOT = Path(__file__).resolve().parents[2]
LEASE, EVERY = 4.0, 1.0

RELEASE = """\
service: shop
load_balancer: {type: traefik, connection: canary_traefik, route: shop, backends: [shop-blue, shop-green]}
metrics: {type: scrape, connection: canary_metrics, preset: traefik}
poll: 1s
lease: 4s
steps:
  - {weight: 10%, bake: 10m}
  - {weight: 100%, bake: 10m}
checks:
  - {metric: error_rate, max_increase: 0.5pp}
"""

# A controller as a run's tasks and trigger are: it starts, shifts, and looks until it is killed.
CONTROLLER = """\
import sys, time
from pathlib import Path
from canary_release.control.real_desk import open_desk, read_release
from canary_release.control.starting import StartRequest, start
from canary_release.control.stepping import observe, shift

desk, file = open_desk(), Path(sys.argv[1])
request = StartRequest(release=read_release(file), release_name=file.name, version="v2", dag_id="release_shop",
                       run_id="shop-v2", by="ada")
rollout = start(desk, request).rollout
shift(desk, rollout, 0, actor="task")
while True:
    print(observe(desk, rollout.id, 0, actor="trigger").decision, flush=True)
    time.sleep(1)
"""


@dataclass
class Place:
    """A Traefik in front of two backends, a ledger, and what a process needs to know of them."""

    folder: Path
    traefik: TraefikServer
    env: dict[str, str]

    @property
    def canary_percent(self) -> Decimal:
        shown = httpx.get(f"{self.traefik.api_url}/api/http/services/shop@file", trust_env=False)
        weights = {each["name"]: each["weight"] for each in shown.raise_for_status().json()["weighted"]["services"]}
        return Decimal(100 * weights["shop-green"]) / sum(weights.values())

    def ledger(self) -> Ledger:
        return Ledger.open(f"sqlite:///{self.folder / 'ledger.db'}")

    def run(self, name: str, *argv: str) -> Process:
        argv = (sys.executable, *argv)
        return Process(argv, log=self.folder / f"{name}.log", env=self.env, cwd=self.folder, name=name)

    def canary(self, name: str, *argv: str) -> Process:
        return self.run(name, "-m", "canary_release", *argv)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with (
        little_server(Answer(b"blue")) as blue,
        little_server(Answer(b"green")) as green,
        TraefikServer(tmp_path / "traefik", {"shop-blue": blue.url, "shop-green": green.url}) as traefik,
    ):
        metrics = httpx.URL(traefik.metrics_url)
        scrape = {"conn_type": "http", "host": metrics.host, "port": metrics.port, "schema": "http"}
        extra = {"sqlalchemy_url": f"sqlite:///{tmp_path / 'ledger.db'}"}
        env = {
            "PYTHONPATH": str(ROOT / "plugins"),
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW_CONN_CANARY_TRAEFIK": json.dumps(traefik.connection()),
            "AIRFLOW_CONN_CANARY_METRICS": json.dumps(scrape),
            "AIRFLOW_CONN_CANARY_LEDGER": json.dumps({"conn_type": "generic", "extra": extra}),
        }
        (tmp_path / "shop.yaml").write_text(RELEASE)
        yield Place(tmp_path, traefik, env)


@pytest.fixture
def abandoned(place: Place) -> Rollout:
    """A rollout whose controller was killed while it watched a canary with 10 % of the traffic."""
    with place.run("controller", "-c", CONTROLLER, str(place.folder / "shop.yaml")) as controller:
        controller.wait_until(lambda: place.said("controller").count("hold") >= 2, 60, "look twice")
        assert place.canary_percent == 10
        controller.kill(signal.SIGKILL)
        wait_until(lambda: not controller.running, "the controller is dead")
    rollout = place.ledger().rollout_of_run("release_shop", "shop-v2")
    assert rollout is not None
    assert rollout.state is State.RUNNING
    return rollout


@pytest.mark.slow
def test_killed_controllers_canary_is_off_within_its_lease_and_one_period(place: Place, abandoned: Rollout) -> None:
    assert abandoned.lease_until is not None
    with place.canary("guard", "guard", "--every", f"{EVERY:.0f}s") as guard:
        guard.wait_until(lambda: "guarding" in place.said("guard"), 30, "begin to guard")
        before = time.time()
        wait_until(lambda: place.canary_percent == 0, "the canary has no traffic", 30)
        after_lease = time.time() - max(abandoned.lease_until, before)
        print(f"from the end of the lease (or of guard's own start) to weight 0 read back: {after_lease:.2f} s")
        assert after_lease <= EVERY + 1.0
        wait_until(lambda: place.ledger().rollout(abandoned.id).state.final, "the end is recorded")
        guard.kill(signal.SIGTERM)
        wait_until(lambda: not guard.running, "the guard has ended")
        assert guard.returncode == 0
    lines = place.said("guard").splitlines()
    assert [line.split()[1] for line in lines] == ["guarding,", "taken_off", "told"]
    assert "nobody watched" in lines[1]
    assert "shop-green 0 %" in lines[1]


@pytest.mark.slow
def test_guard_once_takes_off_and_exits_with_0_and_the_doctor_says_before_and_after(
    place: Place, abandoned: Rollout
) -> None:
    assert abandoned.lease_until is not None
    wait_until(lambda: time.time() > float(abandoned.lease_until or 0), "the lease has run out")
    assert ended(place.canary("before", "doctor")) == 1
    assert f"FAIL  lease of {abandoned.id}: its lease ran out" in place.said("before")
    assert ended(place.canary("once", "guard", "--once")) == 0
    assert place.canary_percent == 0
    assert place.ledger().rollout(abandoned.id).state is State.ROLLED_BACK
    assert ended(place.canary("after", "doctor", "--write", "--json")) == 0
    results = {each["check"]: each for each in json.loads(place.said("after"))}
    assert results["shop: way back"]["says"].startswith("the weights were written as they are and read back")
    assert results["shop: clock of the load balancer"]["level"] == "OK"
    assert {each["level"] for each in results.values()} <= {"OK", "WARN"}


@pytest.mark.slow
def test_guard_once_exits_with_1_while_the_balancer_refuses(place: Place, abandoned: Rollout) -> None:
    wait_until(lambda: time.time() > float(abandoned.lease_until or 0), "the lease has run out")
    place.traefik.stop()
    assert ended(place.canary("once", "guard", "--once")) == 1
    (line,) = [line for line in place.said("once").splitlines() if "not_safe" in line]
    assert "shop-1 is NOT safe yet" in line
    assert "cannot be reached" in line


def ended(process: Process) -> int:
    with process:
        wait_until(lambda: not process.running, f"{process.name} has ended", 60)
        code = process.returncode
    assert code is not None
    return code


# -- without a load balancer ----------------------------------------------------------------------------------------


@pytest.fixture
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    extra = {"sqlalchemy_url": f"sqlite:///{tmp_path / 'ledger.db'}"}
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_LEDGER", json.dumps({"conn_type": "generic", "extra": extra}))
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    for name in [name for name in os.environ if name.startswith("AIRFLOW__")]:
        monkeypatch.delenv(name)
    open_ledger.cache_clear()
    return tmp_path


def test_guard_with_nothing_to_do_says_so_and_exits_with_0(
    own_ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["guard", "--once"]) == 0
    assert capsys.readouterr().out.endswith("nothing to do\n")


def test_guard_without_a_ledger_exits_with_1_in_one_line(
    own_ledger: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = {"sqlalchemy_url": "sqlite:////there/is/no/such/folder/ledger.db"}
    monkeypatch.setenv("AIRFLOW_CONN_CANARY_LEDGER", json.dumps({"conn_type": "generic", "extra": extra}))
    assert main(["guard", "--once"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert "no_ledger" in line
    assert "/there/is/no/such/folder/ledger.db" in line


@pytest.mark.parametrize("period", ["5m", "0s", "7", "soon"])
def test_guard_refuses_a_period_that_guards_too_seldom(period: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["guard", "--every", period])
    assert refused.value.code == 2
    assert "--every" in capsys.readouterr().err


def test_doctor_fails_until_a_guardian_has_looked(own_ledger: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 1
    assert "FAIL  guardian: none has ever looked" in capsys.readouterr().out
    assert main(["guard", "--once"]) == 0
    capsys.readouterr()
    assert main(["doctor"]) == 0
    assert "OK    guardian: looked program on" in capsys.readouterr().out


def test_doctor_of_a_broken_release_file_names_line_and_cure(
    own_ledger: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = own_ledger / "shop.yaml"
    file.write_text(RELEASE.replace("lease:", "leese:"))
    assert main(["doctor", str(file)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "shop.yaml" in line]
    assert line.startswith("FAIL")
    assert f"Cure: canary lint {file}" in line

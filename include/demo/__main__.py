"""``make demo``: a real Airflow releases a good version of a shop step by step and takes two bad ones back.

With ``--ci`` it ends by itself: exit 0 only when the good version was promoted, the bad ones were rolled back in time
and no request was lost by a shift.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from canary_release.core.problems import CanaryError
from demo.follow import Follower
from demo.live_table import ReleaseResult, show, show_summary
from demo.processes import unwind_on_terminate
from demo.stage import DAG_ID, FIRST_VERSION, ROOT, Stage
from demo.versions import INSTANCES, RELEASES, USUAL_ERRORS, Release

POLL_SECONDS = 1.0
RUN_SECONDS = 240.0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--ci", action="store_true", help="end by itself, with an exit code")
    parser.add_argument("--rate", type=float, default=400.0, help="requests per second of all clients (default 400)")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo" / "run", help="logs, ledger and Airflow's home")
    arguments = parser.parse_args(argv)
    console = Console()
    try:
        with unwind_on_terminate():
            return _play(arguments, console)
    except KeyboardInterrupt:
        console.print("\nstopped.")
        return 130
    except (CanaryError, TimeoutError, OSError) as error:
        console.print(f"demo: {error}", style="red", markup=False)
        return 1


def _play(arguments: argparse.Namespace, console: Console) -> int:
    began = time.monotonic()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    console.print("demo: starting two versions of a shop, Traefik, clients and Airflow ...")
    with Stage(arguments.folder, rate=arguments.rate, instances=INSTANCES, usual_errors=USUAL_ERRORS) as stage:
        stage.airflow.wait_healthy(120, dags=[DAG_ID, "canary_guardian"], plugin="canary_release")
        for dag in (DAG_ID, "canary_guardian", "canary_abort"):
            stage.airflow.api.pause(dag, False)
        console.print(f"demo: everything is up after {time.monotonic() - began:.0f} s")
        _say_address(stage, console)
        results, failures = play_releases(stage, console)
        show_summary(results, console)
        console.print(f"demo: {time.monotonic() - began:.0f} s in all")
        for failure in failures:
            console.print(f"demo: {failure}", style="red", markup=False)
        if not arguments.ci:
            _say_address(stage, console)
            console.print("demo: Airflow stays open; Ctrl-C stops everything.")
            while True:
                time.sleep(3600)
    return 1 if failures else 0


def play_releases(stage: Stage, console: Console) -> tuple[list[ReleaseResult], list[str]]:
    """Every release of the demo, one after the other: what came of them, and what did not go as it must, in words."""
    ledger = stage.ledger()
    follower = Follower(stage, ledger)
    results, failures = [], []
    running = FIRST_VERSION
    try:
        for release in RELEASES:
            console.rule(f"{release.version}: {release.title}")
            follower.begin(release, idle_side=follower.idle_side())
            show(follower.snapshots(release, seconds=RUN_SECONDS), console)
            result = follower.result(release, before=running)
            running = release.version if result.outcome == "promoted" else running
            results.append(result)
            failures += _wrong(release, result, follower)
    finally:
        ledger.close()
    return results, failures


def _wrong(release: Release, result: ReleaseResult, follower: Follower) -> list[str]:
    """What did not go as it must, in words."""
    wrong = []
    colour = "success" if release.ends == "promoted" else "failed"
    if result.outcome != release.ends:
        wrong.append(f"{release.version} ended {result.outcome}, not {release.ends}")
    if follower.run_state(release) != colour:
        wrong.append(f"the run of {release.version} is {follower.run_state(release)} in Airflow, not {colour}")
    if result.lost:
        wrong.append(f"{result.lost} requests were lost during {release.version}")
    if result.to_zero is not None and result.to_zero > POLL_SECONDS + 1:
        wrong.append(f"{release.version}: {result.to_zero:.1f} s from the evidence to weight 0")
    return wrong


def _say_address(stage: Stage, console: Console) -> None:
    console.print(
        f"demo: Airflow at {stage.airflow.url}/dags/{DAG_ID}  login {stage.airflow.user} / {stage.airflow.password}",
        markup=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())

"""The commands that look at evidence: what a plan can see, recorded windows judged again, past rollouts, exports."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canary_release.core.problems import CanaryError, FrameError
from canary_release.core.release import Release
from canary_release.core.values import Decision

if TYPE_CHECKING:
    import pandas as pd

    from canary_release.control.learning import Learned

_HOW_TO_TELL = (
    "What the steps can detect depends on the service's traffic: give --rate 40/s --error-rate 0.5%, "
    "--history FILE, or --from-source."
)


def add_evidence_commands(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    plan = add(commands, "plan", _plan, "show what a release file would do, and what its steps can detect")
    plan.add_argument("file", metavar="FILE")
    plan.add_argument("--profile", help="a profile of the file (default: standard)")
    plan.add_argument("--steps", help="a part of its weights, for example 5,100")
    traffic = plan.add_mutually_exclusive_group()
    traffic.add_argument("--rate", help="the service's requests, for example 40/s or 2400/min")
    traffic.add_argument("--history", metavar="FILE", help="recorded windows of the service (CSV or Parquet)")
    traffic.add_argument("--from-source", action="store_true", help="ask the metric source, or past rollouts")
    plan.add_argument("--error-rate", help="its share of errors, for example 0.5%% (with --rate)")

    judge = add(commands, "judge", _judge, "replay recorded windows; a line a window")
    judge.add_argument("file", metavar="FILE")
    judge.add_argument("--windows", required=True, metavar="FILE", help="CSV or Parquet")
    judge.add_argument("--history", metavar="FILE", help="windows of stable from before, to learn its noise from")
    judge.add_argument("--json", action="store_true", help="the whole judgement, one object a line")

    backtest = add(commands, "backtest", _backtest, "how past rollouts would have ended with this release file")
    backtest.add_argument("file", metavar="FILE")
    backtest.add_argument("--rollouts", type=_at_least_one, default=20, metavar="N", help="the last N (default: 20)")
    backtest.add_argument("--service", help="whose rollouts (default: the file's service)")
    form = backtest.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one object a line")
    form.add_argument("--csv", metavar="FILE")
    form.add_argument("--parquet", metavar="FILE")

    export = add(commands, "export", _export, "the recorded windows of a rollout, one row for each window and side")
    export.add_argument("rollout", metavar="ROLLOUT", help="its id, for example shop-12 (see: canary history)")
    export.add_argument("-o", "--output", metavar="FILE", help="*.csv or *.parquet (default: CSV to the terminal)")


def _at_least_one(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100000")
    return int(text)


def release_in(name: str) -> Release:
    """The release file. Raises ReleaseFileError with every problem."""
    from canary_release.core.release_file import load_release
    from canary_release.hooks.registry import BACKENDS

    return load_release(Path(name), source_name=name, backends=BACKENDS)


# --- plan -------------------------------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace) -> int:
    from canary_release.core.plan import make_plan, render_plan

    release = release_in(arguments.file)
    plan = make_plan(release, profile=arguments.profile, steps=arguments.steps)
    learned = _learned(arguments, release)
    if learned is None:
        print(render_plan(release, plan))
        print(_HOW_TO_TELL)
        return 0
    if learned.traffic is None:
        raise CanaryError(f"{'; '.join(learned.sentences)}. {_HOW_TO_TELL}")
    from canary_release.core.detection import detection

    seen = detection(release, plan, learned.traffic, learned.noise)
    print(render_plan(release, plan, detects=seen.column))
    for sentence in (*learned.sentences, *seen.sentences):
        print(f"  {sentence}")
    return 0


def _learned(arguments: argparse.Namespace, release: Release) -> "Learned | None":
    from canary_release.control.learning import learn_frame, told

    if arguments.error_rate is not None and arguments.rate is None:
        raise CanaryError("--error-rate needs --rate: how many requests are the errors out of?")
    if arguments.rate is not None:
        return told(arguments.rate, arguments.error_rate)
    if arguments.history is not None:
        from canary_release.control.table_files import read_table

        table = read_table(arguments.history)
        with _named(arguments.history):
            return learn_frame(release, table, f"from {arguments.history}")
    return _from_source(release) if arguments.from_source else None


def _from_source(release: Release) -> "Learned":
    from canary_release.control.learning import learn_service
    from canary_release.control.real_desk import open_desk
    from canary_release.control.starting import sides

    desk = open_desk()
    stable, canary = sides(release, desk.balancer(release).get_weights())
    return learn_service(desk, release, stable=stable, canary=canary)


# --- judge ------------------------------------------------------------------------------------------------------------


def _judge(arguments: argparse.Namespace) -> int:
    from canary_release.control.table_files import read_table
    from canary_release.core.noise_learning import learn
    from canary_release.core.replay import judged_again
    from canary_release.core.wording import odds

    release = release_in(arguments.file)
    windows = read_table(arguments.windows)
    history = read_table(arguments.history) if arguments.history else None
    noise = None if history is None else learn(release, history)
    with _named(arguments.windows):
        said, judgements = judged_again(release, windows, noise=noise)
    rows = said.to_dict("records")
    if arguments.json:
        for at, row in enumerate(rows):
            whole = judgements[at].to_json() | {"decision": row["decision"], "reason": row["reason"]}
            print(json.dumps(whole, allow_nan=False))
        return 0
    for sentence in (*(noise.sentences if noise else ()), *(judgements[-1].learned if judgements else ())):
        print(f"learned: {sentence}")
    ends = next((at for at, row in enumerate(rows) if row["decision"] == Decision.ROLL_BACK), len(rows) - 1)
    for row in rows[: ends + 1]:
        print(f"{row['window']:>6}  {row['decision']:<9} {odds(row['evidence']):>18}  {row['reason']}")
    if left := len(rows) - ends - 1:
        more = "1 more window" if left == 1 else f"{left:,} more windows"
        print(f"{more} came after it; --json judges what came as if nobody had acted.")
    return 0


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the name of a file before what is wrong with its table."""
    try:
        yield
    except FrameError as error:
        raise FrameError(f"{name}: {error}") from error


# --- past rollouts ----------------------------------------------------------------------------------------------------


def _backtest(arguments: argparse.Namespace) -> int:
    from canary_release.control.past_rollouts import recorded_rollouts
    from canary_release.control.real_desk import open_ledger
    from canary_release.control.table_files import write_table
    from canary_release.core.backtest import backtest, summary

    release = release_in(arguments.file)
    service = arguments.service or release.service
    ledger = open_ledger()
    recorded = recorded_rollouts(ledger, service, limit=arguments.rollouts)
    if not recorded:
        known = ", ".join(ledger.services()) or "none yet"
        raise CanaryError(f"the ledger has no finished rollout of {service!r} with windows; it knows: {known}.")
    table = backtest(release, recorded)
    if arguments.json:
        for line in table.to_json(orient="records", lines=True).splitlines():
            print(line)
        return 0
    file = arguments.csv or arguments.parquet
    if file:
        write_table(table, file)
    else:
        _show_backtest(table)
    print(summary(table))
    return 0


def _show_backtest(table: "pd.DataFrame") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(
        "rollout", "version", "started", "was", "would", "requests spared", "errors", "", box=None, pad_edge=False
    )
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        shown.add_row(*(Text(cell) for cell in _cells(row)))
    Console(soft_wrap=False).print(shown)
    for row in table[(table.note != "") & (table.changed | (table.would == "unknown"))].to_dict("records"):
        print(f"{row['rollout']}: {row['note']}")


def _cells(row: dict[Any, Any]) -> list[str]:
    unknown = row["requests_spared"] is None
    return [
        row["rollout"],
        row["version"],
        datetime.fromtimestamp(row["started"], UTC).strftime("%Y-%m-%d %H:%MZ"),
        _ending(row["was"], row["was_window"]),
        _ending(row["would"], row["would_window"]),
        "unknown" if unknown else f"{row['requests_spared']:,}",
        f"{row['errors_a_window_beyond']:.1f} a window" if unknown else f"{row['errors_spared']:.0f}",
        "other" if row["changed"] and not unknown else "",
    ]


def _ending(how: str, window: int | None) -> str:
    said = how.replace("_", " ")
    return said if window is None else f"{said} @{window}" if how != "unknown" else f"unknown after @{window}"


def _export(arguments: argparse.Namespace) -> int:
    from canary_release.control.real_desk import open_ledger
    from canary_release.control.table_files import write_table
    from canary_release.core.frames import frame_from_windows

    ledger = open_ledger()
    rollout = ledger.rollout(arguments.rollout)
    table = frame_from_windows(ledger.windows(rollout.id))
    if arguments.output is None:
        table.to_csv(sys.stdout, index=False)
    else:
        write_table(table, arguments.output)
        print(f"{arguments.output}: {len(table):,} rows of {rollout.id} ({rollout.state})")
    return 0

"""The releases of the demo while they happen: a live table on a terminal, one line a change anywhere else.

The caller makes a `Snapshot` of what the ledger, the load balancer and the clients say now; what is shown is a pure
function of the snapshots so far.
"""

import sys
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from canary_release.core.release import CheckKind
from canary_release.core.values import Decision, Verdict
from demo import wording_demo as wording

WIDE = 120  # columns from which each check has columns of its own
MOST_OWN_COLUMNS = 2  # checks that fit beside each other on a wide terminal
MOST_KEPT = 500
NARROW_HEADS = ("time, step\nrelease", "asked", "read\nback", "seen", "checks", "decision")
NUMERIC = {"asked", "read\nback", "seen", "weight\nasked", "weight\nread back", "clients\nsaw"}
EVIDENCE_NEEDED = 100.0

DECISION_STYLES = {Decision.ROLL_BACK: "bold red", Decision.PROMOTE: "bold green", Decision.HOLD: "yellow"}
LEGEND = "checks: canary vs stable, evidence for a rollback/evidence needed"


@dataclass(frozen=True)
class CheckState:
    """What a check says now.

    stable, canary: a share 0 to 1, seconds, or a bare number, as ``kind`` says; None is no data.
    evidence: for a rollback, on the scale on which ``needed`` is the line; None before the first window.
    """

    name: str
    kind: CheckKind
    stable: float | None
    canary: float | None
    evidence: float | None
    verdict: Verdict = Verdict.UNDECIDED
    needed: float = EVIDENCE_NEEDED


@dataclass(frozen=True)
class Snapshot:
    """One moment of one release.

    at: seconds since the epoch.  step, steps: which weight of how many, from 1; 0 is before the first.
    asked, read_back: the canary's weight in percent, as asked and as the load balancer says; None when unknown.
    share: the canary's share of what the clients saw, 0 to 1; None without traffic.
    note: a few words that belong to the moment, for example why the decision fell.
    """

    at: float
    old: str
    new: str
    step: int
    steps: int
    asked: Decimal | None
    read_back: Decimal | None
    share: float | None
    checks: tuple[CheckState, ...] = ()
    decision: Decision | None = None
    note: str = ""


@dataclass(frozen=True)
class ReleaseResult:
    """How one release of the demo ended. Times are in seconds, None when it never came to that.

    hurt: requests that the new version failed or answered too slowly.  exposure: how long it had traffic.
    to_zero: from the evidence crossing the line to weight 0 read back.  lost: requests lost by anyone meanwhile.
    """

    old: str
    new: str
    outcome: str
    hurt: int
    exposure: float | None
    to_zero: float | None
    lost: int


def keep(history: Sequence[Snapshot], snapshot: Snapshot) -> list[Snapshot]:
    """The history with the snapshot added, in place of the last one when nothing but the measurements has changed."""
    same = bool(history) and _place(history[-1]) == _place(snapshot)
    return [*(history[:-1] if same else history), snapshot][-MOST_KEPT:]


def render(history: Sequence[Snapshot], *, width: int = 80, height: int | None = None) -> Table:
    """The history as a table for a terminal of ``width`` columns.

    With ``height`` (lines) it has only the newest rows that fit, so that a live view does not scroll.
    From 120 columns on, up to two checks have columns of their own; otherwise all checks share one.
    """
    if height is None:
        return _table(history, width)
    scratch = Console(width=width, file=StringIO())
    newest = list(history[-height:])

    def lines(rows: int) -> int:
        return len(scratch.render_lines(_table(newest[-rows:], width)))

    # Cells fold, so the height of a row is known only once it is laid out.
    fitting = bisect_right(range(1, len(newest) + 1), height, key=lines)
    return _table(newest[-max(1, fitting) :], width)


def _table(history: Sequence[Snapshot], width: int) -> Table:
    names = list(dict.fromkeys(check.name for snapshot in history for check in snapshot.checks))
    wide = width >= WIDE and len(names) <= MOST_OWN_COLUMNS
    table = Table(title="Releases", caption=LEGEND, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    table.padding = 0
    for head in _wide_heads(names) if wide else NARROW_HEADS:
        # What a reader compares stays on one line; names, notes and lists of checks may fold.
        folds = head in {"release", "time, step\nrelease", "checks", "decision: why"}
        widest = 14 if head.startswith("time, step") else None
        justify: JustifyMethod = "right" if head in NUMERIC else "left"
        table.add_column(head, justify=justify, overflow="fold", no_wrap=not folds, max_width=widest)
    for snapshot in history:
        table.add_row(*(_wide_row(snapshot, names) if wide else _narrow_row(snapshot)))
    return table


def line(snapshot: Snapshot) -> str:
    """The snapshot as one line of plain text."""
    parts = [
        wording.clock_time(snapshot.at),
        wording.release_name(snapshot.old, snapshot.new),
        f"step {_step(snapshot)}",
        f"asked {wording.weight(snapshot.asked)}",
        f"read back {wording.weight(snapshot.read_back)}",
        f"clients saw {wording.share(snapshot.share)}",
        *(f"{wording.clean(check.name)} {_values(check)} evidence {_evidence(check)}" for check in snapshot.checks),
        _decision(snapshot),
    ]
    return "  ".join(part for part in parts if part)


def show(snapshots: Iterable[Snapshot], console: Console | None = None) -> list[Snapshot]:
    """Show the snapshots as they come; returns the rows that were shown. The table stays on the terminal."""
    console = console or Console()
    if not console.is_terminal or console.is_dumb_terminal:
        return _show_lines(snapshots, console)
    history: list[Snapshot] = []
    with Live(console=console, auto_refresh=False) as live:
        for snapshot in snapshots:
            history = keep(history, snapshot)
            live.update(render(history, width=console.width, height=console.height - 1), refresh=True)
    return history


def render_summary(results: Sequence[ReleaseResult]) -> Table:
    """How the releases ended, one row each."""
    table = Table(title="Summary", title_justify="left", box=SIMPLE_HEAD)
    for head in (
        "release",
        "outcome",
        "requests\nhurt",
        "had\ntraffic",
        "evidence to\nweight 0",
        "requests lost\nby shifts",
    ):
        table.add_column(head, overflow="fold", justify="left" if head in {"release", "outcome"} else "right")
    for result in results:
        table.add_row(
            Text(wording.release_name(result.old, result.new)),
            Text(wording.clean(result.outcome)),
            f"{result.hurt:,}",
            wording.duration(result.exposure),
            wording.duration(result.to_zero),
            f"{result.lost:,}",
        )
    return table


def summary_line(result: ReleaseResult) -> str:
    """The row of the summary as one line of plain text."""
    parts = [
        f"summary  {wording.release_name(result.old, result.new)}  {wording.clean(result.outcome)}",
        f"requests hurt by {wording.clean(result.new)}: {result.hurt}",
        f"had traffic for {wording.duration(result.exposure)}",
        f"evidence crossed the line -> weight 0 read back in {wording.duration(result.to_zero)}"
        if result.to_zero is not None
        else "",
        f"requests lost by shifts: {result.lost}",
    ]
    return "  ".join(part for part in parts if part)


def show_summary(results: Sequence[ReleaseResult], console: Console | None = None) -> None:
    """The summary as a table on a terminal, else as lines."""
    console = console or Console()
    if console.is_terminal and not console.is_dumb_terminal:
        console.print(render_summary(results))
        return
    for result in results:
        _write_line(summary_line(result), console)


def _show_lines(snapshots: Iterable[Snapshot], console: Console) -> list[Snapshot]:
    history: list[Snapshot] = []
    for snapshot in snapshots:
        changed = not history or _place(history[-1]) != _place(snapshot)
        history = keep(history, snapshot)
        if changed:
            _write_line(line(snapshot), console)
    return history


def _write_line(text: str, console: Console) -> None:
    # Not through rich, which would wrap at a width that a file does not have.
    encoding = getattr(console.file, "encoding", None) or sys.getdefaultencoding()
    console.file.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    console.file.flush()


def _place(snapshot: Snapshot) -> tuple[object, ...]:
    """What makes a row of its own: anything but time, share and measurements."""
    verdicts = tuple((check.name, check.verdict is Verdict.FAIL) for check in snapshot.checks)
    release = (snapshot.old, snapshot.new, snapshot.step, snapshot.steps)
    failed = tuple(name for name, fails in verdicts if fails)
    return (*release, snapshot.asked, snapshot.read_back, snapshot.decision, snapshot.note, failed)


def _wide_heads(names: Sequence[str]) -> list[str]:
    heads = ["time", "release", "step", "weight\nasked", "weight\nread back", "clients\nsaw"]
    for name in names:
        heads += [f"{wording.clean(name)}\ncanary vs stable", "evidence"]
    return [*heads, "decision: why"]


def _wide_row(snapshot: Snapshot, names: Sequence[str]) -> list[RenderableType]:
    checks = {check.name: check for check in snapshot.checks}
    row: list[RenderableType] = [
        Text(wording.clock_time(snapshot.at)),
        Text(wording.release_name(snapshot.old, snapshot.new)),
        Text(_step(snapshot)),
        Text(wording.weight(snapshot.asked)),
        _read_back(snapshot),
        Text(wording.share(snapshot.share)),
    ]
    for name in names:
        check = checks.get(name)
        row += [Text(_values(check)), Text(_evidence(check), style=_check_style(check))] if check else ["", ""]
    return [*row, Text(_decision(snapshot), style=_decision_style(snapshot))]


def _narrow_row(snapshot: Snapshot) -> list[RenderableType]:
    details = Text()
    for check in snapshot.checks:
        text = f"{wording.clean(check.name)} {_values(check)} {_evidence(check)}"
        details.append(f"{text}\n", style=_check_style(check))
    details.append(wording.clean(snapshot.note))
    details.rstrip()
    release = wording.release_name(snapshot.old, snapshot.new)
    return [
        Text(f"{wording.clock_time(snapshot.at)} {_step(snapshot)}\n{release}"),
        Text(wording.weight(snapshot.asked)),
        _read_back(snapshot),
        Text(wording.share(snapshot.share)),
        details,
        Text(_word(snapshot), style=_decision_style(snapshot)),
    ]


def _step(snapshot: Snapshot) -> str:
    return f"{snapshot.step}/{snapshot.steps}" if snapshot.step else "start"


def _values(check: CheckState) -> str:
    if check.stable is None and check.canary is None:
        return "no data"
    return f"{wording.measured(check.kind, check.canary)} vs {wording.measured(check.kind, check.stable)}"


def _evidence(check: CheckState) -> str:
    text = wording.evidence(check.evidence, check.needed)
    return f"{text} FAIL" if check.verdict is Verdict.FAIL else text


def _word(snapshot: Snapshot) -> str:
    return wording.DECISIONS[snapshot.decision] if snapshot.decision else ""


def _decision(snapshot: Snapshot) -> str:
    return ": ".join(word for word in (_word(snapshot), wording.clean(snapshot.note)) if word)


def _decision_style(snapshot: Snapshot) -> str:
    return DECISION_STYLES.get(snapshot.decision, "") if snapshot.decision else ""


def _check_style(check: CheckState) -> str:
    return "bold red" if check.verdict is Verdict.FAIL else ""


def _read_back(snapshot: Snapshot) -> Text:
    differs = snapshot.read_back != snapshot.asked
    return Text(wording.weight(snapshot.read_back), style="yellow" if differs else "")

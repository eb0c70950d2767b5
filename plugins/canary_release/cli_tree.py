"""A rollout as a tree for a terminal, and as one line where nobody looks at a screen.

Both are made from what the pages know of a rollout (``ui/rollout_page.py``) as plain JSON, which comes from the ledger
or from Airflow; so every text in it is somebody else's, and nothing but its letters reaches the terminal.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from canary_release.core.wording import amount

Page = Mapping[str, Any]

_MARKS = {"done": ("✔", "green"), "current": ("◌", "yellow"), "failed": ("✖", "red"), "open": ("•", "dim")}
_STATE_MARKS = {"promoted": ("✔", "green"), "rolled_back": ("✖", "red"), "rolling_back": ("✖", "red")}
_LONGEST = 400


def tree(page: Page) -> Group:
    """Header, steps and what was decided last."""
    header = Text()
    for label, said, style in _header(page):
        header.append(f"{label + ':':<10}", style="dim").append(said + "\n", style=style)
    row = page["row"]
    mark, style = _STATE_MARKS.get(row["state"], ("◌", "yellow"))
    steps = Tree(Text(f"{mark} {clean(row['service'])} {clean(row['version'])}", style=style))
    for step in _steps(page):
        steps.add(step)
    return Group(header, steps, Text("\n" + clean(page["cause"]), style="dim"))


def line(page: Page) -> str:
    """``09:41:07Z  checkout v2.4.0 -> v2.4.1  step 2/4  5 %  baking at 5 %, 3 min left  error_rate 0.4 % vs 0.4 %``"""
    row = page["row"]
    at = datetime.fromtimestamp(page["at"], UTC).strftime("%H:%M:%SZ")
    where = f"step {max(row['step'] + 1, 0)}/{row['steps']}  {_share(row['traffic']['read_back'])}"
    said = [at, f"{_versions(row)}", where, clean(row["phase"]["words"])]
    if row["phase"].get("why"):
        said.append(clean(row["phase"]["why"]))
    if row["worst"]:
        said.append(clean(f"{row['worst']['check']} {row['worst']['words']}"))
    if not row["in_progress"]:
        said.append(clean(page["cause"]))
    return "  ".join(said)


def changed(page: Page) -> tuple[Any, ...]:
    """Equal as long as there is nothing new to say in a line."""
    row = page["row"]
    return row["state"], row["step"], row["phase"]["words"], row["traffic"]["read_back"]


def ended_well(page: Page) -> bool:
    return page["row"]["state"] in ("promoted", "dry_run")


def clean(text: object) -> str:
    """One line of printable letters: no name or reason may move the cursor."""
    words = " ".join(str(text).split())[:_LONGEST]
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)


def _header(page: Page) -> Iterator[tuple[str, str, str]]:
    row, now = page["row"], page["at"]
    asked = f"  asked by {clean(row['started_by'])}" + (f": {clean(row['reason'])}" if row["reason"] else "")
    yield "Service", f"{_versions(row)}  rollout {clean(row['rollout'])}{asked}", "bold"
    until = row["phase"]["until"]
    left = f", {left_of(until - now)} left" if until is not None and until > now else ""
    why = f": {clean(row['phase']['why'])}" if row["phase"].get("why") else ""
    yield "Phase", clean(row["phase"]["words"]) + left + why, _STATE_MARKS.get(row["state"], ("", "yellow"))[1]
    yield "Step", f"{max(row['step'] + 1, 0)}/{row['steps']}", ""
    traffic = row["traffic"]
    seen = f", {_share(traffic['observed'])} of {traffic['requests']:,} requests seen" if traffic["requests"] else ""
    yield "Weight", f"asked {_share(traffic['asked'])}, read back {_share(traffic['read_back'])}{seen}", ""
    if traffic["differs"]:
        yield "Differs", clean(traffic["differs"]), "red"
    lease = page.get("lease_until")
    if lease is not None:
        yield "Lease", f"{left_of(lease - now)} left" if lease > now else f"ran out {left_of(now - lease)} ago", ""
    if row["question"]:
        question = row["question"]
        people = clean(", ".join(question["approvers"]))
        yield (
            "Waits for",
            f"{people}, {left_of(question['until'] - now)} left: canary approve {row['service']}",
            "yellow",
        )
    yield "Run", f"{clean(row['dag_id'])} / {clean(row['run_id'])}", ""


def _steps(page: Page) -> Iterator[Text]:
    number = -1
    for step in page["plan"]:
        mark, style = _MARKS.get(step["state"], ("•", "dim"))
        if step["weight"] is None:
            yield Text(f"{mark} {clean(step['says'])}", style=style)
            continue
        number += 1
        words = [f"{mark} {step['weight'] + ' %':<7} {clean(step['says']):<6}"]
        worst = _worst(page, number)
        if step["state"] == "current" and page["row"]["phase"]["until"] is not None:
            words.append(f"{left_of(page['row']['phase']['until'] - page['at'])} left")
        if worst is not None:
            words.append(clean(_short(worst)))
        yield Text("  ".join(words), style=style)


def _worst(page: Page, step: int) -> Mapping[str, Any] | None:
    """The step's check that failed, or leans most to harm."""
    verdicts = [row["verdict"] for row in page["checks"] if row["step"] == step]
    return max(
        verdicts,
        key=lambda one: (one["verdict"] == "fail", (one["evidence"] or 0.0) / (one["needed"] or 1.0)),
        default=None,
    )


def _short(verdict: Mapping[str, Any]) -> str:
    """``undecided: error_rate 2.00 % vs 0.250 %, limit +0.5 pp``"""
    said = str(verdict["verdict"]).replace("_", " ")
    canary, stable = (amount(verdict[side], verdict["unit"]) for side in ("canary", "stable"))
    return f"{said}: {verdict['check']} {canary} vs {stable}, limit {verdict['limit']}"


def _versions(row: Mapping[str, Any]) -> str:
    return clean(f"{row['service']} {row['old_version']} -> {row['version']}")


def _share(percent: float | None) -> str:
    return "unknown" if percent is None else f"{percent:.3g} %"


def left_of(seconds: float) -> str:
    """``3 min 12 s``"""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"

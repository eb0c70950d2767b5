"""What a person is asked before a step: the question, the evidence and what follows from each answer, as Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from canary_release.core.judgement import Judgement
from canary_release.core.release import Approval, Step
from canary_release.core.units import show_duration
from canary_release.core.values import plain
from canary_release.core.wording import cells


@dataclass(frozen=True)
class Asking:
    """What the question is made of.

    standing: the canary's share in percent while it waits.  step: what an approval leads to.  reason: why the step
    before was passed.  judgement: its last one, None when nothing was exposed yet.  until: seconds since the epoch.
    approvers: users as they are allowed to answer.  links: label to URL, empty where a place is not known.
    """

    service: str
    version: str
    old_version: str
    safe_side: str
    started_by: str
    standing: Decimal
    step: Step
    approval: Approval
    approvers: Sequence[str]
    until: float
    reason: str = ""
    why_released: str = ""
    judgement: Judgement | None = None
    links: Mapping[str, str] = field(default_factory=dict)


def subject(asking: Asking) -> str:
    """``checkout v2.4.1: 5 % → 25 %?``"""
    return f"{asking.service} {asking.version}: {plain(asking.standing)} % → {plain(asking.step.weight)} %?"


def body(asking: Asking) -> str:
    parts = [_stands(asking), _evidence(asking.judgement), _follows(asking), _who(asking), _links(asking.links)]
    return "\n\n".join(part for part in parts if part)


def _stands(asking: Asking) -> str:
    names = f"{literal(asking.service)} {literal(asking.old_version)} → {literal(asking.version)}"
    asked = f"started by {literal(asking.started_by)}"
    asked += f": {literal(asking.why_released)}" if asking.why_released else ""
    passed = f": {literal(asking.reason)}" if asking.reason else "."
    return f"**{names}** stands at **{plain(asking.standing)} %**{passed}\n\n{asked}"


def _evidence(judgement: Judgement | None) -> str:
    if judgement is None:
        return "Nobody has seen this version yet, so there is no evidence."
    header, *rows = cells(judgement)
    lines = [header, tuple("---" for _ in header), *(tuple(literal(cell) for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _follows(asking: Asking) -> str:
    standing, weight = f"{plain(asking.standing)} %", f"{plain(asking.step.weight)} %"
    late = datetime.fromtimestamp(asking.until, UTC).strftime("%Y-%m-%d %H:%M UTC")
    back = f"all traffic goes back to {literal(asking.safe_side)} at once, and the release ends"
    unanswered = back if asking.approval.on_timeout == "roll_back" else f"the canary stays at {standing} and waits on"
    return "\n".join(
        [
            f"- **Approve**: the canary gets {weight} and is watched there for {show_duration(asking.step.bake)}.",
            f"- **Reject**: {back}.",
            f"- **No answer until {late}**: {unanswered}.",
            f"- While it waits the canary stays at {standing} and is watched: if it turns bad it is taken off, and an "
            "approval comes too late.",
        ]
    )


def _who(asking: Asking) -> str:
    said = f"May be approved by: {', '.join(literal(one) for one in asking.approvers)}"
    return said + (", but not by who started it." if asking.approval.not_by_starter else ".")


def _links(links: Mapping[str, str]) -> str:
    sound = {label: url for label, url in links.items() if url and not re.search(r"[()\s]", url)}
    return " · ".join(f"[{literal(label)}]({url})" for label, url in sound.items())


def literal(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&])", r"\\\1", " ".join(text.split()))

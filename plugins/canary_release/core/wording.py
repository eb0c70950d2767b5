"""Verdicts in plain sentences and in a table: what was seen, how sure that is, and what was not known."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

from canary_release.core.judgement import CheckVerdict, Judgement
from canary_release.core.mixture import NEEDED, PASS_NEEDED
from canary_release.core.release import Check, CheckKind, Direction, Limit, LimitKind
from canary_release.core.values import Verdict, plain

_REMEMBERED = 1024  # texts of numbers: many checks of one metric show the same


@dataclass(frozen=True)
class Occasion:
    """What a sentence needs beyond the verdict.

    scope: which windows the counts are of.  edge: the latency, in seconds, beyond which requests are counted.
    safety: the evidence that the canary may go on.  why: what was missing.  alone: stable has no traffic by plan.
    """

    check: Check
    scope: str
    edge: float | None = None
    safety: float = 0.0
    why: str = ""
    alone: bool = False


def limit_text(check: Check) -> str:
    """``+0.5 pp``, ``+10 %``, ``max 800 ms``; both when a check has both."""
    higher = check.direction is Direction.HIGHER_IS_BETTER
    texts = []
    if check.max_change is not None:
        texts.append(("-" if higher else "+") + _amount(check.max_change))
    if check.absolute is not None:
        texts.append(("min " if higher else "max ") + _amount(check.absolute, absolute=True))
    return ", ".join(texts) or "no worse than stable"


def _amount(limit: Limit, *, absolute: bool = False) -> str:
    if limit.kind is LimitKind.RELATIVE or (absolute and limit.kind is LimitKind.POINTS):
        return f"{100 * limit.amount:g} %"
    if limit.kind is LimitKind.POINTS:
        return f"{100 * limit.amount:g} pp"
    return seconds(limit.amount) if limit.kind is LimitKind.SECONDS else f"{limit.amount:g}"


@lru_cache(maxsize=_REMEMBERED)
def percent(share: float) -> str:
    """Three figures, never with an exponent: ``3.90 %``, ``0.0412 %``, ``41.2 %``."""
    value = 100.0 * share
    if value == 0:
        return "0 %"
    digits = max(0, 2 - len(str(int(value))) + 1) if value >= 1 else min(6, 2 - Decimal(value).adjusted())
    return f"{value:.{digits}f} %"


@lru_cache(maxsize=_REMEMBERED)
def seconds(value: float) -> str:
    return f"{1000 * value:.3g} ms" if value < 1 else f"{value:.3g} s"


@lru_cache(maxsize=_REMEMBERED)
def odds(evidence: float) -> str:
    """``4,100 : 1`` in two figures."""
    if evidence >= 1e6:
        return "over 1,000,000 : 1"
    if evidence < 0.01:
        return "under 0.01 : 1"
    return f"{float(f'{evidence:.2g}'):,.10g} : 1"


def amount(value: float | None, unit: str) -> str:
    if value is None:
        return "unknown"
    if unit == "%":
        return percent(value)
    return seconds(value) if unit == "s" else f"{value:.4g}"


def check_sentence(said: CheckVerdict, occasion: Occasion) -> str:
    """One check after one window, as a sentence or two."""
    if said.verdict is Verdict.NO_DATA:
        return f"{said.check}: no data: {occasion.why}. That is neither a pass nor a fail."
    if occasion.alone and said.stable is None:
        seen = (
            f"{said.check}: canary {amount(said.canary, said.unit)}{_of(said.canary_events, said.canary_of, occasion)}"
        )
        compared = f"{seen} {occasion.scope}; all traffic is on the canary, so there is no stable to compare with"
        if said.kind is CheckKind.PROPORTION:
            compared += " but what it had before"
    else:
        compared = f"{said.check}: {_both(said, occasion)} {occasion.scope}: {_difference(said, occasion.check)}"
    return f"{compared}, limit {said.limit}. {_certainty(said, occasion)}"


def _both(said: CheckVerdict, occasion: Occasion) -> str:
    canary = amount(said.canary, said.unit) + _of(said.canary_events, said.canary_of, occasion)
    stable = amount(said.stable, said.unit)
    if occasion.check.kind is not CheckKind.VALUE:
        stable += _counted(said.stable_events, said.stable_of, occasion.edge)
    return f"canary {canary} vs stable {stable}"


def _of(events: int, of: int, occasion: Occasion) -> str:
    if occasion.check.kind is CheckKind.VALUE:
        return f" (beyond the limit in {events:,} of {of:,} windows)"
    return _counted(events, of, occasion.edge)


@lru_cache(maxsize=_REMEMBERED)
def _counted(events: int, of: int, edge: float | None) -> str:
    slower = f" slower than {seconds(edge)}" if edge is not None else ""
    return f" ({events:,} of {of:,}{slower})"


def _difference(said: CheckVerdict, check: Check) -> str:
    if said.change is None:
        return "no ratio, stable has none" if said.stable == 0 else "no ratio"
    known = _interval(said)
    interval = f" (95 % interval {known})" if known else ""
    worse = said.change < 0 if check.direction is Direction.HIGHER_IS_BETTER else said.change > 0
    if abs(said.change) < 0.005:
        return f"the same{interval}"
    size = f"{said.change + 1:.1f} ×" if said.change >= 1 else f"{100 * abs(said.change):.0f} %"
    return f"{size} {'worse' if worse else 'better'}{interval}"


def _interval(said: CheckVerdict) -> str:
    if said.low is None or said.high is None:
        return ""
    return f"{_signed(said.low)} {'or more' if said.high == math.inf else f'to {_signed(said.high)}'}"


def _signed(change: float) -> str:
    return f"{change + 1:.1f} ×" if change >= 1 else f"{round(100 * change) + 0:+d} %"


def _certainty(said: CheckVerdict, occasion: Occasion) -> str:
    harm = f"evidence {odds(said.evidence)}, needed {odds(said.needed)}"
    if said.verdict is Verdict.FAIL:
        if occasion.check.observe_only:
            return f"Certainly worse ({harm}); only observed, so nothing follows."
        if not occasion.check.critical:
            return f"Certainly worse ({harm}); not critical, so it holds the rollout and does not roll back."
        together = "" if said.evidence >= said.needed else ", reached together with the other checks"
        return f"Certain enough to roll back ({harm}{together})."
    safety = f"evidence {odds(occasion.safety)}, needed {odds(PASS_NEEDED)}"
    if said.verdict is Verdict.PASS:
        return f"Certain enough to go on ({safety})."
    return f"Not certain: neither that it is worse ({harm}) nor that it may go on ({safety})."


def breaker_sentence(errors: int, requests: int, stable_errors: int, stable_requests: int) -> str:
    return (
        f"error_rate: canary {percent(errors / max(requests, 1))} ({errors:,} of {requests:,}) vs stable "
        f"{percent(stable_errors / max(stable_requests, 1))} ({stable_errors:,} of {stable_requests:,}) in this step: "
        "a quarter or more of the canary's requests fail, so it goes back without waiting for evidence."
    )


SLOWED = (
    "stable itself is suddenly much slower than usual: that is not blamed on the canary, and nothing is raised while "
    "it lasts."
)


def burning_sentence(name: str, check: Check) -> str:
    return (
        f"both versions are beyond the limit of {name} ({limit_text(check)}): that is not blamed on the canary, and "
        "nothing is raised while it lasts."
    )


def overall_sentence(verdict: Verdict, checks: Sequence[tuple[str, Verdict]]) -> str:
    """A sentence for a rollout that has not failed; failures are told by the check that is blamed."""
    if verdict is Verdict.PASS:
        return f"{_names(name for name, _ in checks)} passed: certain enough to go on."
    if verdict is Verdict.NO_DATA:
        missing = [name for name, said in checks if said is Verdict.NO_DATA]
        return f"No usable data for {_names(missing) if missing else 'any check'}: neither a pass nor a fail."
    open_ = [name for name, said in checks if said is Verdict.UNDECIDED]
    failed = [name for name, said in checks if said is Verdict.FAIL]
    parts = [f"{_names(failed)} worse, not critical"] if failed else []
    parts += [f"{_names(open_)} undecided"] if open_ else []
    return f"{'; '.join(parts) or 'No check acts'}: no harm shown that rolls back."


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    return f"{', '.join(listed[:4])} and {len(listed) - 4} more" if len(listed) > 5 else ", ".join(listed)


_HEADER = ("check", "verdict", "canary", "stable", "change", "95 % interval", "limit", "evidence", "needed")


def table(judgement: Judgement) -> str:
    """The judgement as an aligned table for a log in a fixed-width font, with its sentences below."""
    rows = cells(judgement)
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = [
        " │ ".join(_padded(at, cell, width) for at, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    rule = "─┼─".join("─" * width for width in widths)
    known = judgement.weight == judgement.weight
    weight = f" at {plain(Decimal(f'{100 * judgement.weight:.6g}'))} %" if known else ""
    title = (
        f"window {judgement.window}{weight}: {judgement.verdict.upper()}   evidence {odds(judgement.evidence)}, "
        f"needed {odds(NEEDED)}   p {judgement.p_value:.2g}"
    )
    sentences = [said.sentence for said in judgement.checks] or [judgement.sentence]
    if judgement.verdict is Verdict.FAIL and judgement.sentence not in sentences:
        sentences.insert(0, judgement.sentence)
    return "\n".join([title, "", lines[0], rule, *lines[1:], "", *sentences, *judgement.learned])


def cells(judgement: Judgement) -> list[tuple[str, ...]]:
    """The same table as texts, its header first."""
    return [_HEADER, *(_row(said) for said in judgement.checks)]


def _padded(column: int, cell: str, width: int) -> str:
    return cell.ljust(width) if column < 2 else cell.rjust(width)


def _row(said: CheckVerdict) -> tuple[str, ...]:
    return (
        said.check,
        said.verdict.upper().replace("_", " "),
        amount(said.canary, said.unit) if said.canary is not None else "-",
        amount(said.stable, said.unit) if said.stable is not None else "-",
        _signed(said.change) if said.change is not None else "-",
        _interval(said) or "-",
        said.limit,
        odds(said.evidence).removeprefix("over ").removeprefix("under "),
        odds(said.needed),
    )

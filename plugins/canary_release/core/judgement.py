"""What the judge says after a window: one verdict for each check, and one for the rollout."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canary_release.core.release import CheckKind
from canary_release.core.values import Verdict


@dataclass(frozen=True)
class CheckVerdict:
    """One check after one window.

    evidence: how many times likelier the counts are under harm than under "within the limit", over the whole rollout;
        needed: what this check alone would need to roll back (its part of alpha is taken off).
    canary, stable: the metric itself: a share, seconds, or the value.  unit: ``%``, ``s`` or nothing.
    canary_events ... stable_of: the counts behind it, of the windows that the sentence names.
    learned: what was learned of stable's noise during the rollout, or is only assumed: a sentence, or empty.
    change: canary/stable - 1; low, high: its 95 % interval from these counts alone, with the noise allowed for;
        high is infinite where few requests leave the quantile without an upper end.
    """

    check: str
    verdict: Verdict
    evidence: float
    needed: float
    canary: float | None
    stable: float | None
    canary_events: int
    canary_of: int
    stable_events: int
    stable_of: int
    change: float | None
    low: float | None
    high: float | None
    limit: str
    sentence: str
    unit: str = ""
    kind: CheckKind = CheckKind.PROPORTION
    learned: str = ""

    def to_json(self) -> dict[str, Any]:
        return _finite(vars(self), _NUMBERS)


@dataclass(frozen=True)
class Judgement:
    """All checks after one window.

    weight: the canary's share, 0 to 1.  evidence: sum of a_i E_i, which rolls back at 100.  p_value: valid however
    often it is looked at.  blamed: the check with most of the evidence once the line was crossed, else None.
    holds: sentences that forbid to go on although no harm was shown.  leaning: acting checks whose evidence leans
    towards harm by 5 : 1 or more.
    """

    window: int
    step: int
    weight: float
    verdict: Verdict
    evidence: float
    p_value: float
    blamed: str | None
    checks: tuple[CheckVerdict, ...]
    sentence: str
    holds: tuple[str, ...] = ()
    leaning: tuple[str, ...] = ()

    @property
    def learned(self) -> tuple[str, ...]:
        """What was learned during the rollout or is only assumed, each sentence once."""
        return tuple(dict.fromkeys(check.learned for check in self.checks if check.learned))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; numbers are finite, None where there is none."""
        checks = [check.to_json() for check in self.checks]
        return _finite(vars(self), ("weight", "evidence", "p_value")) | {"checks": checks}


_NUMBERS = ("evidence", "needed", "canary", "stable", "change", "low", "high")


def _finite(values: Mapping[str, Any], numbers: Sequence[str]) -> dict[str, Any]:
    """numbers: the names of those that may be infinite, nan or None."""
    found = dict(values)
    for name in numbers:
        value = found[name]
        if value is not None and not math.isfinite(value):
            found[name] = None
    return found

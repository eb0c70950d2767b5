"""Words for messages: what was meant, what is allowed, and how to show what was written without spilling it."""

import difflib
from collections.abc import Iterable

_LONGEST_SHOWN = 60


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that ``word`` most likely stands for, if any is near."""
    if len(word) > _LONGEST_SHOWN:
        return None
    by_lower = {candidate.lower(): candidate for candidate in known}
    tried = word.lower().replace("-", "_")
    # difflib rates short words harshly ("monday" against "mon"), so a common beginning counts, too.
    starts = [name for name in by_lower if len(name) >= 3 and len(tried) >= 3 and tried.startswith(name)]
    near = difflib.get_close_matches(tried, by_lower, n=1, cutoff=0.6) or starts
    return by_lower[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean `steps`?)`` or nothing."""
    near = closest(word, known)
    return f" (did you mean `{near}`?)" if near else ""


def listed(words: Iterable[str]) -> str:
    """``a, b, c``, or ``none`` when there are no words."""
    return ", ".join(words) or "none"


def shown(text: str) -> str:
    """What was written, in backticks: one line, printable, cut when long."""
    cut = text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"
    return "`" + "".join(char if char.isprintable() else repr(char)[1:-1] for char in cut) + "`"

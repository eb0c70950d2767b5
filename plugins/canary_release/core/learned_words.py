"""What the judge has learned of stable's noise during a rollout, or only assumes, as a sentence beside the verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from canary_release.core.observations import ERROR_RATE
from canary_release.core.units import say_duration
from canary_release.core.wording import seconds as latency

# Whose clumps are learned, -1 for nobody's, and by how much instances are assumed to differ.
Teacher = tuple[int, float | None]
RECENT = 1200.0  # seconds before a window of which clumps are told: older ones count for less than a sixteenth
_SINGLE, _PAIRS = 1.5, 2.0  # errors that come together on average, up to which these words are right


@dataclass(frozen=True)
class Learned:
    """metric: of whose events it is learned how they clump, None where it is not.  edge: the latency in seconds beyond
    which requests are such events.  phi: what the judge reckons with in this window, a Fano factor.  known: how much of
    that was seen, 0 to 1, the rest is assumed.  events: seen of stable in the last while before it.
    wander: by how much instances are only assumed to differ, else None.  others: windows so far in which stable was in
    another state than its usual one.
    """

    metric: str | None
    edge: float | None = None
    phi: float = 1.0
    known: float = 0.0
    events: int = 0
    wander: float | None = None
    others: int = 0

    @property
    def what(self) -> str:
        if self.edge is not None:
            return f"requests slower than {latency(self.edge)}"
        return "errors" if self.metric == ERROR_RATE else f"events of {self.metric}"


def once_each(teachers: Sequence[Teacher], learned: Callable[[int, Teacher], Learned]) -> list[Learned | None]:
    """What each column has learned; ``learned`` is asked for the first column of each teacher only."""
    first = {teacher: column for column, teacher in reversed(list(enumerate(teachers)))}
    known = {teacher: learned(column, teacher) for teacher, column in first.items()}
    return [known[teacher] for teacher in teachers]


def learned_sentence(learned: Learned, seconds: float) -> str:
    """seconds: the last while.  Empty where nothing was learned during the rollout and nothing is assumed."""
    said = [] if learned.metric is None else [_clumps(learned, seconds)]
    if learned.wander is not None:
        said.append(f"that instances may differ by {100 * learned.wander:.0f} % is assumed")
    if learned.others:
        windows = "1 window" if learned.others == 1 else f"{learned.others:,} windows"
        said.append(f"{windows} in which stable was much slower or faster than usual taught nothing")
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _clumps(learned: Learned, seconds: float) -> str:
    seen = f"seen in {learned.events:,} over {say_duration(seconds)}" if seconds > 0 else "none seen before"
    together = (learned.phi + 1.0) / 2.0
    if learned.known < 0.5:
        return f"how {learned.what} clump is not known yet ({seen}): about {together:.2g} together are assumed"
    if together <= _SINGLE:
        return f"{learned.what} of stable come one by one ({seen})"
    if together <= _PAIRS:
        return f"{learned.what} of stable come one by one or in pairs ({seen})"
    return f"{learned.what} of stable come in clumps of about {together:.2g} ({seen})"

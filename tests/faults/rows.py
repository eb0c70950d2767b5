"""What the simulated stories showed of each row of the fault matrix."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from faults.actors import Story
from faults.faults import GREEN
from faults.results_file import change, record_figure

CELLS = 1218  # of the crash matrix: fewer would be a part of it
MANY = 3000  # stories of a whole run


def seconds_to_safe(story: Story, since: float) -> float:
    """From an instant of true time until the last client was served by the side that was not safe; 0 when none was."""
    at, other = since, story.oracle.other_side
    changes = story.oracle.exposures
    ends = [instant for instant, _ in changes[1:]] + [story.hub.time]
    for (_, shares), end in zip(changes, ends, strict=True):
        if shares[other] > 0 and end > at:
            at = end
    return at - since


def ended(stories: Sequence[Story]) -> str:
    """How the stories ended, in words."""
    states = Counter("never begun" if story.state == "none" else story.state.replace("_", " ") for story in stories)
    parts = [f"{count} {state}" for state, count in sorted(states.items())]
    return f"{len(stories)} stories: {', '.join(parts)}"


def canary_percent(story: Story) -> float:
    return float(story.balancer.shares[GREEN])


@dataclass
class Results:
    """seen: by row number, what a test saw.  more: sentences of further tests."""

    seen: dict[int, dict[str, Any]] = field(default_factory=dict)
    more: dict[int, list[str]] = field(default_factory=dict)
    cells: int = 0
    broken_cells: list[str] = field(default_factory=list)
    stories: int = 0
    bad_stories: int = 0
    wrong_promotions: int = 0

    def record(self, number: int, sentence: str, seconds: float | None = None) -> None:
        """seconds: the longest time until clients were safe, None where that has no meaning."""
        self.seen[number] = {"seen": sentence, "seconds": None if seconds is None else round(seconds, 1)}

    def add(self, number: int, sentence: str) -> None:
        """A sentence more for a row that several tests look at."""
        self.more.setdefault(number, []).append(sentence)

    def cell(self, cells: int, broken: Sequence[str]) -> None:
        """Cells of the crash matrix that were played, and what they broke."""
        self.cells += cells
        self.broken_cells += broken

    def story(self, story: Story) -> None:
        """A story is over."""
        self.stories += 1
        self.bad_stories += story.bad
        self.wrong_promotions += story.bad and story.state == "promoted"

    def write(self) -> None:
        """All rows that were run now, and the figures that are sums over many tests."""
        change(self._add)
        if self.cells >= CELLS:
            broken = len(self.broken_cells)
            record_figure("crash cells", f"{self.cells:,} cells, {broken} broken", held=not broken)
        if self.stories >= MANY:
            seen = f"{self.wrong_promotions} in {self.bad_stories:,} stories of bad versions ({self.stories:,} in all)"
            record_figure("wrong promotions", seen, held=not self.wrong_promotions)

    def _add(self, stored: dict[str, Any]) -> None:
        for entry in stored["rows"]:
            entry["simulated"] = self._found(entry["number"]) or entry["simulated"]

    def _found(self, number: int) -> dict[str, Any] | None:
        sentences = [self.seen[number]["seen"]] if number in self.seen else []
        sentences += self.more.get(number, [])
        if not sentences:
            return None
        return {"seen": "; ".join(sentences), "seconds": self.seen.get(number, {}).get("seconds")}

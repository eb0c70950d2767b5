"""What was required and what was seen, fault by fault, added to the results that the page about faults shows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from faults.results_file import change


@dataclass(frozen=True)
class Result:
    """row: of the fault matrix.  bound, seen: in ``unit``, seconds of canary traffic after the fault, or a count."""

    row: int
    fault: str
    balancer: str
    bound: float
    seen: float
    unit: str = "s"

    @property
    def held(self) -> bool:
        return self.seen <= self.bound

    def __str__(self) -> str:
        words = f"{self.fault}, {self.balancer}: {self.seen:g} {self.unit} (bound {self.bound:g})"
        return words if self.held else f"BROKEN: {words}"


class Results:
    def __init__(self) -> None:
        self.all: list[Result] = []

    def add(self, row: int, fault: str, balancer: str, *, bound: float, seen: float, unit: str = "s") -> Result:
        """Record it, whether the bound was held or not."""
        result = Result(row, fault, balancer, round(bound, 2), round(max(seen, 0.0), 2), unit)
        self.all.append(result)
        print(f"row {row}  {result}")
        return result

    def write(self) -> None:
        """Put them under ``real`` of their rows; a fault on a balancer that was seen before is replaced."""
        change(self._add)

    def _add(self, stored: dict[str, Any]) -> None:
        for entry in stored["rows"]:
            entry["real"] = self._merged(entry["number"], entry["real"])
        self._count_false_rollbacks(stored)

    @staticmethod
    def _count_false_rollbacks(stored: dict[str, Any]) -> None:
        found = [each for entry in stored["rows"] for each in (entry["real"] or {}).get("results", ())]
        false = [each for each in found if each["fault"].endswith("false rollbacks")]
        lost = sum(each["seen"] for each in false)
        for entry in stored["figures"]:
            if entry["key"] == "false rollbacks real" and false:
                entry["seen"] = f"{'NOT HELD: ' if lost else ''}{lost:g} in {len(false)} faults"

    def _merged(self, number: int, old: dict[str, Any] | None) -> dict[str, Any] | None:
        kept = {(each["fault"], each["balancer"]): Result(**each) for each in (old or {}).get("results", ())}
        kept |= {(each.fault, each.balancer): each for each in self.all if each.row == number}
        return _entry(list(kept.values())) if kept else old


def _entry(found: Sequence[Result]) -> dict[str, Any]:
    seconds = [each.seen for each in found if each.unit == "s"]
    return {
        "seen": "; ".join(map(str, found)),
        "seconds": round(max(seconds), 1) if seconds else None,
        "results": [asdict(each) for each in found],
    }

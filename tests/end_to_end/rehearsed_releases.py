"""Releases without real traffic for what people and calendars decide: recorded counts, weights that are only a state.

They run beside each other, so that all their waiting happens at once.
"""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from canary_release.core.frames import frame_from_windows
from canary_release.core.values import Counts, Window
from demo.airflow_settings import USER
from demo.stage import Stage

ASSET = "late-image"
HEAD = """\
service: {name}
load_balancer: {{type: memory, connection: lb_{name}, backends: [blue, green]}}
metrics: {{type: replayed, connection: counts_{name}, shift_to_now: true}}
poll: 1s
lease: 10m
checks:
  - {{metric: error_rate, max_increase: 0.5pp}}
early_promotion: false
"""
ASKS = """\
steps:
  - {weight: 10%, bake: 9s}
  - {approve: {by: [people], timeout: TIMEOUT}}
  - {weight: 100%, bake: 9s}
"""
RELEASES = {
    "approved": ASKS.replace("TIMEOUT", "10m")
    + "keep_old_for: 1h\nbefore:\n  - {dag: canary_guardian, timeout: 10m}\n",
    "rejected": ASKS.replace("TIMEOUT", "10m"),
    "late": ASKS.replace("TIMEOUT", "15s") + f"when_closed: wait\non_asset: {ASSET}\n",
    "bad": ASKS.replace("TIMEOUT", "10m"),
}
FROZEN = 25.0  # seconds from the beginning on
_SECONDS = 3.0  # of a recorded window
_LENGTH = 400
_BAD_FROM = 25


@dataclass(frozen=True)
class Rehearsal:
    """One service: its DAG, and the file in which its weights stand. steps: its release file below the head."""

    name: str
    folder: Path
    steps: str

    @property
    def dag_id(self) -> str:
        return f"release_{self.name}"

    @property
    def run_id(self) -> str:
        return f"{self.name}-v2"

    @property
    def weights_file(self) -> Path:
        return self.folder / f"{self.name}-weights.json"

    @property
    def canary_percent(self) -> float:
        return float(json.loads(self.weights_file.read_text())["weights"]["green"])

    def write_release(self, releases: Path, *, frozen_until: float | None = None) -> None:
        text = HEAD.format(name=self.name) + self.steps
        if frozen_until is not None:
            until = datetime.fromtimestamp(frozen_until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            text += f"freeze:\n  - {{from: 2026-01-01T00:00Z, to: {until}, why: stocktaking}}\n"
        (releases / f"{self.name}.yaml").write_text(text)

    def connections(self) -> dict[str, str]:
        """The Airflow connections that its release file names, as environment variables; also writes its record."""
        record = self.folder / f"{self.name}-counts.csv"
        if not record.exists():
            windows = [self._window(number) for number in range(_LENGTH)]
            frame_from_windows(windows).to_csv(record, index=False)
        return {
            f"AIRFLOW_CONN_LB_{self.name.upper()}": _generic(self.weights_file),
            f"AIRFLOW_CONN_COUNTS_{self.name.upper()}": _generic(record),
        }

    def _window(self, number: int) -> Window:
        start = 1_700_000_000.0 + number * _SECONDS
        share = 1.0 if self.name == "approved" else 0.1  # that run leaves out every weight but the last
        bad = self.name == "bad" and number >= _BAD_FROM
        canary = round(3000 * share)
        counts = Counts(canary, errors=canary // 3 if bad else canary // 500, instances=4)
        stable = Counts(3000 - canary, errors=(3000 - canary) // 500, instances=4)
        return Window(start, start + _SECONDS, stable, counts)


def rehearsals(folder: Path) -> dict[str, Rehearsal]:
    return {name: Rehearsal(name, folder, steps) for name, steps in RELEASES.items()}


def begin_all(stage: Stage) -> dict[str, Rehearsal]:
    """All of them at once; what their tests wait for goes on meanwhile."""
    api, all_of_them = stage.airflow.api, rehearsals(stage.folder)
    for name in ("canary_return", *(rehearsal.dag_id for rehearsal in all_of_them.values())):
        api.pause(name, False)
    all_of_them["late"].write_release(stage.folder.parent / "releases", frozen_until=time.time() + FROZEN)
    for name, steps in (("approved", "100"), ("rejected", None), ("bad", None)):
        one, conf = all_of_them[name], {"version": "v2", "steps": steps}
        api.trigger(one.dag_id, one.run_id, conf=conf)
    (asset,) = api.call("GET", f"/api/v2/assets?name_pattern={ASSET}")["assets"]
    event = {"asset_id": asset["id"], "extra": {"version": "v2"}}
    api.call("POST", "/api/v2/assets/events", event)
    return all_of_them


class StageWithPeople(Stage):
    """The stage whose Airflow also knows these releases, and who the people are that they ask."""

    def connections(self) -> dict[str, str]:
        made = super().connections() | {"AIRFLOW_VAR_CANARY_RELEASE_GROUPS": json.dumps({"people": [USER]})}
        for rehearsal in rehearsals(self.folder).values():
            made |= rehearsal.connections()
        return made


def _generic(file: Path) -> str:
    return json.dumps({"conn_type": "generic", "extra": {"file": str(file)}})

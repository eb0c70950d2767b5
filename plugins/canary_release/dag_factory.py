"""Release files to DAGs: the only place that knows task ids.

start -> [1 %: shift -> bake -> compare -> decide] -> [5 %: ...] -> promote -> roll_back -> outcome -> settle
"""

import hashlib
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Context, Param, TaskGroup, TriggerRule
from airflow.sdk.exceptions import AirflowFailException

from canary_release.core.plan import make_plan, render_plan
from canary_release.core.problems import ReleaseFileError
from canary_release.core.release import Approval, Release, Step
from canary_release.core.values import plain
from canary_release.operators.compare_metrics import CompareMetricsOperator
from canary_release.operators.decide_branch import DecideOperator
from canary_release.operators.end_release import OutcomeOperator, PromoteOperator, RollBackOperator, SettleOperator
from canary_release.operators.rollout_task import BACKSTOP_RETRIES
from canary_release.operators.shift_weight import ShiftWeightOperator
from canary_release.operators.start_release import LONGEST, StartReleaseOperator, plain_text, read_release_file
from canary_release.sensors.bake_sensor import BakeSensor

PREFIX = "release_"
TAG = "canary-release"
START, PROMOTE, ROLL_BACK, OUTCOME, SETTLE = "start", "promote", "roll_back", "outcome", "settle"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_LONGEST_TAG = 100  # Airflow's
_LONGEST_LINE = 2000
_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
_DEFAULTS = {"owner": "canary-release", "retries": 2, "retry_delay": timedelta(seconds=2)}


def release_dags(folder: Path) -> dict[str, DAG]:
    """One DAG for each ``*.yaml`` in the folder (or in CANARY_RELEASES); a broken file gives a DAG that shows why.

    Hidden files are not looked at: editors and mounts keep theirs there.
    """
    place = Path(os.environ.get("CANARY_RELEASES") or folder)
    dags = [dag_for(path) for path in sorted(place.glob("*.yaml")) if not path.name.startswith(".")]
    return {dag.dag_id: dag for dag in dags}


def dag_for(path: Path) -> DAG:
    try:
        _require_name(path)
        release = read_release_file(path)
        _require_runnable(release, path)
        return release_dag(release, path)
    except ReleaseFileError as error:
        return broken_dag(path, error.problems)
    except Exception as error:  # noqa: BLE001  one file must never take the others' DAGs with it
        return broken_dag(path, [f"{path.name}: {type(error).__name__}: {error}"])


def _require_name(path: Path) -> None:
    if not _NAME.fullmatch(path.stem):
        raise ReleaseFileError(
            [f"{path.name}:1: the file's name may hold up to 128 letters, digits, `.`, `_` and `-`; rename it"]
        )


def _dag_id(path: Path) -> str:
    """Of the file's name; a name that cannot be an id becomes one that no other file has."""
    if _NAME.fullmatch(path.stem):
        return PREFIX + path.stem
    mark = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:8]
    return f"{PREFIX}{re.sub(r'[^A-Za-z0-9_-]', '_', path.stem)[:100]}_{mark}"


def _require_runnable(release: Release, path: Path) -> None:
    ladders = {"steps": release.steps, **{f"profiles.{name}": steps for name, steps in release.profiles.items()}}
    waiting = [key for key, steps in ladders.items() if any(isinstance(step, Approval) for step in steps)]
    if waiting:
        raise ReleaseFileError([f"{path.name}: {waiting[0]}: an approve step cannot be run yet; take it out"])


def release_dag(release: Release, path: Path) -> DAG:
    """The rollout as static task groups, one for each weight of any profile, in ascending order."""
    dag = DAG(
        dag_id=_dag_id(path),
        dag_display_name=f"release {path.stem}",
        description=f"Canary release of {release.service}",
        doc_md=f"Canary release of **{release.service}**.\n\n```\n{render_plan(release, make_plan(release))}\n```\n",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        tags=[TAG, f"service:{release.service}"[:_LONGEST_TAG], f"lb:{release.load_balancer.type}"],
        params=_params(release),
        default_args=_DEFAULTS | ({"owner": release.owner} if release.owner else {}),
        render_template_as_native_obj=False,
    )
    with dag:
        start = StartReleaseOperator(task_id=START, release_file=str(path), retries=0)
        promote = PromoteOperator(task_id=PROMOTE)
        roll_back = RollBackOperator(task_id=ROLL_BACK, trigger_rule=TriggerRule.ALL_DONE, retries=10)
        outcome = OutcomeOperator(task_id=OUTCOME, trigger_rule=TriggerRule.ALL_DONE, retries=0)
        settle = SettleOperator(task_id=SETTLE, retries=10)
        steps = _all_steps(release)
        following: BaseOperator = promote
        for step in reversed(steps):
            shift, decide = _step_group(step, following)
            decide >> following
            decide >> roll_back
            following = shift
        start >> following
        promote >> roll_back >> outcome
        # A teardown that may fail the run hides the leaf above it from the run's state, so outcome is not above it.
        roll_back >> settle.as_teardown(setups=start, on_failure_fail_dagrun=True)
    return dag


def _step_group(step: Step, following: BaseOperator) -> tuple[BaseOperator, BaseOperator]:
    weight = plain(step.weight)
    names = {"weight": weight}

    def shown(word: str) -> str:
        return f"{weight} % · {word}"

    with TaskGroup(group_id=group_id(weight), group_display_name=f"{weight} %", tooltip=f"Canary at {weight} %"):
        shift = ShiftWeightOperator(task_id="shift", task_display_name=shown("shift"), retries=2, **names)
        bake = BakeSensor(task_id="bake", task_display_name=shown("bake"), retries=BACKSTOP_RETRIES, **names)
        compare = CompareMetricsOperator(task_id="compare", task_display_name=shown("compare"), **names)
        decide = DecideOperator(
            task_id="decide",
            task_display_name=shown("decide"),
            next_task=following.task_id,
            roll_back_task=ROLL_BACK,
            trigger_rule=TriggerRule.ALL_DONE,
            **names,
        )
        shift >> bake >> compare >> decide
    return shift, decide


def group_id(weight: str) -> str:
    """Group ids may hold no point or percent sign: ``0.1`` becomes ``weight_0_1``."""
    return "weight_" + weight.replace(".", "_")


def _all_steps(release: Release) -> list[Step]:
    """Every weight of every profile once; the plan frozen at the start decides which of them a run uses."""
    by_weight = {
        step.weight: step
        for steps in [*release.profiles.values(), release.steps]
        for step in steps
        if isinstance(step, Step)
    }
    return [by_weight[weight] for weight in sorted(by_weight)]


def _params(release: Release) -> dict[str, Param]:
    profiles = ["standard", *release.profiles]
    shown = {name: f"{name}: {_ladder(release, name)}" for name in profiles}
    return {
        "version": Param(
            type="string",
            title="Version",
            description="The version that the idle side runs",
            minLength=1,
            maxLength=LONGEST["version"],
            pattern="^[A-Za-z0-9][A-Za-z0-9._+-]*$",
        ),
        "profile": Param("standard", type="string", title="Profile", enum=profiles, values_display=shown),
        "dry_run": Param(False, type="boolean", title="Dry run", description="Everything but the writes"),
        "reason": Param(None, type=["null", "string"], title="Reason", maxLength=LONGEST["reason"], section="More"),
        "steps": Param(
            None,
            type=["null", "string"],
            title="Steps",
            description="A part of the profile's weights, for example 5,100",
            maxLength=LONGEST["steps"],
            pattern=r"^\s*[0-9.]+\s*(,\s*[0-9.]+\s*)*$",
            section="More",
        ),
    }


def _ladder(release: Release, profile: str) -> str:
    plan = make_plan(release, profile=profile)
    return "/".join(plain(step.weight) for step in plan.weight_steps) + " %"


def broken_dag(path: Path, problems: list[str]) -> DAG:
    """Red by itself: it runs once, and its one task fails with the problems."""
    problems = [plain_text(problem, _LONGEST_LINE) for problem in problems]
    # Backticks would end the block, and what follows would be read as Markdown.
    text = "\n".join(problems).replace("`" * 3, '"' * 3)
    with DAG(
        dag_id=_dag_id(path),
        dag_display_name=f"release {plain_text(path.stem, 128)} · BROKEN FILE",
        description=problems[0][:200],
        doc_md=f"This release file cannot be used:\n\n```\n{text}\n```\n",
        schedule="@once",
        start_date=_LONG_AGO,
        catchup=False,
        is_paused_upon_creation=False,
        tags=[TAG, "broken"],
        default_args=_DEFAULTS,
    ) as dag:
        BrokenReleaseFileOperator(task_id="release_file", problems=problems, retries=0)
    return dag


class BrokenReleaseFileOperator(BaseOperator):
    """Fails with what is wrong in a release file."""

    def __init__(self, *, problems: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.problems = problems

    def execute(self, context: Context) -> None:
        text = "This release file cannot be used:\n" + "\n".join(self.problems)
        self.log.error(text)
        raise AirflowFailException(text)

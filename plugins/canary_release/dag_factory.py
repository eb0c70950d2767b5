"""Release files to DAGs: the only place that knows task ids.

start -> [1 %: shift -> bake -> compare -> decide] -> (approve, watch) -> [5 %: ...] -> promote -> roll_back -> outcome
-> settle, with the release file's calls before, between and after
"""

import hashlib
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Asset, BaseOperator, Context, Param, TaskGroup, TriggerRule
from airflow.sdk.exceptions import AirflowFailException

from canary_release.core.plan import make_plan, render_plan
from canary_release.core.problems import ReleaseFileError
from canary_release.core.release import Approval, Moment, Release, Step
from canary_release.core.values import plain
from canary_release.operators.approve_step import ApproveStepOperator
from canary_release.operators.call_hook import CallHookOperator
from canary_release.operators.compare_metrics import CompareMetricsOperator
from canary_release.operators.decide_branch import DecideOperator
from canary_release.operators.end_release import OutcomeOperator, PromoteOperator, RollBackOperator, SettleOperator
from canary_release.operators.rollout_task import BACKSTOP_RETRIES
from canary_release.operators.shift_weight import ShiftWeightOperator
from canary_release.operators.start_release import LONGEST, StartReleaseOperator, plain_text, read_release_file
from canary_release.sensors.bake_sensor import BakeSensor
from canary_release.sensors.keep_watch_sensor import KeepWatchSensor

PREFIX = "release_"
TAG = "canary-release"
START, PROMOTE, ROLL_BACK, OUTCOME, SETTLE = "start", "promote", "roll_back", "outcome", "settle"
# The ledger lets one of them begin. With a queue instead, the others would begin by themselves when that one is over.
MOST_RUNS = 64
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


def release_dag(release: Release, path: Path) -> DAG:
    """The rollout as static task groups, one for each weight of any profile, in ascending order."""
    dag = DAG(
        dag_id=_dag_id(path),
        dag_display_name=f"release {path.stem}",
        description=f"Canary release of {release.service}",
        doc_md=f"Canary release of **{release.service}**.\n\n```\n{render_plan(release, make_plan(release))}\n```\n",
        schedule=[Asset(release.on_asset)] if release.on_asset else None,
        catchup=False,
        max_active_runs=MOST_RUNS,
        tags=[TAG, f"service:{release.service}"[:_LONGEST_TAG], f"lb:{release.load_balancer.type}"],
        params=_params(release),
        default_args=_DEFAULTS | ({"owner": release.owner} if release.owner else {}),
        render_template_as_native_obj=False,
    )
    with dag:
        waits = release.calendar.when_closed == "wait"
        start = StartReleaseOperator(task_id=START, release_file=str(path), retries=BACKSTOP_RETRIES if waits else 0)
        promote = PromoteOperator(task_id=PROMOTE)
        roll_back = RollBackOperator(task_id=ROLL_BACK, trigger_rule=TriggerRule.ALL_DONE, retries=10)
        outcome = OutcomeOperator(task_id=OUTCOME, trigger_rule=TriggerRule.ALL_DONE, retries=0)
        settle = SettleOperator(task_id=SETTLE, retries=10)
        following: list[BaseOperator] = [promote]
        lower = [*reversed(_all_steps(release)), None]
        for step, before in pairwise(lower):
            assert step is not None
            entry, decide = _step_group(release, step, following)
            decide >> [*following, roll_back]
            following = _approval(release, step, before, entry)
        in_a_row(start, *_calls(release, Moment.BEFORE), *following)
        promote >> roll_back
        in_a_row(promote, *_calls(release, Moment.AFTER), outcome)
        in_a_row(roll_back, *_calls(release, Moment.ON_ROLLBACK), outcome)
        # A teardown that may fail the run hides the leaf above it from the run's state, so outcome is not above it.
        roll_back >> settle.as_teardown(setups=start, on_failure_fail_dagrun=True)
    return dag


def in_a_row(*tasks: Any) -> None:
    for earlier, later in pairwise(tasks):
        earlier >> later


def _step_group(release: Release, step: Step, following: Sequence[BaseOperator]) -> tuple[BaseOperator, BaseOperator]:
    """The step's first and last task."""
    weight = plain(step.weight)
    names = {"weight": weight}

    def shown(word: str) -> str:
        return f"{weight} % · {word}"

    with TaskGroup(group_id=group_id(weight), group_display_name=f"{weight} %", tooltip=f"Canary at {weight} %"):
        calls = _calls(release, Moment.BEFORE_STEP, weight)
        shift = ShiftWeightOperator(
            task_id="shift", task_display_name=shown("shift"), retries=BACKSTOP_RETRIES, **names
        )
        bake = BakeSensor(task_id="bake", task_display_name=shown("bake"), retries=BACKSTOP_RETRIES, **names)
        compare = CompareMetricsOperator(task_id="compare", task_display_name=shown("compare"), **names)
        decide = DecideOperator(
            task_id="decide",
            task_display_name=shown("decide"),
            next_tasks=[task.task_id for task in following],
            roll_back_task=ROLL_BACK,
            trigger_rule=TriggerRule.ALL_DONE,
            **names,
        )
        in_a_row(*calls, shift, bake, compare, decide)
    return (calls or [shift])[0], decide


def _approval(release: Release, step: Step, before: Step | None, entry: BaseOperator) -> list[BaseOperator]:
    """What comes first before ``entry``: the question before this weight in any profile, and who watches meanwhile."""
    ladders = [*release.profiles.values(), release.steps]
    asked = [
        True
        for steps in ladders
        for earlier, later in pairwise(steps)
        if isinstance(earlier, Approval) and isinstance(later, Step) and later.weight == step.weight
    ]
    if not asked or before is None:
        return [entry]
    weight = plain(step.weight)
    place = weight.replace(".", "_")
    way = f"{plain(before.weight)} % → {weight} %"
    approve = ApproveStepOperator(
        task_id=f"approve_{place}", task_display_name=f"{way} · approve", weight=weight, retries=BACKSTOP_RETRIES
    )
    watch = KeepWatchSensor(
        task_id=f"watch_{place}",
        task_display_name=f"{way} · watch",
        weight=weight,
        approve_task=approve.task_id,
        retries=BACKSTOP_RETRIES,
    )
    [approve, watch] >> entry
    return [approve, watch]


def _calls(release: Release, moment: Moment, weight: str = "") -> list[BaseOperator]:
    """A task for each call of this moment, in a row."""
    shown = f"{weight} % · " if weight else ""
    tasks: list[BaseOperator] = [
        CallHookOperator(
            task_id=f"{moment}_{position + 1}",
            task_display_name=f"{shown}{moment.replace('_', ' ')} · {hook.what}",
            moment=str(moment),
            position=position,
            weight=weight,
            retries=BACKSTOP_RETRIES,
        )
        for position, hook in enumerate(release.hooks.get(moment, ()))
    ]
    in_a_row(*tasks)
    return tasks


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
        "version": _version(release),
        "profile": Param("standard", type="string", title="Profile", enum=profiles, values_display=shown),
        "dry_run": Param(False, type="boolean", title="Dry run", description="Everything but the writes"),
        "reason": _text("reason", "Reason", "Why this release, for the log and whoever is asked to approve"),
        "steps": _text(
            "steps",
            "Steps",
            "A part of the profile's weights, for example 5,100",
            pattern=r"^\s*[0-9.]+\s*(,\s*[0-9.]+\s*)*$",
        ),
        "override": _text(
            "override", "Override", "Why it cannot wait for the release window, a freeze or a cooldown; it is recorded"
        ),
    }


def _version(release: Release) -> Param:
    """Required, unless an asset event may bring it."""
    kind: Any = ["null", "string"] if release.on_asset else "string"
    said = f"; events of {release.on_asset} bring it" if release.on_asset else ""
    known = {"default": None} if release.on_asset else {}
    return Param(
        type=kind,
        title="Version",
        description=f"The version that the idle side runs{said}",
        minLength=1,
        maxLength=LONGEST["version"],
        pattern="^[A-Za-z0-9][A-Za-z0-9._+-]*$",
        **known,
    )


def _text(key: str, title: str, description: str, **schema: Any) -> Param:
    # Without null among its types an empty field would keep the form from being sent.
    return Param(None, type=["null", "string"], title=title, description=description, maxLength=LONGEST[key], **schema)


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

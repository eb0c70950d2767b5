"""What all our operators share: the desk, the run's rollout, and how an error becomes a red task with one sentence."""

import logging
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from canary_release.control.desk import Desk, plan_of
from canary_release.control.real_desk import open_desk
from canary_release.core.problems import CanaryError, RefusedError
from canary_release.core.values import Weights, plain
from canary_release.hooks.airflow_runs import AirflowRuns, is_configured
from canary_release.ledger.records import Rollout
from canary_release.links import ROLLOUT_LINKS

BACKSTOP_RETRIES = 3
LOG_WIDTH = 110


class RolloutOperator(BaseOperator):
    """Base of the operators that act on the rollout of their own run. Subclasses only call control and report."""

    operator_extra_links = ROLLOUT_LINKS

    def open_desk(self) -> Desk:
        return open_desk()

    def actor(self, context: Context) -> str:
        """Who is written into the ledger: the task and its try."""
        instance = context["ti"]
        return f"{self.dag_id}/{instance.task_id} (try {instance.try_number})"

    def rollout(self, desk: Desk, context: Context) -> Rollout:
        run = context["dag_run"]
        return desk.rollout_of_run(run.dag_id, run.run_id)

    def tell(self, *lines: str, **facts: Any) -> None:
        """Write one block for people, and the same as one structured line for programs.

        facts: ``event`` names the line, ``canary.<event>`` in the log; the others are its fields.
        """
        self.log.info("\n".join(wrapped(line) for text in lines for line in text.splitlines()))
        if facts:
            self.fact(**facts)

    def fact(self, *, event: str, **fields: Any) -> None:
        """One line for programs; the log as NDJSON has each field as a key."""
        self.log.info(f"canary.{event}", **fields)

    def skipped(self, why: str) -> NoReturn:
        """Skip this task, and say why: Airflow keeps the exception's words from the log."""
        self.tell(f"skipped  {why}", event="skipped", why=why)
        raise AirflowSkipException(why)

    def note(self, context: Context, sentence: str) -> None:
        """One sentence into the run's note. A task may not write it, so that needs the connection canary_airflow."""
        if not is_configured():
            return
        run = context["dag_run"]
        try:
            AirflowRuns().set_note(run.dag_id, run.run_id, sentence)
        except CanaryError as error:
            self.log.warning("the run's note was not written: %s", error)

    def fold(self, title: str, text: str) -> None:
        """A long part that the log view shows closed."""
        self.log.info(f"::group::{title}")
        self.log.info(text)
        self.log.info("::endgroup::")


@contextmanager
def refusals_are_final() -> Iterator[None]:
    """What the ledger refuses today it refuses tomorrow: no retries for it."""
    try:
        yield
    except RefusedError as error:
        _say(f"REFUSED  {error}")
        raise AirflowFailException(f"Refused: {error}") from error


@contextmanager
def problems_are_final() -> Iterator[None]:
    """For acts that have already made the service safe: a retry would only be refused."""
    try:
        yield
    except CanaryError as error:
        _say(f"{'REFUSED' if isinstance(error, RefusedError) else 'FAILED'}  {error}")
        raise AirflowFailException(str(error)) from error


def _say(sentence: str) -> None:
    """The log shows it before the traceback that Airflow adds."""
    logging.getLogger(__name__).error(sentence)


def wrapped(line: str) -> str:
    """A long sentence over several lines, since the log view does not break them; table rows as they are."""
    if len(line) <= LOG_WIDTH or "│" in line:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(line, LOG_WIDTH, subsequent_indent=indent + "    ", break_on_hyphens=False)


def step_index(rollout: Rollout, weight: str) -> int | None:
    """Where this weight stands in the rollout's frozen plan, None when this run leaves it out."""
    weights = [plain(step.weight) for step in plan_of(rollout).weight_steps]
    return weights.index(weight) if weight in weights else None


def weights_line(title: str, weights: Weights) -> str:
    return f"  {title:<22}{weights}"

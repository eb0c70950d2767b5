"""The guardian's task, and the tasks of people who want a version off now: abort and return."""

from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError

# What acts is imported when it acts: whatever part of the package is broken, these tasks exist and go red with the
# error, instead of vanishing with their DAGs.

_LONGEST_NAME = 250  # of a service or user, in the ledger


class GuardianOperator(BaseOperator):
    """Bring every canary without a living rollout back to stable, and go red while anything is not safe."""

    def execute(self, context: Context) -> list[str]:
        from canary_release.control.guardian import Guardian
        from canary_release.control.real_desk import open_desk

        instance: Any = context["ti"]
        findings = Guardian(open_desk, name="DAG", run_state=lambda dag, run: _run_state(instance, dag, run)).tick()
        if not findings:
            self.log.info("guard    every rollout in progress is being watched; nothing to do")
        for finding in findings:
            self.log.warning("guard    %s  %s", finding.kind, finding.sentence)
        # One line for programs, also when there was nothing to do: that somebody looked is a fact.
        self.log.info("canary.guard", findings=[str(finding.kind) for finding in findings])
        unsafe = [finding.sentence for finding in findings if not finding.safe]
        if unsafe:
            raise AirflowFailException("; ".join(unsafe))
        return [finding.sentence for finding in findings]


class AbortOperator(BaseOperator):
    """Take a service's canary off. The service and the reason come from the run's params.

    An abort is never refused for its words: a reason is cleaned, or left out when it looks like a secret.
    """

    def execute(self, context: Context) -> str:
        from canary_release.control.ending import abort
        from canary_release.control.real_desk import open_desk
        from canary_release.operators.rollout_task import problems_are_final

        service, reason, by = _asked(context)
        with problems_are_final():
            ended = abort(open_desk(), service, reason, actor=by)
        self.log.info("abort    %s", ended.sentence)
        self.log.info("canary.abort", rollout=ended.rollout.id, state=str(ended.rollout.state), by=by)
        return ended.sentence


class ReturnOperator(BaseOperator):
    """Give a service back to the side it had before its last promotion; service and reason as for an abort."""

    def execute(self, context: Context) -> str:
        from canary_release.control.real_desk import open_desk
        from canary_release.control.returning import return_to_old
        from canary_release.operators.rollout_task import problems_are_final

        service, reason, by = _asked(context)
        with problems_are_final():
            ended = return_to_old(open_desk(), service, reason, by)
        self.log.info("return   %s", ended.sentence)
        self.log.info("canary.return", rollout=ended.rollout.id, state=str(ended.rollout.state), by=by)
        return ended.sentence


def _asked(context: Context) -> tuple[str, str, str]:
    """Service, reason and user of the run, each one printable line."""
    from canary_release.operators.start_release import LONGEST, looks_secret, plain_text

    params, run = context["params"], context["dag_run"]
    by = plain_text(getattr(run, "triggering_user_name", None) or "unknown", _LONGEST_NAME)
    service = plain_text(str(params.get("service")), _LONGEST_NAME)
    reason = plain_text(str(params.get("reason") or ""), LONGEST["reason"])
    if looks_secret(reason):
        reason = "(left out: it looks like a secret; change that secret)"
    return service, reason, by


def _run_state(instance: Any, dag_id: str, run_id: str) -> str | None:
    """What the API server tells a task of another run. None: there is no such DAG or run. CanaryError: no answer."""
    from canary_release.core.problems import CanaryError

    try:
        state = instance.get_dagrun_state(dag_id, run_id)
        state = str(getattr(state, "value", state))
        if state in ("success", "failed"):
            return state
        return "paused" if instance.get_dag(dag_id).is_paused else state
    except AirflowRuntimeError as error:
        if (error.error.detail or {}).get("status_code") == 404:
            return None
        raise CanaryError(f"Airflow did not say how the run {run_id} of {dag_id} stands: {error}") from error

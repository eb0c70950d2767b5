"""The guardian's task and the abort task: the canary goes, whoever is in charge."""

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from canary_release.control.ending import abort, reconcile
from canary_release.control.real_desk import open_desk
from canary_release.operators.rollout_task import problems_are_final


class GuardianOperator(BaseOperator):
    """Bring every canary without a living rollout back to stable."""

    def execute(self, context: Context) -> list[str]:
        done = reconcile(open_desk(), actor="guardian")
        if not done:
            self.log.info("guard    every rollout in progress is being watched; nothing to do")
        for ended in done:
            self.log.warning("guard    %s", ended.sentence)
        unsafe = [ended.sentence for ended in done if not ended.rollout.state.final]
        if unsafe:
            raise AirflowFailException("; ".join(unsafe))
        return [ended.sentence for ended in done]


class AbortOperator(BaseOperator):
    """Take a service's canary off. The service and the reason come from the run's params."""

    def execute(self, context: Context) -> str:
        params, run = context["params"], context["dag_run"]
        by = getattr(run, "triggering_user_name", None) or "unknown"
        with problems_are_final():
            ended = abort(open_desk(), str(params["service"]), str(params.get("reason") or ""), actor=by)
        self.log.info("abort    %s", ended.sentence)
        return ended.sentence

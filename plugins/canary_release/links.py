"""Buttons on the tasks of a rollout: its report, its dashboard at the right minutes, the load balancer, the runbook.

The addresses come from the block ``links`` of the release file as it was frozen. What is not named there has no button.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator


class _RolloutLink(BaseOperatorLink):
    """Asked once, when the task has ended; Airflow keeps the answer."""

    place = ""

    @property
    def name(self) -> str:
        return self.place.capitalize()

    def get_link(self, operator: "BaseOperator", *, ti_key: Any) -> str:
        """Empty where there is no such place, or no rollout."""
        from canary_release.control.notices import links_of
        from canary_release.control.real_desk import open_desk
        from canary_release.core.problems import CanaryError

        try:
            desk = open_desk()
            rollout = desk.ledger.rollout_of_run(ti_key.dag_id, ti_key.run_id)
            return "" if rollout is None else links_of(rollout, desk.release(rollout), desk.clock.now())[self.place]
        except CanaryError:
            return ""


class ReportLink(_RolloutLink):
    place = "report"


class DashboardLink(_RolloutLink):
    place = "dashboard"


class LoadBalancerLink(_RolloutLink):
    place = "load balancer"


class RunbookLink(_RolloutLink):
    place = "runbook"


ROLLOUT_LINKS: Sequence[BaseOperatorLink] = (ReportLink(), DashboardLink(), LoadBalancerLink(), RunbookLink())

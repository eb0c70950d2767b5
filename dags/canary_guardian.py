"""Every minute: any canary without a living rollout goes back to stable.

Its own DAG in its own file with its own few imports, so that no broken release file, no broken module of a release and
no paused release takes it along.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from canary_release.operators.guard import GuardianOperator

with DAG(
    dag_id="canary_guardian",
    description="Brings abandoned canaries back to stable",
    schedule=timedelta(minutes=1),
    start_date=datetime(2020, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["canary-release"],
    default_args={"retries": 0, "priority_weight": 1000, "weight_rule": "absolute"},
) as dag:
    GuardianOperator(task_id="guard")

"""Give a service back to the side it had before its last promotion, while that side is kept (`keep_old_for`)."""

from airflow.sdk import DAG, Param

from canary_release.operators.guard import ReturnOperator

with DAG(
    dag_id="canary_return",
    description="Gives all traffic of a service back to the version before the last promotion, now",
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    tags=["canary-release"],
    params={
        "service": Param(type="string", title="Service", minLength=1, maxLength=128),
        "reason": Param(None, type=["null", "string"], title="Reason", maxLength=2000),
    },
    default_args={"retries": 0, "priority_weight": 1000, "weight_rule": "absolute"},
) as dag:
    ReturnOperator(task_id="return")

"""Take a service's canary off, from the UI or the API, by anyone who may trigger this DAG."""

from airflow.sdk import DAG, Param

from canary_release.operators.guard import AbortOperator

with DAG(
    dag_id="canary_abort",
    description="Gives all traffic of a service back to its safe side, now",
    schedule=None,
    catchup=False,
    is_paused_upon_creation=False,
    tags=["canary-release"],
    params={
        "service": Param(type="string", title="Service", minLength=1, maxLength=128),
        "reason": Param(None, type=["null", "string"], title="Reason", maxLength=2000),
    },
    default_args={"retries": 3, "priority_weight": 1000, "weight_rule": "absolute"},
) as dag:
    AbortOperator(task_id="abort")

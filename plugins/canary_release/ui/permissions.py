"""Who may see and do what: Airflow's own user, and its permissions on the DAG that releases the service.

A mounted app has no ``request.app.state`` of Airflow's, so the auth manager is asked directly.
"""

from collections.abc import Iterable
from typing import Literal

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.dag import DagModel
from airflow.utils.session import create_session
from fastapi import HTTPException, status
from sqlalchemy import select

__all__ = ["GetUserDep", "changeable_dags", "may", "readable_dags", "require"]

Method = Literal["GET", "POST", "PUT", "DELETE"]


def may(user: GetUserDep, method: Method, dag_id: str) -> bool:
    """Whether the user may do this with runs of the DAG: PUT changes one, POST triggers one."""
    details = DagDetails(id=dag_id, team_name=_teams_of([dag_id]).get(dag_id))
    return bool(
        get_auth_manager().is_authorized_dag(
            method=method, access_entity=DagAccessEntity.RUN, details=details, user=user
        )
    )


def require(user: GetUserDep, method: Method, dag_id: str) -> None:
    """HTTP 403 unless the user may."""
    if not may(user, method, dag_id):
        verb = {"GET": "see", "PUT": "change", "POST": "trigger", "DELETE": "delete"}[method]
        raise HTTPException(status.HTTP_403_FORBIDDEN, f"You may not {verb} runs of the DAG {dag_id}.")


def changeable_dags(user: GetUserDep, dag_ids: Iterable[str]) -> set[str]:
    """Those of the DAGs whose runs the user may change; one question to Airflow's database for all of them."""
    manager, wanted = get_auth_manager(), list(dag_ids)
    teams = _teams_of(wanted)
    return {
        dag_id
        for dag_id in wanted
        if manager.is_authorized_dag(
            method="PUT",
            access_entity=DagAccessEntity.RUN,
            details=DagDetails(id=dag_id, team_name=teams.get(dag_id)),
            user=user,
        )
    }


def readable_dags(user: GetUserDep, dag_ids: Iterable[str]) -> set[str]:
    """Those of the DAGs that the user may read. One that Airflow has forgotten is asked for by its name alone, so that
    a weight which its last run left behind does not become invisible together with it.
    """
    wanted = set(dag_ids)
    manager = get_auth_manager()
    allowed = manager.get_authorized_dag_ids(user=user, method="GET")
    missing = wanted - allowed
    forgotten = missing - _known_to_airflow(missing) if missing else set()
    if forgotten:
        allowed |= manager.filter_authorized_dag_ids(dag_ids=forgotten, user=user, method="GET")
    return wanted & allowed


def _teams_of(dag_ids: list[str]) -> dict[str, str | None]:
    return dict(DagModel.get_dag_id_to_team_name_mapping(dag_ids))


def _known_to_airflow(dag_ids: set[str]) -> set[str]:
    with create_session() as session:
        return set(session.scalars(select(DagModel.dag_id).where(DagModel.dag_id.in_(dag_ids))))

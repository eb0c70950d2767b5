"""What a person may do from the pages: take a canary off, or return to the old side after a promotion. Releasing and
answering an approval go through Airflow's own API, from the browser, so that Airflow's own rules hold for them.
"""

from fastapi import APIRouter, Depends, HTTPException, Request, status
from pydantic import BaseModel, ConfigDict, Field

from canary_release.control import ending, returning
from canary_release.control.desk import Desk
from canary_release.control.real_desk import open_desk
from canary_release.ledger import overview
from canary_release.operators.start_release import LONGEST, looks_secret, plain_text
from canary_release.ui.page_routes import known_rollout
from canary_release.ui.permissions import GetUserDep, require

routes = APIRouter()
PATIENCE = 20.0  # seconds that a request tries; the intent is recorded, so the guardian goes on after that
_LONGEST_NAME = 250


class Words(BaseModel):
    """What a person says when acting."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field("", max_length=LONGEST["reason"], description="Why; kept in the ledger")


class Done(BaseModel):
    """sentence: what happened, for people. state: of the rollout."""

    rollout: str
    state: str
    sentence: str


def json_only(user: GetUserDep, request: Request) -> None:
    """HTTP 415 for anything but JSON: a form on another site cannot send that with the user's cookie."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(status.HTTP_415_UNSUPPORTED_MEDIA_TYPE, 'Send the reason as JSON: {"reason": "…"}.')


@routes.post("/api/services/{service}/abort", dependencies=[Depends(json_only)])
def abort(service: str, words: Words, user: GetUserDep) -> Done:
    """Give all traffic back to the safe side, now, in this request; needs the right to change runs of the DAG."""
    desk = open_desk()
    newest = overview.newest_of(desk.ledger, service)
    if newest is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"The ledger knows no service {service!r}.")
    require(user, "PUT", newest.dag_id)
    ended = _aborted(desk, service, said(words), actor(user))
    return Done(rollout=ended.rollout.id, state=str(ended.rollout.state), sentence=ended.sentence)


@routes.post("/api/rollouts/{rollout_id}/return", dependencies=[Depends(json_only)])
def return_to_old(rollout_id: str, words: Words, user: GetUserDep) -> Done:
    """Give all traffic back to the side that this promotion left, while it is kept; needs the same right."""
    desk = open_desk()
    promoted = known_rollout(desk.ledger, rollout_id)
    require(user, "PUT", promoted.dag_id)
    newest = overview.newest_of(desk.ledger, promoted.service)
    if newest is None or newest.id != promoted.id:
        raise HTTPException(status.HTTP_409_CONFLICT, f"{rollout_id} is not the newest rollout of {promoted.service}.")
    ended = returning.return_to_old(desk, promoted.service, said(words), actor(user), patience=PATIENCE)
    return Done(rollout=ended.rollout.id, state=str(ended.rollout.state), sentence=ended.sentence)


def _aborted(desk: Desk, service: str, why: str, by: str) -> ending.Ended:
    active = desk.ledger.active(service)
    if active is None:
        return ending.abort(desk, service, why, actor=by, patience=PATIENCE)
    # Not ``ending.abort``: with a rollout in progress that one tries for ever, and a request must be answered.
    reason = f"aborted by {by}: {why}" if why else f"aborted by {by}"
    return ending.roll_back(desk, active, reason, actor=by, patience=PATIENCE)


def actor(user: GetUserDep) -> str:
    return plain_text(f"{user.get_name()} (web)", _LONGEST_NAME)


def said(words: Words) -> str:
    """An act is never refused for its words: what looks like a secret is left out."""
    reason = plain_text(words.reason, LONGEST["reason"])
    return "(left out: it looks like a secret; change that secret)" if looks_secret(reason) else reason

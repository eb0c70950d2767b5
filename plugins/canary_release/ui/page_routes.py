"""What the pages read, as JSON, SVG and HTML. Nothing here changes anything but the ledger's memory of its own sums."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, HTTPException, Query, Response, status
from pydantic import TypeAdapter

from canary_release.control.real_desk import open_ledger
from canary_release.core.problems import RefusedError
from canary_release.ledger import overview
from canary_release.ledger.records import Rollout, State
from canary_release.ledger.store import Ledger
from canary_release.ui.chart_series import bins_of
from canary_release.ui.charts import Charts, Story, check_chart, draw, evidence_chart, weight_chart
from canary_release.ui.past_harm import keep_missing
from canary_release.ui.past_rows import History, past_rows
from canary_release.ui.permissions import GetUserDep, changeable_dags, may, readable_dags, require
from canary_release.ui.report_page import policy, report_html
from canary_release.ui.rollout_page import RolloutPage, read_story, rollout_page
from canary_release.ui.service_rows import ServiceList, by_urgency, figures_of, service_row
from canary_release.ui.svg_canvas import Canvas, shown_width

routes = APIRouter()
DAYS = 30
_AT_ONCE = 20  # finished rollouts whose sums are made up for after one look at the list
Limit = Annotated[int, Query(ge=1, le=1000)]
Width = Annotated[int, Query(ge=1, le=100_000, description="CSS pixels; what is beyond the possible is cut")]


@routes.get("/api/services", responses={200: {"model": ServiceList}})
def services(user: GetUserDep, later: BackgroundTasks) -> Response:
    """Every service whose DAG the user may read, the most urgent first."""
    ledger, now = open_ledger(), time.time()
    dags = readable_dags(user, overview.dag_ids(ledger))
    changeable, name = changeable_dags(user, dags), user.get_name()
    rows = [
        service_row(view, rollout, now=now, user=name, may_change=rollout.dag_id in changeable)
        for view in overview.look(ledger)
        if (rollout := view.rollout) is not None and rollout.dag_id in dags
    ]
    finished = overview.finished_since(ledger, now - DAYS * 86400)
    if not all(each.summed for each in finished):
        later.add_task(keep_missing, ledger, now - DAYS * 86400, _AT_ONCE)
    finished = [each for each in finished if each.dag_id in dags]
    answer = ServiceList(now, name, figures_of(finished, DAYS), by_urgency(rows))
    return _json(answer, later)


@routes.get("/api/services/{service}/rollouts", responses={200: {"model": History}})
def history(service: str, user: GetUserDep, limit: Limit = 20) -> Response:
    """A service's rollouts, newest first, dry runs among them."""
    found = overview.past_of(open_ledger(), service, limit)
    if not found:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"The ledger knows no rollout of {service!r}.")
    readable = {dag_id for dag_id in {each.dag_id for each in found} if may(user, "GET", dag_id)}
    if not readable:
        require(user, "GET", found[0].dag_id)
    return _json(History(service, past_rows(each for each in found if each.dag_id in readable)))


@routes.get("/api/rollouts/{rollout_id}", responses={200: {"model": RolloutPage}})
def rollout(rollout_id: str, user: GetUserDep) -> Response:
    ledger = open_ledger()
    story = _story(ledger, _readable(ledger, rollout_id, user))
    return _json(_page(ledger, story, user))


@routes.get("/api/dags/{dag_id}/runs/{run_id}/rollout", responses={200: {"model": RolloutPage}})
def rollout_of_run(dag_id: str, run_id: str, user: GetUserDep) -> Response:
    """The same, found by Airflow's names."""
    require(user, "GET", dag_id)
    ledger = open_ledger()
    found = ledger.rollout_of_run(dag_id, run_id)
    if found is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"The run {run_id} of {dag_id} has no rollout in the ledger.")
    return _json(_page(ledger, _story(ledger, found), user))


@routes.get("/api/rollouts/{rollout_id}/charts", responses={200: {"model": Charts}})
def charts(rollout_id: str, user: GetUserDep, width: Width = 800) -> Response:
    """All charts as inline SVG, drawn for this width."""
    ledger = open_ledger()
    return _json(draw(_story(ledger, _readable(ledger, rollout_id, user)), width))


@routes.get("/api/rollouts/{rollout_id}/charts/{name}.svg", response_class=Response)
def chart(rollout_id: str, name: str, user: GetUserDep, width: Width = 800) -> Response:
    """One chart as a picture: weight, evidence, or check-0 and so on."""
    ledger = open_ledger()
    canvas = _named_chart(_story(ledger, _readable(ledger, rollout_id, user)), name, shown_width(width))
    return Response(
        canvas.render(standalone=True),
        media_type="image/svg+xml",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'"},
    )


@routes.get("/rollouts/{rollout_id}/report", response_class=Response)
def report(rollout_id: str, user: GetUserDep, download: bool = False) -> Response:
    """A printable page that needs nothing else; ``download`` makes the browser keep it as a file."""
    ledger = open_ledger()
    story = _story(ledger, _readable(ledger, rollout_id, user))
    headers = {"Content-Security-Policy": f"{policy()}; frame-ancestors 'self'"}
    if download:
        name = "".join(
            letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in rollout_id
        )
        headers["Content-Disposition"] = f'attachment; filename="{name}.html"'
    return Response(report_html(_page(ledger, story, user), story), media_type="text/html", headers=headers)


def known_rollout(ledger: Ledger, rollout_id: str) -> Rollout:
    """HTTP 404 when the ledger knows none."""
    try:
        return ledger.rollout(rollout_id)
    except RefusedError as error:
        raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from None


def _readable(ledger: Ledger, rollout_id: str, user: GetUserDep) -> Rollout:
    found = known_rollout(ledger, rollout_id)
    require(user, "GET", found.dag_id)
    return found


def _story(ledger: Ledger, found: Rollout) -> Story:
    return read_story(ledger, found, time.time())


def _page(ledger: Ledger, story: Story, user: GetUserDep) -> RolloutPage:
    found = story.rollout
    may_change = may(user, "PUT", found.dag_id)
    kept = found.state is State.PROMOTED and found.kept_until is not None and found.kept_until > story.now
    may_return = kept and may_change and _is_newest(ledger, found)
    return rollout_page(ledger, story, user=user.get_name(), may_change=may_change, may_return=may_return)


def _is_newest(ledger: Ledger, found: Rollout) -> bool:
    newest = overview.newest_of(ledger, found.service)
    return newest is not None and newest.id == found.id


def _named_chart(story: Story, name: str, width: int) -> Canvas:
    bins = bins_of(story.windows, most=max(width // 12, 20))
    if name == "weight":
        return weight_chart(story, bins, width)
    if name == "evidence":
        return evidence_chart(story, width)
    checks = story.release.checks if story.release is not None else ()
    named = {f"check-{place}": check for place, check in enumerate(checks)}
    if name not in named:
        known = ", ".join(["weight", "evidence", *named])
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"There is no chart {name!r}; there are: {known}.")
    return check_chart(story, named[name], bins, width)


_ADAPTERS = {kind: TypeAdapter(kind) for kind in (ServiceList, History, RolloutPage, Charts)}


def _json(value: ServiceList | History | RolloutPage | Charts, later: BackgroundTasks | None = None) -> Response:
    # Written out directly: validating our own values again would double the time of a long list.
    adapter: TypeAdapter[Any] = _ADAPTERS[type(value)]
    return Response(adapter.dump_json(value), media_type="application/json", background=later)

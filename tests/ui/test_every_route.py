"""Rules that hold for every route of the app, whichever is added next."""

from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route

from canary_release.ledger import tables
from faults.results_file import record_own
from ui.conftest import Pages

PARTS = {
    "service": "checkout", "rollout_id": "checkout-12", "dag_id": "release_checkout", "run_id": "checkout-v2.14.1",
    "name": "weight",
}  # fmt: skip
OF_NO_DAG = {"/api/openapi.json", "/api/services"}  # the schema, and a list that holds what the user may see
FORM = "application/x-www-form-urlencoded"


def every_route(pages: Pages) -> Iterator[tuple[str, APIRoute, str]]:
    """(method, route, a path that it serves), in the order of the app."""
    for route in pages.client.app.routes:  # type: ignore[attr-defined]
        if isinstance(route, Mount):
            assert route.path == "/static", "files of ours, the same for everybody"
            continue
        assert isinstance(route, APIRoute | Route), route
        assert isinstance(route, APIRoute), f"{route.path} takes part in none of these rules"
        for method in route.methods - {"HEAD"}:
            yield method, route, route.path.format(**PARTS)


def kept(pages: Pages) -> dict[str, int]:
    """How much stands in each table of the ledger."""
    with pages.ledger._read() as connection:
        return {
            name: len(connection.execute(table.select()).all())
            for name, table in tables.metadata.tables.items()
            if name != "alembic_version"
        }


def test_there_are_routes_that_read_and_routes_that_write(pages: Pages) -> None:
    methods = [method for method, _, _ in every_route(pages)]
    assert (methods.count("GET"), methods.count("POST")) == (8, 2), "a new route belongs into docs/pages.md, too"
    assert set(methods) == {"GET", "POST"}


def test_row_28_no_route_answers_anybody_who_is_not_signed_in(pages: Pages) -> None:
    before, asked = kept(pages), 0
    for method, _, path in every_route(pages):
        asked += 1
        for sent in ({"json": {}}, {"content": b"x", "headers": {"content-type": FORM}}):
            answer = pages.client.request(method, path, **sent)  # type: ignore[arg-type]
            assert answer.status_code == 401, (method, path)
    assert kept(pages) == before
    record_own(28, f"{asked} routes of the pages asked without a login: 401")


def test_every_route_of_a_dag_asks_for_a_permission_on_it(pages: Pages) -> None:
    before = kept(pages)
    for method, route, path in every_route(pages):
        answer = pages.client.request(method, path, json={}, headers=pages.as_("none"))
        if route.path in OF_NO_DAG:
            assert answer.status_code == 200
            assert "checkout-12" not in answer.text, path
        else:
            assert answer.status_code == 403, (method, path)
            assert "release_checkout" in answer.json()["detail"]
    assert kept(pages) == before


def test_every_route_that_writes_wants_more_than_reading_and_json(pages: Pages) -> None:
    before = kept(pages)
    for method, _, path in every_route(pages):
        if method == "GET":
            continue
        answer = pages.client.request(method, path, json={}, headers=pages.as_("viewer"))
        assert answer.status_code == 403, path
        for kind in (FORM, "text/plain", "multipart/form-data", "application/json-patch+json", ""):
            headers = pages.as_("admin") | ({"content-type": kind} if kind else {})
            answer = pages.client.request(method, path, content=b'{"reason": "x"}', headers=headers)
            assert answer.status_code == 415, (path, kind)
    assert kept(pages) == before


@pytest.mark.parametrize("role", ["viewer", "admin"])
def test_every_route_that_reads_does_so_for_a_viewer_and_leaves_the_ledger_as_it_is(pages: Pages, role: str) -> None:
    before = kept(pages)
    for method, _, path in every_route(pages):
        if method == "GET":
            answer = pages.client.get(path, headers=pages.as_(role))
            assert answer.status_code == 200, path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert kept(pages) == before

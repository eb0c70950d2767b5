"""The app that Airflow's API server mounts: routes, errors as sentences, and headers that let nothing else in."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI, Request, Response, status
from fastapi.responses import JSONResponse
from starlette.staticfiles import StaticFiles

from canary_release.core.problems import CanaryError, LedgerError, LoadBalancerError, RefusedError
from canary_release.ui import action_routes, page_routes
from canary_release.ui.permissions import GetUserDep

STATIC = Path(__file__).parent / "static"
_STATUS = {
    RefusedError: status.HTTP_409_CONFLICT,
    LedgerError: status.HTTP_503_SERVICE_UNAVAILABLE,
    LoadBalancerError: status.HTTP_502_BAD_GATEWAY,
}


def make_app() -> FastAPI:
    # FastAPI's own documentation pages load their scripts from another host.
    app = FastAPI(title="Canary releases", docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(page_routes.routes)
    app.include_router(action_routes.routes)
    app.add_api_route("/api/openapi.json", _schema_route(app), include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_exception_handler(CanaryError, _said)
    app.middleware("http")(_guarded)
    return app


def _schema_route(app: FastAPI) -> Callable[..., JSONResponse]:
    def schema(user: GetUserDep) -> JSONResponse:
        return JSONResponse(app.openapi())

    return schema


async def _said(request: Request, error: Exception) -> Response:
    """One sentence, as in every other place; the status says whose turn it is."""
    code = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), status.HTTP_502_BAD_GATEWAY)
    return JSONResponse({"detail": str(error)}, code)


async def _guarded(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    headers = response.headers
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"
    headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'self'")
    # Files may be kept, but asked for again; what somebody was allowed to see is not kept at all.
    is_file = "/static/" in request.url.path
    headers.setdefault("Cache-Control", "no-cache" if is_file else "no-store")
    return response

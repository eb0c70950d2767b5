"""The pages as an app that is made with its first request: every Airflow process loads the plugin, one serves pages."""

from collections.abc import Awaitable, Callable, MutableMapping
from threading import Lock
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class LazyApp:
    """An ASGI app. Nothing of FastAPI, the ledger or the hooks is imported before somebody asks for a page."""

    def __init__(self) -> None:
        self._app: Any = None
        self._lock = Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._made()(scope, receive, send)

    def _made(self) -> Any:
        with self._lock:
            if self._app is None:
                from canary_release.ui.sub_app import make_app

                self._app = make_app()
            return self._app

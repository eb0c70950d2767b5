"""A database that answers nothing becomes an error, instead of keeping whoever asked it for ever.

The server's own limits end slow statements, and the kernel's end dead connections. A server that is stopped, or a host
that answers for it, keeps to neither: its socket is shut down here, and the driver raises what it always raises then.
"""

import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa


class Silence:
    """Cuts a connection of the engine that has been waiting for its server for ``seconds``."""

    def __init__(self, engine: sa.Engine, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[int, tuple[threading.Timer, socket.socket]] = {}
        for name in ("before_cursor_execute", "commit", "rollback"):
            sa.event.listen(engine, name, self._asks)
        sa.event.listen(engine, "after_cursor_execute", self._answered)
        sa.event.listen(engine, "handle_error", self._failed)
        sa.event.listen(engine, "checkin", lambda dbapi, record: self._rest(dbapi))
        engine.dialect.do_ping = self._watched(engine.dialect.do_ping)  # type: ignore[method-assign,assignment]

    def _asks(self, connection: sa.Connection, *_: object) -> None:
        self._watch(connection.connection.dbapi_connection)

    def _answered(self, connection: sa.Connection, *_: object) -> None:
        self._rest(connection.connection.dbapi_connection)

    def _failed(self, context: sa.ExceptionContext) -> None:
        if context.connection is not None and not context.connection.closed:
            with suppress(sa.exc.SQLAlchemyError):
                self._rest(context.connection.connection.dbapi_connection)

    def _watched(self, ping: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def watched(dbapi: Any) -> bool:
            self._watch(dbapi)
            try:
                return ping(dbapi)
            finally:
                self._rest(dbapi)

        return watched

    def _watch(self, dbapi: Any) -> None:
        self._rest(dbapi)
        # Of its own number: the driver's could belong to another connection by the time it is cut.
        line = socket.socket(fileno=os.dup(dbapi.fileno()))
        timer = threading.Timer(self._seconds, _cut, args=(line,))
        timer.daemon = True
        self._waiting[id(dbapi)] = (timer, line)
        timer.start()

    def _rest(self, dbapi: Any) -> None:
        timer, line = self._waiting.pop(id(dbapi), (None, None))
        if timer is not None and line is not None:
            timer.cancel()
            line.close()


def _cut(line: socket.socket) -> None:
    with suppress(OSError), line:
        line.shutdown(socket.SHUT_RDWR)

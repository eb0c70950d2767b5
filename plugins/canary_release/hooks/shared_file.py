"""A file that several processes read and replace: one writer at a time, and never half a file."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from canary_release.core.problems import LoadBalancerError

LOCK_SECONDS = 5.0
LOCK_POLL = 0.01  # seconds


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` (a file beside it) against every other thread and process that asks for it.

    Raises LoadBalancerError when another writer keeps it for 5 s, or when the folder cannot be written.
    """
    lock = path.with_name(path.name + ".lock")
    with contextlib.ExitStack() as opened:
        try:
            handle = opened.enter_context(lock.open("a"))
        except OSError as error:
            raise LoadBalancerError(f"{lock} cannot be written ({error.strerror}); let Airflow write there.") from error
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(handle.fileno()):
            if time.monotonic() > deadline:
                raise LoadBalancerError(f"Another writer has held {lock} for {LOCK_SECONDS:g} s; find out who.")
            time.sleep(LOCK_POLL)
        yield


def read_text(path: Path) -> str:
    """The file's text; LoadBalancerError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadBalancerError(f"{path} cannot be read ({_reason(error)}); check the connection's extra.") from error


def replace_text(path: Path, text: str) -> None:
    """Put ``text`` in the place of ``path`` in one move that survives a crash, with the mode the file had."""
    # A link is followed, so that it stays one.
    target = path.resolve()
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            _take_over(target, out.fileno())
            os.fsync(out.fileno())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise LoadBalancerError(f"{path} cannot be written ({error.strerror}); let Airflow write there.") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)


def _take_over(target: Path, descriptor: int) -> None:
    try:
        before = target.stat()
    except FileNotFoundError:
        return
    os.fchmod(descriptor, before.st_mode & 0o7777)
    # Only root may give a file away; for everyone else the file becomes the writer's own.
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, before.st_uid, before.st_gid)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror or "error") if isinstance(error, OSError) else "it is not UTF-8"

"""The first task of a rollout: read the run's conf, take the service, freeze the release file, try the way back.

A run's conf comes from whoever may trigger it, is stored and shown in plain text, and Airflow refuses no key that it
does not know. So it is data here: six known keys, short texts, nothing that looks like a secret, never a template.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import Context

from canary_release.control.opening import ClosedError
from canary_release.control.real_desk import read_release
from canary_release.control.starting import StartRequest, start
from canary_release.core.problems import RefusedError, ReleaseFileError
from canary_release.core.release import Release
from canary_release.core.suggest import did_you_mean, listed, shown
from canary_release.operators.rollout_task import RolloutOperator, problems_are_final
from canary_release.operators.start_report import start_facts, start_lines

LONGEST = {"version": 128, "profile": 128, "steps": 200, "reason": 2000, "override": 2000}
"""The longest text of each key of the conf, in characters."""
KNOWN = ("version", "profile", "steps", "reason", "dry_run", "override")
_LONGEST_NAME = 250  # of a user, in the ledger
_SOONEST = timedelta(seconds=15)
_MOST_KEYS = 20
_MOST_SHOWN = 5  # unknown keys in one sentence
_MOST_LOOKED_AT = 4000  # characters, more than any value may have

_SECRET_KEY = re.compile(r"passw(or)?d|passphrase|secret|token|credential|private|api.?key|access.?key|_key$", re.I)
_SECRET_TEXT = re.compile(
    r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bgh[opsur]_[A-Za-z0-9]{16,}|\bgithub_pat_[A-Za-z0-9_]{16,}|\bglpat-[A-Za-z0-9_-]{16,}"
    r"|\bxox[abeprs]-[A-Za-z0-9-]{10,}|hooks\.slack\.com/services/"
    r"|\beyJ[A-Za-z0-9_=-]{5,}\.[A-Za-z0-9_=-]{5,}\.[A-Za-z0-9_=-]*"  # JSON web tokens
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/\s:@]+:[^/\s@]+@"  # a URL with a password
    r"|(?i:\bbearer\s+[A-Za-z0-9._~+/-]{16,})"
    # `password: hunter2` and `token=abcd`, but not `token: expiry was wrong`.
    r"|(?i:(passw(or)?d|passphrase|secret|token|api.?key|access.?key)[\"']?\s*(=\s*[\"']?\S{4,}|:\s*[\"']?(?=\S*\d)\S{4,}))"
)


def plain_text(text: str, longest: int) -> str:
    """One line of at most ``longest`` characters in which everything that is not printable is written as an escape."""
    composed = unicodedata.normalize("NFC", text[:longest])
    escaped = (char if char.isprintable() else char.encode("unicode_escape").decode() for char in composed)
    return "".join(escaped)[:longest]


def looks_secret(text: str) -> bool:
    """Whether a text has the shape of a password, token or key."""
    return _SECRET_TEXT.search(text[:_MOST_LOOKED_AT]) is not None


def checked_conf(conf: Mapping[str, Any]) -> dict[str, Any]:
    """The known keys of a run's conf, with None where nothing was given. RefusedError for anything else.

    No sentence repeats a value that looks like a secret.
    """
    if len(conf) > _MOST_KEYS:
        raise RefusedError(f"the conf has {len(conf)} keys; known are {listed(KNOWN)}.")
    _refuse_secrets(conf)
    unknown = [str(key) for key in conf if key not in KNOWN]
    if unknown:
        named = listed(shown(key) for key in unknown[:_MOST_SHOWN]) + ("" if len(unknown) <= _MOST_SHOWN else ", …")
        hint = did_you_mean(unknown[0], KNOWN)
        raise RefusedError(f"the conf's key {named} is not known{hint}; known are {listed(KNOWN)}.")
    for key, longest in LONGEST.items():
        value = conf.get(key)
        if value is not None and not isinstance(value, str):
            raise RefusedError(f"the conf's {key} must be a text, not {_kind(value)}.")
        if value is not None and len(value) > longest:
            raise RefusedError(f"the conf's {key} has {len(value)} characters; at most {longest} are allowed.")
    if not isinstance(conf.get("dry_run"), bool | None):
        raise RefusedError(f"the conf's dry_run must be true or false, not {_kind(conf['dry_run'])}.")
    if conf.get("version") is None:
        raise RefusedError("the conf has no version; say which version the idle side runs.")
    return {key: conf.get(key) for key in KNOWN}


def _refuse_secrets(conf: Mapping[str, Any]) -> None:
    for key, value in conf.items():
        named = str(key)[:_MOST_LOOKED_AT]
        if looks_secret(named) or _SECRET_KEY.search(named) or (isinstance(value, str) and looks_secret(value)):
            place = "in a key" if looks_secret(named) else f"at the key {shown(named)}"
            raise RefusedError(
                f"the conf looks as if it held a secret ({place}), and everybody who may see the run can read it: "
                f"delete the run, change the secret, and keep secrets in Airflow connections."
            )


def _kind(value: Any) -> str:
    return {bool: "true or false", int: "a number", float: "a number", list: "a list"}.get(type(value), "an object")


def read_release_file(path: Path) -> Release:
    """The release file at ``path``. ReleaseFileError with every problem, also when it leads out of its folder."""
    try:
        # Both resolved: a mounted folder may consist of links that stay within it.
        inside = path.resolve().is_relative_to(path.parent.resolve())
    except (OSError, RuntimeError):
        inside = True  # a circle of links leads nowhere; reading it says so
    if not inside:
        name = plain_text(path.name, _LONGEST_NAME)
        raise ReleaseFileError([f"{name}:1: is a link out of the folder of release files; put the file itself there"])
    return read_release(path)


class StartReleaseOperator(RolloutOperator):
    """Begin the rollout of this run.

    :param release_file: path of the release file; it is read again here, so that what is frozen is what runs.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, release_file: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.release_file = release_file

    def execute(self, context: Context) -> dict[str, str]:
        with problems_are_final():
            request = self._request(context)
            try:
                started = start(self.open_desk(), request)
            except ClosedError as error:
                if request.release.calendar.when_closed != "wait":
                    raise
                self._wait(context, error)
        self.tell(*start_lines(request, started), event="started", **start_facts(started))
        return {"rollout": started.rollout.id, "version": started.rollout.version}

    def opened(self, context: Context, event: Any) -> dict[str, str]:
        """The calendar may have opened; the file is read again, and asking again is what decides."""
        return self.execute(context)

    def _wait(self, context: Context, error: ClosedError) -> NoReturn:
        """Nobody holds the service meanwhile."""
        # A task that resumes within seconds of deferring may be failed by the scheduler (apache/airflow 71580).
        at = max(datetime.fromtimestamp(error.closed.until, UTC), datetime.now(UTC) + _SOONEST)
        self.tell(f"start    WAITS  {error}", event="closed", why=error.closed.why, until=at.isoformat())
        self.note(context, f"waits: {error.closed.sentence}")
        self.defer(trigger=DateTimeTrigger(moment=at), method_name="opened")
        raise AssertionError("defer never returns")

    def _request(self, context: Context) -> StartRequest:
        params, run, path = context["params"], context["dag_run"], Path(self.release_file)
        # Params are checked against their schemas when a run is triggered; a conf key without a param is not.
        given = {**params, **(getattr(run, "conf", None) or {})}
        by = getattr(run, "triggering_user_name", None) or "unknown"
        events = context.get("triggering_asset_events")
        if given.get("version") is None and events:
            given["version"] = version_of_event(events)
            by = f"asset {', '.join(str(asset.name) for asset in events)}"
        conf = checked_conf(given)
        return StartRequest(
            release=read_release_file(path),
            release_name=path.name,
            version=conf["version"],
            dag_id=run.dag_id,
            run_id=run.run_id,
            by=plain_text(by, _LONGEST_NAME),
            reason=plain_text(conf["reason"] or "", LONGEST["reason"]),
            profile=conf["profile"],
            steps=conf["steps"],
            dry_run=bool(conf["dry_run"]),
            override=plain_text((conf["override"] or "").strip(), LONGEST["override"]),
        )


def version_of_event(events: Mapping[Any, Sequence[Any]]) -> Any:
    """The version in the extra of the newest event that started this run. RefusedError when it says none.

    Whoever may send an event decides what stands there, so it is checked like a conf.
    """
    all_of_them = [event for _, of_asset in events.items() for event in of_asset]
    newest = max(all_of_them, key=lambda event: event.timestamp, default=None)
    extra = newest.extra if newest is not None else None
    if not isinstance(extra, Mapping) or extra.get("version") is None:
        raise RefusedError('the asset\'s event says no version; send it with an extra such as {"version": "v2.4.1"}.')
    return extra["version"]

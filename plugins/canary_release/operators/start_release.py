"""The first task of a rollout: read the run's conf, take the service, freeze the release file, try the way back.

A run's conf comes from whoever may trigger it, is stored and shown in plain text, and Airflow refuses no key that it
does not know. So it is data here: five known keys, short texts, nothing that looks like a secret, never a template.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow.sdk import Context

from canary_release.control.real_desk import read_release
from canary_release.control.starting import Started, StartRequest, start
from canary_release.core.detection import detection
from canary_release.core.plan import render_plan
from canary_release.core.problems import RefusedError, ReleaseFileError
from canary_release.core.release import Release
from canary_release.core.suggest import did_you_mean, listed, shown
from canary_release.operators.rollout_task import RolloutOperator, problems_are_final, weights_line

LONGEST = {"version": 128, "profile": 128, "steps": 200, "reason": 2000}
"""The longest text of each key of the conf, in characters."""
KNOWN = (*LONGEST, "dry_run")
_LONGEST_NAME = 250  # of a user, in the ledger
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
        params, run = context["params"], context["dag_run"]
        with problems_are_final():
            # Params are checked against their schemas when a run is triggered; a conf key without a param is not.
            conf = checked_conf({**params, **(getattr(run, "conf", None) or {})})
            path = Path(self.release_file)
            request = StartRequest(
                release=read_release_file(path),
                release_name=path.name,
                version=conf["version"],
                dag_id=run.dag_id,
                run_id=run.run_id,
                by=plain_text(getattr(run, "triggering_user_name", None) or "unknown", _LONGEST_NAME),
                reason=plain_text(conf["reason"] or "", LONGEST["reason"]),
                profile=conf["profile"],
                steps=conf["steps"],
                dry_run=bool(conf["dry_run"]),
            )
            started = start(self.open_desk(), request)
        self._report(request, started)
        return {"rollout": started.rollout.id, "version": started.rollout.version}

    def _report(self, request: StartRequest, started: Started) -> None:
        rollout = started.rollout
        lines = [
            f"start    {rollout.service} {rollout.old_version} -> {rollout.version}   rollout {rollout.id}",
            f"  asked by              {rollout.started_by}" + (f": {rollout.reason}" if rollout.reason else ""),
            f"  release file          {rollout.release_name} (sha256 {rollout.release_sha256[:12]}), frozen",
            f"  stable, canary        {rollout.stable} (has the traffic), {rollout.canary}",
            weights_line("load balancer says", started.before),
        ]
        if rollout.dry_run:
            lines.append("  DRY RUN               nothing will be written to the load balancer")
        elif started.way_back is not None:
            took = started.way_back.seconds * 1000
            lines.append(f"  way back              tried: the same weights written and read back in {took:.0f} ms")
        self.tell(*lines, *self._plan_lines(request, started), event="started", rollout=rollout.id)

    def _plan_lines(self, request: StartRequest, started: Started) -> list[str]:
        """The plan, with what its steps can detect once the service's traffic is known."""
        learned, plan = started.learned, render_plan(request.release, started.plan)
        if learned is None:
            return [plan]
        if learned.traffic is None:
            said = "; ".join(learned.sentences)
            return [plan, f"  detects               unknown: {said}"]
        seen = detection(request.release, started.plan, learned.traffic, learned.noise)
        table = render_plan(request.release, started.plan, detects=seen.column)
        return [*(f"  learned               {line}" for line in learned.sentences), table, *seen.sentences]

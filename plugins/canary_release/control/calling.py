"""Calling a DAG or an HTTP endpoint around a rollout, once: what was called successfully is never called again.

The same call always has the same name (run id or idempotency key), so whoever repeats it finds the first one.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from canary_release.control.desk import Desk, plan_of
from canary_release.control.stepping import take_off
from canary_release.core.problems import CanaryError, RefusedError
from canary_release.core.release import Hook, HttpCall, Moment
from canary_release.core.units import show_duration
from canary_release.core.values import NONE, plain
from canary_release.hooks.connections import find_connection, http_server
from canary_release.ledger.hook_calls import Call, CallState, Place, begin_call, end_call
from canary_release.ledger.records import Rollout, State

log = logging.getLogger(__name__)

_PAUSE = 2.0
_ALWAYS = (Moment.BEFORE, Moment.BEFORE_STEP)


class CallFailedError(CanaryError):
    """What was called failed, could not be reached or did not end in time."""


@dataclass(frozen=True)
class Calling:
    """One call of a rollout, ready to be made. data: conf or body with its placeholders filled in."""

    rollout: Rollout
    place: Place
    hook: Hook
    data: Mapping[str, Any]

    def name(self, attempt: int) -> str:
        """The run id of the attempt (from 1 on): the same, whoever asks and how often."""
        step = f"-{self.place.step + 1}" if self.place.step >= 0 else ""
        again = f"-try{attempt}" if attempt > 1 else ""
        return f"{self.rollout.id}-{self.place.moment}{step}-{self.place.position + 1}{again}"

    def until(self, call: Call, attempt: int) -> float:
        """When the attempt has had its time, in seconds since the epoch; the same for every process that waits."""
        return call.started_at + attempt * self.hook.timeout


def calling(desk: Desk, rollout: Rollout, place: Place) -> Calling | None:
    """The call at ``place`` by the frozen release file, None when it has none there or this is not its moment.

    RefusedError when the rollout is being ended and the call belongs before its traffic.
    """
    moment = Moment(place.moment)
    hooks = desk.release(rollout).hooks.get(moment, ())
    if place.position >= len(hooks):
        return None
    if moment in _ALWAYS and not rollout.dry_run and rollout.state is not State.RUNNING:
        raise RefusedError(f"{rollout.id} is {rollout.state}: nothing is called before its traffic any more.")
    if moment is Moment.AFTER and rollout.state is not State.PROMOTED:
        return None
    if moment is Moment.ON_ROLLBACK and rollout.state is not State.ROLLED_BACK:
        return None
    hook = hooks[place.position]
    data = hook.http.body if hook.http is not None else hook.conf
    return Calling(rollout, place, hook, filled(data, _values(rollout, place)))


def begin(desk: Desk, calling: Calling, *, actor: str) -> Call:
    return begin_call(desk.ledger, calling.rollout, calling.place, calling.hook.what, actor=actor, at=desk.clock.now())


def succeeded(desk: Desk, calling: Calling, detail: str, *, actor: str) -> None:
    _end(desk, calling, CallState.SUCCESS, detail, actor=actor)


def failed(desk: Desk, calling: Calling, detail: str, *, actor: str) -> None:
    """Record it, and take the canary off where the release file says so. Raises CallFailedError then."""
    _end(desk, calling, CallState.FAILED, detail, actor=actor)
    sentence = f"{calling.place.moment}: {calling.hook.what} failed: {detail}"
    if not calling.hook.rolls_back:
        log.error("%s", sentence)
        return
    if not desk.ledger.rollout(calling.rollout.id).state.final:
        take_off(desk, calling.rollout, sentence, actor=actor)
    raise CallFailedError(sentence)


def request(desk: Desk, calling: Calling) -> str:
    """Send the HTTP request, again after a failure as often as the file allows. Says what was answered.

    CallFailedError with the last attempt's trouble.
    """
    call = calling.hook.http
    assert call is not None
    attempt = 1
    while True:
        try:
            return _send(call, calling)
        except CanaryError as error:
            if attempt > calling.hook.retries:
                raise CallFailedError(str(error)) from error
            log.warning("attempt %d: %s", attempt, error)
        desk.clock.sleep(_PAUSE * attempt)
        attempt += 1


def next_attempt(
    calling: Calling, run_state: Callable[[str, str], str | None], *, timed_out: bool = False
) -> tuple[int, str | None]:
    """The attempt that counts now, and the state of its run: None when it was not begun yet.

    CallFailedError when the last one failed. One that is still running after its time is not followed by another: two
    deployments at once are worse than one that is late.
    """
    dag = calling.hook.dag
    for attempt in range(1, calling.hook.retries + 2):
        state = run_state(dag, calling.name(attempt))
        if state != "failed":
            if timed_out and state != "success":
                raise CallFailedError(
                    f"the run {calling.name(attempt)} of {dag} did not end within {show_duration(calling.hook.timeout)}"
                )
            return attempt, state
    raise CallFailedError(f"the run {calling.name(calling.hook.retries + 1)} of {dag} failed")


def filled(data: Any, values: Mapping[str, str]) -> Any:
    """A copy in which each text that is a placeholder as a whole, such as ``{version}``, is its value."""
    if isinstance(data, Mapping):
        return {key: filled(item, values) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [filled(item, values) for item in data]
    if isinstance(data, str) and data.startswith("{") and data.endswith("}"):
        return values.get(data[1:-1], data)
    return data


def _values(rollout: Rollout, place: Place) -> dict[str, str]:
    steps = plan_of(rollout).weight_steps
    at = place.step if place.step >= 0 else rollout.step
    return {
        "service": rollout.service,
        "version": rollout.version,
        "weight": plain(steps[at].weight if at >= 0 else NONE),
        "rollout": rollout.id,
        "canary": rollout.canary,
    }


def _send(call: HttpCall, calling: Calling) -> str:
    server = http_server(find_connection(call.connection), CallFailedError)
    headers = {"Idempotency-Key": calling.name(1)}
    body = json.dumps(calling.data) if calling.data else None
    if body is not None:
        headers["Content-Type"] = "application/json"
    answer = server.send(call.method, call.path, body=body, headers=headers, good=range(200, 300))
    return f"{server.base_url}{call.path} answered {answer.status}"


def _end(desk: Desk, calling: Calling, state: CallState, detail: str, *, actor: str) -> None:
    end_call(desk.ledger, calling.rollout, calling.place, state, detail, actor=actor, at=desk.clock.now())

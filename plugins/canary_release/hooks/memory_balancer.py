"""A load balancer that is only a state: for tests, dry exercises and fault drills. It moves no traffic.

The state lives in this process under the connection's id, or, when the connection's extra has a ``file``, in that JSON
file, so that several processes share it.  A connection that does not exist means the former.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from airflow.sdk import BaseHook
from pydantic import BaseModel, Field

from canary_release.core.problems import ConnectionSettingsError, LoadBalancerError
from canary_release.core.values import FULL, NONE, Weights
from canary_release.hooks.connections import Strict, find_connection, read_extra
from canary_release.hooks.shared_file import exclusive, read_text, replace_text
from canary_release.hooks.weight_units import to_units

ModelT = TypeVar("ModelT", bound=BaseModel)
Shares = dict[str, Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?$")]]


class MemoryExtra(Strict):
    """What the extra of the connection may hold."""

    file: str | None = Field(None, description="JSON file that holds the state; without it, this process does.")


class Faults(Strict):
    """What shall go wrong from now on; each number counts down as it happens."""

    fail_before: int = Field(0, ge=0, description="So many writes fail and change nothing.")
    fail_after: int = Field(0, ge=0, description="So many writes fail although they changed the weights.")
    ignore: int = Field(0, ge=0, description="So many writes are accepted and change nothing.")
    late: int = Field(0, ge=0, description="So many writes are accepted and take effect late.")
    late_reads: int = Field(1, ge=1, description="A late write is in force after so many reads of the old weights.")
    fail_reads: int = Field(0, ge=0, description="So many reads fail.")


class State(Strict):
    """Everything the balancer knows, as it stands in the file. Shares are decimals in text."""

    weights: Shares
    pending: Shares | None = None
    pending_reads: int = 0
    faults: Faults = Field(default_factory=Faults)
    writes: list[Shares] = Field(default_factory=list)


class MemoryBalancer(BaseHook):
    """Keeps weights and gives them back; see ``Faults`` for how it can be made to misbehave.

    A new state has all the traffic on the first of ``backends``.
    """

    class Options(Strict):
        """It has none."""

    finest_step: Decimal = Decimal("0.01")
    _states: ClassVar[dict[str, State]] = {}
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, connection_id: str, backends: tuple[str, str], options: Options) -> None:
        super().__init__()
        self.connection_id = connection_id
        self.backends = backends
        self.options = options

    def get_weights(self) -> Weights:
        with self._state() as (state, keep):
            faults = state.faults
            if faults.fail_reads:
                keep(_changed(state, faults=_changed(faults, fail_reads=faults.fail_reads - 1)))
                raise LoadBalancerError(f"The memory balancer {self.connection_id} was told to fail this read.")
            if state.pending is None:
                return Weights.from_json(state.weights)
            if state.pending_reads > 0:
                keep(_changed(state, pending_reads=state.pending_reads - 1))
                return Weights.from_json(state.weights)
            keep(_changed(state, weights=state.pending, pending=None))
            return Weights.from_json(state.pending)

    def set_weights(self, weights: Weights) -> None:
        to_units(weights, self.backends, self.finest_step)
        asked = weights.to_json()
        with self._state() as (state, keep):
            told, faults = _next_fault(state.faults)
            state = _changed(state, faults=faults, writes=[*state.writes, asked])
            if told in ("fail_before", "ignore"):
                keep(state)
            elif told == "late":
                keep(_changed(state, pending=asked, pending_reads=faults.late_reads))
            else:
                keep(_changed(state, weights=asked, pending=None))
        if told in ("fail_before", "fail_after"):
            raise LoadBalancerError(f"The memory balancer {self.connection_id} was told to fail this write ({told}).")

    def inject(self, **faults: int) -> None:
        """Make it misbehave from now on, in every process that shares the state; see ``Faults`` for the names."""
        with self._state() as (state, keep):
            keep(_changed(state, faults=Faults(**faults)))

    def writes(self) -> list[Weights]:
        """Every write that arrived, refused ones left out, failed and ignored ones included, oldest first."""
        with self._state() as (state, _):
            return [Weights.from_json(written) for written in state.writes]

    def reset(self) -> None:
        """Back to a new state: all the traffic on the first backend, no faults, no writes."""
        with self._state() as (_, keep):
            keep(self._new())

    @classmethod
    def forget_all(cls) -> None:
        """Drop every state of this process, as its end would; states in files stay."""
        with cls._lock:
            cls._states.clear()

    def _new(self) -> State:
        first, second = self.backends
        return State(weights=Weights({first: FULL, second: NONE}).to_json())

    @contextlib.contextmanager
    def _state(self) -> Iterator[tuple[State, Callable[[State], None]]]:
        """The state and the function that keeps a new one, while nobody else can touch it."""
        file = self._file()
        with self._lock, contextlib.ExitStack() as held:
            if file is None:
                state = self._states.get(self.connection_id) or self._new()
                yield self._known(state), lambda new: self._states.__setitem__(self.connection_id, new)
                return
            held.enter_context(exclusive(file))
            state = _parse(read_text(file), file) if file.exists() else self._new()
            yield self._known(state), lambda new: replace_text(file, new.model_dump_json(indent=2))

    def _known(self, state: State) -> State:
        if set(state.weights) != set(self.backends):
            raise LoadBalancerError(
                f"The memory balancer {self.connection_id} holds {', '.join(state.weights)}, not {self.backends}."
            )
        return state

    def _file(self) -> Path | None:
        try:
            connection = find_connection(self.connection_id)
        except ConnectionSettingsError:
            return None
        name = read_extra(connection, MemoryExtra).file
        return Path(name) if name else None


def _next_fault(faults: Faults) -> tuple[str, Faults]:
    for name in ("fail_before", "fail_after", "ignore", "late"):
        left = getattr(faults, name)
        if left:
            return name, _changed(faults, **{name: left - 1})
    return "", faults


def _changed(model: ModelT, **changes: object) -> ModelT:
    return model.model_copy(update=changes)


def _parse(text: str, file: Path) -> State:
    try:
        return State.model_validate(json.loads(text))
    except ValueError:  # pydantic's own error is one, too
        raise LoadBalancerError(f"{file} holds no state of a memory balancer; delete it to start anew.") from None

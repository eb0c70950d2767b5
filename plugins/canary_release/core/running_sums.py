"""Sums over the windows so far that go on where they stopped: a rollout judged in one piece or window by window.

Each ``extend`` takes the rows of new windows and returns one row for each. Additions happen in the same order however
the windows are cut, so that the results are the same to the last bit.
"""

from typing import Generic, TypeVar

import numpy as np

from canary_release.core.record import BoolArray, FloatArray, IntArray

HALF_LIFE = 300.0  # seconds after which an old window of stable counts half
_T = TypeVar("_T", bound=np.generic)


class Rows(Generic[_T]):
    """An array that grows at its end, (W, ...)."""

    def __init__(self) -> None:
        self._array: np.ndarray[tuple[int, ...], np.dtype[_T]] | None = None
        self._length = 0

    def extend(self, rows: np.ndarray[tuple[int, ...], np.dtype[_T]]) -> None:
        end = self._length + len(rows)
        if self._array is None:
            self._array = rows.copy()
        elif end > len(self._array):
            # Four times as long: memory that is not yet written to costs nothing, copies do.
            grown = np.empty((max(end, 4 * len(self._array)), *rows.shape[1:]), dtype=rows.dtype)
            grown[: self._length] = self._array[: self._length]
            self._array = grown
        self._array[self._length : end] = rows
        self._length = end

    def __len__(self) -> int:
        return self._length

    @property
    def array(self) -> np.ndarray[tuple[int, ...], np.dtype[_T]]:
        """All rows; must not be asked before the first."""
        assert self._array is not None
        return self._array[: self._length]


class Total:
    """The sum so far, including the window itself."""

    def __init__(self) -> None:
        self._sum: FloatArray | None = None

    def regroup(self, parents: IntArray) -> None:
        """Go on with other columns, each a copy of an earlier one."""
        self._sum = None if self._sum is None else self._sum[:, parents]

    def extend(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Sums before each window and after it, shape of ``rows``."""
        carried = np.zeros((1, *rows.shape[1:])) if self._sum is None else self._sum
        total: FloatArray = np.add.accumulate(np.concatenate((carried, rows)), axis=0)
        self._sum = total[-1:]
        return total[:-1], total[1:]


class StepTotal:
    """The sum since the window's step began, including the window itself."""

    def __init__(self) -> None:
        self._total = Total()
        self._base: FloatArray | None = None

    def regroup(self, parents: IntArray) -> None:
        """See Total."""
        self._total.regroup(parents)
        self._base = None if self._base is None else self._base[:, parents]

    def extend(self, rows: FloatArray, began: IntArray) -> FloatArray:
        """began: (W,), 0 where the step began before these rows, else one more than the row it began at."""
        before, after = self._total.extend(rows)
        carried = np.zeros((1, *rows.shape[1:])) if self._base is None else self._base
        base: FloatArray = np.concatenate((carried, before))[began]
        self._base = base[-1:]
        return after - base


class Largest:
    """The largest row so far."""

    def __init__(self) -> None:
        self._row: FloatArray | None = None

    def extend(self, rows: FloatArray) -> FloatArray:
        if self._row is not None:
            rows = np.concatenate((self._row, rows))
        largest = np.maximum.accumulate(rows, axis=0)
        largest = largest if self._row is None else largest[1:]
        self._row = largest[-1:]
        return largest


class Decayed:
    """The sum of all earlier windows, halved every five minutes.

    baseline: what had been counted before the first window, taken as if it ended where that begins.
    """

    def __init__(self, baseline: FloatArray | None = None) -> None:
        self._pending = baseline
        self._start: float | None = None

    def before(self, rows: FloatArray, start: FloatArray) -> FloatArray:
        if self._pending is None:
            self._pending = np.zeros(rows.shape[1:])
        out = np.empty_like(rows)
        pending = self._pending
        for at, factor in enumerate((0.5 ** (gaps(start, self._start) / HALF_LIFE)).tolist()):
            np.multiply(pending, factor, out=out[at])
            pending = out[at] + rows[at]
        self._pending, self._start = pending, float(start[-1])
        return out


class Silence:
    """What was due since something last came."""

    def __init__(self) -> None:
        self._due, self._came = Total(), Largest()

    def extend(self, due: FloatArray, came: BoolArray) -> FloatArray:
        _, total = self._due.extend(due)
        return total - self._came.extend(np.where(came, total, 0.0))


class Mixture:
    """ln E for the whole rollout from log e-values a window: M_j <- (M_j + w_t/J) exp(l_j), E_t = sum M_j + sum of the
    weights still to come. Ville: under the null E ever reaches 1/alpha with a chance of at most alpha.
    """

    def __init__(self) -> None:
        self._total, self._weights = Total(), Total()
        self._started: FloatArray | None = None

    def extend(self, evidence: FloatArray, weights: FloatArray) -> FloatArray:
        """(W, C) from log e-values (W, C, J) and restart weights (W,)."""
        before, total = self._total.extend(evidence)
        _, spent = self._weights.extend(weights)
        with np.errstate(divide="ignore"):
            stakes = np.log(weights / evidence.shape[-1])[:, None, None] - before
            to_come = np.log(np.maximum(1.0 - spent, 0.0))
        if self._started is not None:
            stakes = np.concatenate((self._started, stakes))
        started = np.logaddexp.accumulate(stakes, axis=0)
        started = started if self._started is None else started[1:]
        self._started = started[-1:]
        return np.logaddexp(log_sum(total + started), to_come[:, None])


class StepMixture:
    """ln of the mean over alternatives of the evidence since the step began."""

    def __init__(self) -> None:
        self._total = StepTotal()

    def extend(self, evidence: FloatArray, began: IntArray) -> FloatArray:
        """(W, C) from (W, C, J)."""
        return np.asarray(log_sum(self._total.extend(evidence, began)) - np.log(evidence.shape[-1]))


def log_sum(values: FloatArray) -> FloatArray:
    """ln of the sum of exp over the last axis."""
    top = values.max(axis=-1)
    with np.errstate(divide="ignore"):
        return np.asarray(top + np.log(np.exp(values - top[..., None]).sum(axis=-1)))


def gaps(start: FloatArray, last: float | None) -> FloatArray:
    """Seconds from the start of the window before, (W,); ``last`` is of the one before these, 0 where none was before
    or the clock went wrong.
    """
    before = np.concatenate(([start[0] if last is None else last], start[:-1]))
    found = start - before
    return np.where((found > 0) & (found < np.inf), found, 0.0)


def side_by_side(*arrays: np.ndarray[tuple[int, ...], np.dtype[_T]]) -> np.ndarray[tuple[int, ...], np.dtype[_T]]:
    """As numpy's ``stack`` along a new last axis, in half of the time for few rows."""
    return np.concatenate([array[..., None] for array in arrays], axis=-1)

"""Columns that have been the same so far are worked on once: many quantiles of one histogram watch the same edges."""

from collections.abc import Hashable, Sequence

import numpy as np

from canary_release.core.record import IntArray


class Alike:
    """Classes of columns with the same parameters and the same edges so far. They split and never join again.

    members: one column of each class; of: the class of each column.
    """

    def __init__(self, parameters: Sequence[Hashable]) -> None:
        numbers: dict[Hashable, int] = {}
        self.of: IntArray = np.array([numbers.setdefault(key, len(numbers)) for key in parameters], dtype=np.int64)
        self.members = _first_of_each(self.of, len(numbers))

    def split(self, edge: IntArray) -> IntArray:
        """Tell columns apart that watch different edges in any of these windows, (W, C).

        Returns the former class of each class, by which what was summed up before is copied.
        """
        if (edge == edge[:, self.members[self.of]]).all():  # nothing splits, as in most windows
            return np.arange(len(self.members))
        numbers: dict[tuple[int, bytes], int] = {}
        columns = np.ascontiguousarray(edge.T)
        keys = [(former, column.tobytes()) for former, column in zip(self.of.tolist(), columns, strict=True)]
        split = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
        self.members = _first_of_each(split, len(numbers))
        parents, self.of = self.of[self.members], split
        return parents


def _first_of_each(classes: IntArray, number: int) -> IntArray:
    return np.array([int(np.argmax(classes == one)) for one in range(number)], dtype=np.int64)

"""Learning how clumped events are from a service's own series, where instances cannot be told apart.

Windows k apart are taken to have one rate. Their differences in parts of chance (see `clumps_seen.py`) are then
    d_k = phi + what the service's rate changed in between.
What wanders at random changes by no more from each k to the next, so that it is gone from 2 d_1 - d_2; a smooth wave
by ever more, so that it is gone from d_1 - (d_2 - d_1)/3. Which of both it is d_3 tells.
"""

import numpy as np

from canary_release.core.clump_learning import LARGEST_PHI, ratio
from canary_release.core.clumps_seen import differences
from canary_release.core.record import FloatArray

EVENTS_A_STRETCH = 100.0


def clumps_of_series(events: FloatArray, of: FloatArray) -> tuple[float, float]:
    """phi from the counts (T,), and how many events it was read from.

    The median over stretches of the history, so that incidents, which all instances share, are not taken for clumps;
    and its standard error on top, as far as stretches differ.
    """
    (near, number), (later, _), (last, _) = (_in_stretches(events, of, apart) for apart in (1, 2, 3))
    found = near - _of_step(near, later, last) * (later - near)
    middle = float(np.median(found))
    doubt = 1.86 * float(np.median(np.abs(found - middle))) / np.sqrt(len(found))  # of a median of normal values
    return min(max(1.0, min(middle, float(np.median(near))) + doubt), LARGEST_PHI), number


def _of_step(near: FloatArray, later: FloatArray, last: FloatArray) -> float:
    """How much of d_2 - d_1 is taken off d_1: all where d_3 - d_2 is no more; a fifth where it is 5/3 of that, as of a
    slow wave; 0.4 where it is 5/4 of it, as of a wave ten windows long.
    """
    step, next_step = float(np.median(later - near)), float(np.median(last - later))
    return 1.0 / (1.0 + 6.0 * max(next_step / step - 1.0, 0.0)) if step > 0 else 0.0


def _in_stretches(events: FloatArray, of: FloatArray, apart: int) -> tuple[FloatArray, float]:
    """d of windows so many apart in each stretch, and how many events that is from."""
    squares, chance = differences(events, of, apart)
    stretches = int(min(20.0, events.sum() // (2.0 * EVENTS_A_STRETCH)))
    parts = np.array_split(np.arange(len(chance)), stretches if stretches >= 5 else 1)
    return np.array([ratio(squares[part], chance[part]) for part in parts]), float(chance.sum())

"""Evidence from stores that give one number a window and side and no counts: who was worse, window by window.

Null: in each window, given those before, the canary is worse than tolerated with a chance of at most one half. The bet
1 + stake * (+1 when worse, -1 when not) has mean at most 1. It needs no model of the numbers, and gives at most
ln 2 a window. It cannot tell a worse version from a worse machine: the tolerance must cover that.
"""

import numpy as np

from canary_release.core.record import FloatArray
from canary_release.core.release import Direction, Limit, LimitKind

STAKES = np.array([0.25, 0.5, 0.75])


def worse_than_tolerated(
    canary: FloatArray, stable: FloatArray, limit: Limit | None, direction: Direction
) -> FloatArray:
    """+1 where the canary is worse than the tolerance allows, -1 where not, 0 where unknown or exactly at it; (W,)."""
    amount = 0.0 if limit is None else limit.amount
    sign = -1.0 if direction is Direction.HIGHER_IS_BETTER else 1.0
    relative = limit is not None and limit.kind is LimitKind.RELATIVE
    bound = stable * (1.0 + sign * amount) if relative else stable + sign * amount
    return np.nan_to_num(np.sign(sign * (canary - bound)))


def beyond_limit(canary: FloatArray, limit: Limit, direction: Direction) -> FloatArray:
    """+1 where the canary is beyond its absolute limit, -1 where inside, 0 where unknown; (W,)."""
    sign = -1.0 if direction is Direction.HIGHER_IS_BETTER else 1.0
    return np.nan_to_num(np.sign(sign * (canary - limit.amount)))


def sign_log_evidence(signs: FloatArray) -> FloatArray:
    """Log e-values of the bets, shape (..., J), for signs of any shape."""
    return np.asarray(np.log1p(STAKES * signs[..., None]))

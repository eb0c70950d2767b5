"""Whether the load balancer splits the traffic as it was asked to.

Null: given a window's requests, each goes to the canary with a chance between 0.8 and 1.2 times its weight. Both ends
are tested by binomial likelihood ratios, tempered because requests come in sessions; the mixture over both, with
restarts, is an e-process, so identical splits are doubted in at most one rollout of a thousand.
"""

import numpy as np

from canary_release.core.held_against import Scene
from canary_release.core.observations import Arms
from canary_release.core.record import BoolArray, FloatArray
from canary_release.core.running_sums import Mixture, Rows

TOLERANCE = 0.2
ALPHA = 0.001
SESSION = 5.0  # requests by which the evidence of one window is divided: visitors come back, connections are kept
CAP = 5.0
MORE, FEWER = np.array([1.1, 1.5, 3.0]), np.array([0.9, 0.6, 0.2, 0.02])


class TrafficSplit:
    """A window right after a shift is left out: requests that were under way still end on the other side.

    held: windows after which the rollout must not go on, (W,): the evidence has crossed the line and the latest windows
    are still off. share: the canary's share of the latest windows' requests, (W,).
    """

    def __init__(self, *, moved_by_others: bool = False) -> None:
        """moved_by_others: nothing is checked, since weights that others set are accepted."""
        self._ignored = moved_by_others
        self._mixture = Mixture()
        self._recent = (0.0, 0.0)
        self._crossed = False
        self.held: Rows[np.bool_] = Rows()
        self.share: Rows[np.float64] = Rows()

    def extend(self, arms: Arms, scene: Scene) -> BoolArray:
        """arms: errors of requests, one column."""
        time = scene.time
        canary, stable = arms.canary_of[:, 0], arms.stable_of[:, 0]
        weight = np.where(np.isnan(time.weight), 0.0, time.weight)
        new = time.began == np.arange(len(time)) + 1
        used = arms.seen[:, 0] & ~new & (weight > 0) & (weight < 1.0 - 1e-9) & (not self._ignored)
        weight = np.where(used, weight, 0.5)
        single = np.concatenate(
            (
                _against(canary, stable, np.minimum(weight * (1.0 + TOLERANCE), 0.999), MORE),
                _against(canary, stable, weight * (1.0 - TOLERANCE), FEWER),
            ),
            axis=1,
        )
        single = np.where(used[:, None], np.minimum(single / SESSION, CAP), 0.0)
        log_e = self._mixture.extend(single[:, None], scene.weights)[:, 0]
        share = self._shares(canary * used, stable * used, new)
        crossed = np.logical_or.accumulate(log_e >= -np.log(ALPHA)) | self._crossed
        self._crossed = bool(crossed[-1])
        off = np.abs(share - weight) > TOLERANCE * weight
        held = np.asarray(crossed & off & used)
        self.held.extend(held)
        self.share.extend(share)
        return held

    def _shares(self, canary: FloatArray, stable: FloatArray, new: BoolArray) -> FloatArray:
        """Of the latest windows of the step, older ones counting half each."""
        shares, (ours, others) = [], self._recent
        for of_canary, of_stable, anew in zip(canary.tolist(), stable.tolist(), new.tolist(), strict=True):
            kept = 0.0 if anew else 0.5
            ours, others = kept * ours + of_canary, kept * others + of_stable
            shares.append(ours / (ours + others) if ours + others > 0 else np.nan)
        self._recent = ours, others
        return np.array(shares, dtype=float)

    def sentence(self, at: int, weight: float) -> str:
        return (
            f"the load balancer does not split as configured: the canary gets {100 * self.share.array[at]:.3g} % of "
            f"the requests, asked were {100 * weight:g} % (20 % of that more or less is allowed); nothing is raised "
            "until it does."
        )


def _against(canary: FloatArray, stable: FloatArray, bound: FloatArray, factors: FloatArray) -> FloatArray:
    """Log likelihood ratios of shares ``factors`` times the bound against the bound, (W, J)."""
    p = bound[:, None]
    q = np.minimum(p * factors, 0.5 * (1.0 + p))
    return canary[:, None] * np.log(q / p) + stable[:, None] * np.log((1.0 - q) / (1.0 - p))

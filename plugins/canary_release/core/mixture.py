"""From evidence a window to evidence for the whole rollout: restarts, steps, and many checks in one number.

M_j <- (M_j + w_t/J) exp(l_j);  E_t = sum M_j + (weights still to come). E is an e-process for the whole rollout, so the
chance that it ever reaches 1/alpha under the null is at most alpha (Ville), however often one looks. The functions here
take a whole rollout at once; `running_sums` goes on window by window.
"""

from collections.abc import Sequence

import numpy as np

from canary_release.core.observations import RestartWeights
from canary_release.core.record import FloatArray, IntArray
from canary_release.core.release import Check, CheckKind
from canary_release.core.running_sums import Mixture, log_sum

ALPHA = 0.01
NEEDED = 1.0 / ALPHA
PASS_NEEDED = 20.0
PASS_WINDOWS = 2


def restart_weights(first: IntArray, steps: int, planned: int) -> FloatArray:
    """The weights of a whole rollout, (W,); see RestartWeights."""
    return RestartWeights(steps, planned).extend(first) if len(first) else np.zeros(0)


def mixture_log_evidence(evidence: FloatArray, weights: FloatArray) -> FloatArray:
    """ln E for each window and column, shape (W, C), from log e-values (W, C, J) and restart weights (W,)."""
    return Mixture().extend(evidence, weights)


def best_restart(evidence: FloatArray, weights: FloatArray, at: int) -> int:
    """The window from which the evidence at window ``at`` mostly comes; evidence: (W, J) of one check."""
    total = np.cumsum(evidence[: at + 1], axis=0)
    before = np.concatenate((np.zeros_like(total[:1]), total[:-1]))
    with np.errstate(divide="ignore"):
        support = log_sum(total[at] - before) + np.log(weights[: at + 1])
    return int(np.argmax(support))


def shares_of_alpha(checks: Sequence[Check]) -> FloatArray:
    """Each check's part a_i of the evidence that rolls back: (C,), adding up to 1, 0 for those that do not act.

    Half goes to the checks on events, half to those on latency and other values, divided by ``share`` inside; all to
    one group when there is only one. Roll back when sum a_i E_i >= 1/alpha: valid however the checks depend on each
    other.
    """
    acting = np.array([check.critical and not check.observe_only for check in checks], dtype=bool)
    wanted = np.array([check.share for check in checks], dtype=float) * acting
    events = np.array([check.kind is CheckKind.PROPORTION for check in checks], dtype=bool)
    groups = [group for group in (events, ~events) if wanted[group].sum() > 0]
    shares = np.zeros(len(checks))
    for group in groups:
        shares[group] = wanted[group] / wanted[group].sum() / len(groups)
    return shares

"""From evidence a window to evidence for the whole rollout: restarts, steps, and many checks in one number.

M_j <- (M_j + w_t/J) exp(l_j);  E_t = sum M_j + (weights still to come). E is an e-process for the whole rollout, so the
chance that it ever reaches 1/alpha under the null is at most alpha (Ville), however often one looks.
"""

from collections.abc import Sequence

import numpy as np

from canary_release.core.observations import FloatArray, IntArray
from canary_release.core.release import Check, CheckKind

ALPHA = 0.01
NEEDED = 1.0 / ALPHA
PASS_NEEDED = 20.0
PASS_WINDOWS = 2


def restart_weights(first: IntArray, steps: int, planned: int) -> FloatArray:
    """How much of the stake is put on a regression that begins at each window; they add up to less than 1, (W,).

    Half on the first window, a quarter spread over the first windows of ``steps`` steps, a quarter over time: half of
    it evenly over the ``planned`` windows, half of the rest over as many again, and so on with doubled spans, so that
    a rollout that is held for days can still be judged. No weight depends on how many windows there will be.
    """
    windows = len(first)
    weights = np.zeros(windows)
    if not windows:
        return weights
    index = np.arange(windows)
    starts = np.flatnonzero(first == index)[: max(steps, 1)]
    weights[starts] += 0.25 / max(steps, 1)
    span = max(planned, 1)
    block = np.where(index < span, 0.0, np.floor(np.log2(np.maximum(index, 1) / span)) + 1.0)
    length = np.where(block == 0, span, span * 2.0 ** (block - 1.0))
    weights += 0.25 * 2.0 ** -(block + 1.0) / length
    weights[0] += 0.5
    return weights


def mixture_log_evidence(evidence: FloatArray, weights: FloatArray) -> FloatArray:
    """ln E for each window and column, shape (W, C), from log e-values (W, C, J) and restart weights (W,)."""
    alternatives = evidence.shape[-1]
    total = np.cumsum(evidence, axis=0)
    before = np.concatenate((np.zeros_like(total[:1]), total[:-1]))
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / alternatives)
        to_come = np.log(np.maximum(1.0 - np.cumsum(weights), 0.0))
    started = np.logaddexp.accumulate(log_weights[:, None, None] - before, axis=0)
    return np.logaddexp(log_sum(total + started), to_come[:, None])


def step_log_evidence(evidence: FloatArray, first: IntArray) -> FloatArray:
    """ln of the mean over alternatives of the evidence since the step began, shape (W, C), from (W, C, J)."""
    total = np.cumsum(evidence, axis=0)
    before = np.concatenate((np.zeros_like(total[:1]), total))[first]
    return np.asarray(log_sum(total - before) - np.log(evidence.shape[-1]))


def in_step(values: FloatArray, first: IntArray) -> FloatArray:
    """Sums over the windows of the step so far, shape of ``values``."""
    total = np.concatenate((np.zeros_like(values[:1]), np.cumsum(values, axis=0)))
    return np.asarray(total[1:] - total[first])


def best_restart(evidence: FloatArray, weights: FloatArray, at: int) -> int:
    """The window from which the evidence at window ``at`` mostly comes; evidence: (W, J) of one check."""
    total = np.cumsum(evidence[: at + 1], axis=0)
    before = np.concatenate((np.zeros_like(total[:1]), total[:-1]))
    with np.errstate(divide="ignore"):
        support = log_sum((total[at] - before)[:, None, :])[:, 0] + np.log(weights[: at + 1])
    return int(np.argmax(support))


def log_sum(values: FloatArray) -> FloatArray:
    """ln of the sum of exp over the last axis."""
    top = np.max(values, axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.asarray((top + np.log(np.sum(np.exp(values - top), axis=-1, keepdims=True)))[..., 0])


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

"""How stable usually is: what some seconds of overload do to it is not that.

A check on a quantile watches the bucket edge that stable usually exceeds as often as the quantile says. If a burst that
slows everything for a few seconds counted like any other time, the edge would move to where neither version has a
request once the burst is over, and the judge would be blind there for minutes.
"""

import numpy as np

from canary_release.core.record import BoolArray, FloatArray
from canary_release.core.running_sums import HALF_LIFE, gaps

JUMP = np.log(4.0)  # of the odds to be slower than an edge, from which a window is another state of the service
SURE = 8.0  # and the least evidence for it, so that few requests are not taken for a jump
SURE_OF_CLUMPS = 90.0  # of errors: a clump of forty is none yet
WATCHED = 0.001  # edges that are exceeded more rarely, or almost always, tell no states apart
VOTES_HALF_LIFE = 60.0  # seconds: a state that lasts longer than about that is the usual one
FORGOTTEN = 0.01  # of the usual state's votes


class UsualState:
    """Stable's requests slower than each edge, and all of them, in the state that it is mostly in; (B + 1,).

    Two states are kept apart at a time, each with the sum of its windows, halved every five minutes, and its votes, the
    requests of the last minute or so. The one with more votes is the usual one.
    """

    def __init__(self, baseline: FloatArray | None = None, sure: float = SURE) -> None:
        """baseline: what had been counted before the first window, taken as if it ended where that begins."""
        self._sure = sure
        self._usual, self._other = baseline, None if baseline is None else np.zeros_like(baseline)
        self._votes, self._other_votes = 0.0 if baseline is None else float(baseline[-1]), 0.0
        self._start: float | None = None

    def before(self, counts: FloatArray, start: FloatArray) -> tuple[FloatArray, BoolArray]:
        """The sums of earlier windows before each of these, (W, B + 1), and which are of another state, (W,)."""
        if self._usual is None or self._other is None:
            self._usual, self._other = np.zeros(counts.shape[1:]), np.zeros(counts.shape[1:])
        passed = gaps(start, self._start)
        kept, voting = 0.5 ** (passed / HALF_LIFE), 0.5 ** (passed / VOTES_HALF_LIFE)
        self._start = float(start[-1])
        out, others, at = np.empty_like(counts), np.zeros(len(counts), dtype=bool), 0
        while at < len(counts):
            at = self._steadily(counts, kept, voting, out, at) if self._other_votes == 0.0 else at
            if at < len(counts):
                others[at] = self._voted(counts[at], float(kept[at]), float(voting[at]), out[at])
                at += 1
        return out, others

    def _steadily(self, counts: FloatArray, kept: FloatArray, voting: FloatArray, out: FloatArray, at: int) -> int:
        """All windows up to the first that looks like another state; the row of that one."""
        sums = self._usual
        assert sums is not None
        for row in range(at, len(counts)):
            np.multiply(sums, kept[row], out=out[row])
            sums = out[row] + counts[row]
        jumps = np.flatnonzero(jumped(counts[at:], out[at:], self._sure))
        end = at + int(jumps[0]) if len(jumps) else len(counts)
        for votes, factor in zip(counts[at:end, -1].tolist(), voting[at:end].tolist(), strict=True):
            self._votes = self._votes * factor + votes
        if end > at:
            self._usual = out[end - 1] + counts[end - 1]
        return end

    def _voted(self, counts: FloatArray, kept: float, voting: float, out: FloatArray) -> bool:
        assert self._usual is not None
        assert self._other is not None
        np.multiply(self._usual, kept, out=out)
        usual, other = out.copy(), self._other * kept
        votes, other_votes = self._votes * voting, self._other_votes * voting
        came, jump = float(counts[-1]), bool(jumped(counts[None], usual[None], self._sure)[0])
        if not jump:
            usual, votes = usual + counts, votes + came
        elif other_votes > 0 and not jumped(counts[None], other[None], self._sure)[0]:
            other, other_votes = other + counts, other_votes + came
        else:
            other, other_votes = counts.copy(), came
        if other_votes >= votes:
            usual, other, votes, other_votes = other, usual, other_votes, votes
        if other_votes < FORGOTTEN * votes:
            other, other_votes = np.zeros_like(other), 0.0
        self._usual, self._other, self._votes, self._other_votes = usual, other, votes, other_votes
        return jump


def jumped(counts: FloatArray, past: FloatArray, sure: float = SURE) -> BoolArray:
    """Whether windows (W, B + 1) are of another state than what was before (W, B + 1); never without a past."""
    of, before = counts[:, -1:], past[:, -1:]
    share, usual = ((sums[:, :-1] + 0.5) / (all_of + 1.0) for sums, all_of in ((counts, of), (past, before)))
    odds = np.log(share / (1.0 - share)) - np.log(usual / (1.0 - usual))
    far = (np.abs(odds) > JUMP) & (np.maximum(share, usual) > WATCHED) & (np.minimum(share, usual) < 1.0 - WATCHED)
    far &= (before > 0) & (of > 0)
    if not far.any():
        return np.zeros(len(counts), dtype=bool)
    pooled = (counts[:, :-1] + past[:, :-1] + 1.0) / (of + before + 2.0)
    evidence = of * _divergence(share, pooled) + before * _divergence(usual, pooled)
    return np.asarray((far & (evidence > sure)).any(axis=1))


def _divergence(share: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray(share * np.log(share / other) + (1.0 - share) * np.log((1.0 - share) / (1.0 - other)))


def unusual(counts: FloatArray, start: FloatArray, sure: float = SURE) -> tuple[BoolArray, FloatArray]:
    """Which windows (W, B + 1) of a past were of another state than the usual one before or after them, and the usual
    one's sums after the last.
    """
    if not len(counts):
        return np.zeros(0, dtype=bool), np.zeros(counts.shape[1:])
    after = start[-1:] + (np.median(np.diff(start)) if len(start) > 1 else 0.0)
    none = np.zeros((1, *counts.shape[1:]))
    sums, others = UsualState(sure=sure).before(np.concatenate((counts, none)), np.concatenate((start, after)))
    _, of_later = UsualState(sure=sure).before(counts[::-1], -start[::-1])
    return others[:-1] | of_later[::-1], sums[-1]

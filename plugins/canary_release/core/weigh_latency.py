"""Latency checks weighed against histograms: at the bucket edges that say most about each check."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from canary_release.core import latency_evidence as latency
from canary_release.core.alike import Alike
from canary_release.core.clumps_seen import ClumpsSeen
from canary_release.core.held_against import (
    SAFE_ALTERNATIVES,
    Parameters,
    Promotable,
    Scene,
    noise_columns,
    odds_likelihoods,
    safe_likelihoods,
)
from canary_release.core.learned_words import Learned, Teacher, once_each
from canary_release.core.noise import DEFAULT_LATENCY_NOISE, Noise
from canary_release.core.noise_filter import NODES, FilteredMixture, FilteredStep, of_harm
from canary_release.core.noise_report import Baseline
from canary_release.core.observations import Arms, Histograms, histograms
from canary_release.core.record import BoolArray, Edges, FloatArray, IntArray, Record
from canary_release.core.release import Check
from canary_release.core.running_sums import Rows, log_sum
from canary_release.core.usual_state import UsualState
from canary_release.core.weigh import AgainstLimit, NoiseOf, Part, Weighed, assumed_wander, noise_of


class WeighedLatency(Weighed):
    """Quantiles of histograms. A check without a quantile watches several shares; they become columns side by side.

    edge: the bucket edge that each check's counts refer to, (W, C).  slower: canary's and stable's requests slower than
    each edge, (W, 2, B); of: all, (W, 2).
    """

    def __init__(
        self, checks: Sequence[Check], noise: NoiseOf, baseline: Baseline | None, at_edges: Sequence[Noise]
    ) -> None:
        super().__init__(checks)
        watched = [_shares(check) for check in checks]
        self._owner = np.repeat(np.arange(len(checks)), [len(shares) for shares in watched])
        self._starts = np.flatnonzero(np.diff(self._owner, prepend=-1))
        self._shown = self._starts + np.array([len(shares) // 2 for shares in watched])
        self._shares = np.array([share for shares in watched for share in shares])
        ones = np.ones(len(self._owner))
        noises = noise_columns([noise_of(checks[place], noise) for place in self._owner.tolist()])
        self._par = Parameters(ones, 0.0 * ones, ones < 0, *noises)
        owners = [checks[place] for place in self._owner.tolist()]
        self._learns = np.array([noise_of(check, noise) is DEFAULT_LATENCY_NOISE for check in owners], dtype=bool)
        self._alike = Alike([(check.max_change, noise_of(check, noise)) for check in owners])
        self._at_edges = list(at_edges)
        self._baseline = baseline if baseline is not None and baseline.edges else None
        self._harm, self._safe, self._promotable = FilteredMixture(), FilteredStep(), Promotable()
        self._against_limit = AgainstLimit()
        self._scale: _Scale | None = None
        self._assumed = [assumed_wander(noise_of(check, noise), DEFAULT_LATENCY_NOISE) for check in checks]
        self._others: Rows[np.bool_] = Rows()
        self._seen: Rows[np.float64] = Rows()  # the clumps reckoned with, and how much of that was seen, (W, B, 2)
        self._acts = not all(check.observe_only for check in checks)
        self.edge: Rows[np.int64] = Rows()
        self.slower: Rows[np.float64] = Rows()
        self.of: Rows[np.float64] = Rows()

    @property
    def edges(self) -> Edges:
        return () if self._scale is None else tuple(self._scale.edges.tolist())

    def why_never(self, column: int) -> str:
        if self._scale is None:
            return "the metric source gives no latency buckets"
        limit, last = self.checks[column].absolute, self._scale.edges[-1]
        if limit is not None and limit.amount > last:
            return f"no latency bucket reaches up to the limit of {limit.text}; the last edge is {last:g} s"
        return ""

    def learned(self, at: int, since: int) -> list[Learned | None]:
        scale = self._scale
        if scale is None:
            return [None] * len(self.checks)
        others = int(self._others.array[: at + 1].sum())

        def of(column: int, teacher: Teacher) -> Learned:
            edge, wander = teacher
            if edge < 0:
                return Learned(None, wander=wander, others=others)
            phi, seen = self._seen.array[at, edge].tolist()
            events = int(self.slower.array[since:at, 1, edge].sum())
            return Learned(self.checks[column].metric, self.edges[edge], phi, seen, events, wander, others)

        learns = self._learns[self._starts] & (not scale.told)
        edges = np.where(learns, self.edge.array[at], -1).tolist()
        assumed = [None] * len(self.checks) if scale.told else self._assumed
        return once_each(list(zip(edges, assumed, strict=True)), of)

    def extend(self, record: Record, scene: Scene) -> None:
        """Once there are edges, all later records have them."""
        if not record.edges:
            self._extend_without_edges(len(record), scene)
            return
        if self._scale is None:
            self._scale = _Scale(record.edges, self.checks, self._baseline, self._at_edges)
            self._fill()
        self._extend_with(self._scale, record, scene)

    def _fill(self) -> None:
        assert self._scale is not None
        missing = len(self.log_e)
        if missing:
            self.slower.extend(np.zeros((missing, 2, len(self._scale.edges))))
            if self._learns.any():
                self._seen.extend(np.tile((DEFAULT_LATENCY_NOISE.phi, 0.0), (missing, len(self._scale.edges), 1)))

    def _extend_without_edges(self, windows: int, scene: Scene) -> None:
        shape = (windows, len(self._alike.members))
        none, unknown = np.zeros(shape), np.zeros(shape, dtype=bool)
        arms = Arms(none, none, none, none, unknown, unknown)
        likelihood = np.zeros((*shape, 1 + len(latency.ODDS_FACTORS), len(NODES)))
        safe = np.zeros((*shape, 1 + SAFE_ALTERNATIVES, len(NODES)))
        change = self._change(likelihood, self._par[self._alike.members], safe, arms, scene)
        arms = arms[self._alike.of]
        limit, burning = None, None
        if len(self.limited):
            columns = self._starts[self.limited]
            some, half = arms[columns], np.full((windows, len(columns)), 0.5)
            limit, burning = self._against_limit.extend(some, some, half, self._par[columns], half[0], scene)
        self.slowed.extend(np.zeros(windows, dtype=bool))
        self._others.extend(np.zeros(windows, dtype=bool))
        self.edge.extend(np.zeros((windows, len(self.checks)), dtype=np.int64))
        self.of.extend(np.zeros((windows, 2)))
        self._keep(arms[self._starts], scene.time, change, limit, burning)

    def _extend_with(self, scale: "_Scale", record: Record, scene: Scene) -> None:
        seen = histograms(record, scene.time.broken)
        exceedance, ready, others, slower = scale.before(seen, scene)
        if self._learns.any():
            self._seen.extend(scale.watch_clumps(seen, scene.time.start))
        tolerated = scale.stretched.tolerated(exceedance)[:, self._owner]
        edge = latency.nearest_edge(tolerated, self._shares)
        parents, watched = self._alike.split(edge), edge[:, self._shown]
        for sums in (self._harm, self._safe, self._promotable):
            sums.regroup(parents)
        rows, members = np.arange(len(edge))[:, None], self._alike.members
        edge = edge[:, members]
        rate, allowed = exceedance[rows, edge], tolerated[rows, members, edge]
        par = scale.as_clumped(edge, scale.noise_at(edge, self._par[members]), self._learns[members])
        odds_ratio = np.maximum((allowed / (1.0 - allowed)) / (rate / (1.0 - rate)), 1.0)
        arms = seen.at(edge)
        likelihood = odds_likelihoods(arms, odds_ratio, ready, par, scene)
        counted = _masked(arms, ready)
        theta = np.maximum(allowed / rate, 1.0)
        safe = safe_likelihoods(counted, rate, replace(par, theta=theta, delta=np.zeros(theta.shape)), scene)
        change = self._change(likelihood, par, safe, counted, scene)
        shown = arms[self._alike.of[self._shown]]
        limit, burning = None, None
        if len(self.limited):
            limit, burning = self._limits(scale, seen, exceedance, scene)
            shown = replace(shown, canary_known=shown.canary_known & ~scale.beyond_edges[None, :])
        self._others.extend(others)
        self.slowed.extend(others & slower & self._acts)
        self.edge.extend(watched)
        self.slower.extend(np.concatenate((seen.canary_slower[:, None], seen.stable_slower[:, None]), axis=1))
        self.of.extend(np.concatenate((seen.canary_of, seen.stable_of), axis=1))
        self._keep(shown, scene.time, change, limit, burning)

    def _change(self, likelihood: FloatArray, par: Parameters, safe: FloatArray, counted: Arms, scene: Scene) -> Part:
        """A check's evidence is the mean over its columns, and it passes when every one does; (W, classes of them)."""
        stays = par.persistence(scene.time)
        log_e = self._harm.extend(likelihood, stays, scene.weights)
        single = of_harm(likelihood)
        log_pass = self._safe.extend(safe, stays, scene.time.began)
        log_pass = self._promotable.extend(log_pass, counted.comparable, scene.time.began)
        log_e, log_pass, single = (of_classes[:, self._alike.of] for of_classes in (log_e, log_pass, single))
        if len(self._starts) < len(self._owner):
            ends = [*self._starts[1:].tolist(), len(self._owner)]
            groups = list(zip(self._starts.tolist(), ends, strict=True))
            log_e = np.stack([log_sum(log_e[:, a:b]) - np.log(b - a) for a, b in groups], axis=1)
            log_pass = np.minimum.reduceat(log_pass, self._starts, axis=1)
            single = single[:, self._shown]
        return Part(single, log_e, log_pass)

    def _limits(
        self, scale: "_Scale", seen: Histograms, exceedance: FloatArray, scene: Scene
    ) -> tuple[Part, BoolArray]:
        """Read at the next edge above the limit for a fail, and at the next one below it for a pass: no guesses."""
        windows = len(exceedance)
        above = np.broadcast_to(np.minimum(scale.above, len(scale.edges) - 1), (windows, len(scale.above)))
        below = np.broadcast_to(np.maximum(scale.below, 0), above.shape)
        over, under = _masked(seen.at(above), scale.above < len(scale.edges)), seen.at(below)
        share = np.array([1.0 - (self.checks[place].quantile or 0.5) for place in self.limited.tolist()])
        rate = exceedance[np.arange(windows)[:, None], above]
        par = scale.noise_at(above, self._par[self._starts[self.limited]])
        first = replace(par, phi=par.phi[0], drift=par.drift[0], wander=par.wander[0]) if par.phi.ndim > 1 else par
        part, burning = self._against_limit.extend(over, under, rate, first, share, scene)
        return replace(part, log_pass=np.where(scale.below >= 0, part.log_pass, -np.inf)), burning


def _shares(check: Check) -> tuple[float, ...]:
    return latency.DEFAULT_SHARES if check.quantile is None else (1.0 - check.quantile,)


def _masked(arms: Arms, columns: BoolArray) -> Arms:
    return Arms(*(getattr(arms, name) * columns for name in arms.__dataclass_fields__))


class _Scale:
    """What depends on the histogram's edges alone: interpolation, the noise at each edge, the edges next to limits."""

    def __init__(
        self, edges: Edges, checks: Sequence[Check], baseline: Baseline | None, at_edges: Sequence[Noise]
    ) -> None:
        self.edges = np.array(edges)
        self.stretched = latency.Stretched(self.edges, [check.max_change for check in checks])
        limits = np.array([check.absolute.amount for check in checks if check.absolute is not None])
        self.above: IntArray = np.searchsorted(self.edges, limits)
        self.below: IntArray = np.searchsorted(self.edges, limits, side="right") - 1
        self.beyond_edges = np.array(
            [check.absolute is not None and check.absolute.amount > self.edges[-1] for check in checks]
        )
        known = baseline if baseline is not None and baseline.edges == edges else None
        start: Any = None if known is None else np.array([*known.slower, known.requests])
        self._past = UsualState(start)
        same = known is not None and len(at_edges) == len(edges)
        self._noise = noise_columns(list(at_edges)) if same else None
        self._clumps = ClumpsSeen(np.full(len(edges), DEFAULT_LATENCY_NOISE.phi))
        self._phi = np.empty((0, len(edges)))

    @property
    def told(self) -> bool:
        """Whether the noise at each edge was learned before the rollout."""
        return self._noise is not None

    def before(self, seen: Histograms, scene: Scene) -> tuple[FloatArray, BoolArray, BoolArray, BoolArray]:
        """Stable's exceedance before each window (W, B), whether anything was known of it (W, 1), whether it is of
        another state than the usual one in the window (W,), and whether it is slower (W,).
        """
        counts = np.concatenate((seen.stable_slower, seen.stable_of), axis=1)
        past, others = self._past.before(counts, scene.time.start)
        exceedance = latency.exceedance(past[:, :-1], past[:, -1:])
        slower = latency.exceedance(counts[:, :-1], counts[:, -1:]).sum(axis=1) > exceedance.sum(axis=1)
        return exceedance, past[:, -1:] > 0, others, slower

    def watch_clumps(self, seen: Histograms, start: FloatArray) -> FloatArray:
        """Learn how clumped stable's slow requests are at each edge: before each of these windows, and how much of that
        was seen, (W, B, 2).

        Never more than the default: slow requests come in no clumps, but with much traffic what all of them go through
        changes visibly from one window to the next.
        """
        of = seen.stable_of.repeat(len(self.edges), axis=1)
        found = self._clumps.extend(seen.stable_slower, of, start)
        self._phi = np.minimum(found, DEFAULT_LATENCY_NOISE.phi)
        return np.stack((self._phi, self._clumps.known), axis=-1)

    def as_clumped(self, edge: IntArray, par: Parameters, learns: BoolArray) -> Parameters:
        """With what stable has shown so far at these edges (W, C), in the columns that learn it."""
        if self.told or not learns.any():
            return par
        return replace(par, phi=np.where(learns, self._phi[np.arange(len(edge))[:, None], edge], par.phi))

    def noise_at(self, edge: IntArray, par: Parameters) -> Parameters:
        """The noise at these edges (W, C), where it was learned for each."""
        if self._noise is None:
            return par
        phi, drift, wander, _ = self._noise
        return replace(par, phi=phi[edge], drift=drift[edge], wander=wander[edge])

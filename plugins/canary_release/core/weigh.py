"""Checks weighed against windows, a kind at a time: what each kind adds for new windows, and keeps."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from canary_release.core.clumps_seen import ClumpsSeen
from canary_release.core.guard_rails import NoData, columns_of
from canary_release.core.held_against import (
    Parameters,
    Promotable,
    Recorded,
    Scene,
    beyond_limit,
    harm_likelihoods,
    harm_of_change,
    noise_columns,
    safe_likelihoods,
    within_limit,
)
from canary_release.core.learned_words import Learned, Teacher, once_each
from canary_release.core.noise import DEFAULT_LATENCY_NOISE, DEFAULT_NOISE, Noise
from canary_release.core.noise_filter import FilteredMixture, FilteredStep, of_harm
from canary_release.core.noise_report import Baseline, NoiseReport
from canary_release.core.observations import Arms, Timeline, proportion_arms
from canary_release.core.record import BoolArray, FloatArray, Record
from canary_release.core.release import Check, CheckKind, Direction, LimitKind
from canary_release.core.running_sums import Decayed, Mixture, Rows, StepMixture, side_by_side

PRIOR_RATE = 0.005  # of events, before stable has been seen; it steers power, never validity
BURNING = np.log(20.0)  # evidence that a side is beyond its limit at which it is said
ALLOWED = {
    CheckKind.PROPORTION: (
        {LimitKind.RELATIVE, LimitKind.POINTS},
        {LimitKind.RELATIVE, LimitKind.POINTS},
        "10% or 0.5pp",
        "1%",
    ),
    CheckKind.LATENCY: ({LimitKind.RELATIVE, LimitKind.SECONDS}, {LimitKind.SECONDS}, "10% or 50ms", "800ms"),
    CheckKind.VALUE: ({LimitKind.RELATIVE, LimitKind.PLAIN}, {LimitKind.PLAIN}, "10% or a number", "a number"),
}

NoiseOf = NoiseReport | Noise | Mapping[str, Noise] | None


def label(check: Check) -> str:
    """How a check is called in sentences and results: ``error_rate``, ``page_load_time p95``."""
    return check.metric if check.quantile is None else f"{check.metric} p{100 * check.quantile:g}"


def noise_of(check: Check, noise: NoiseOf) -> Noise:
    """The noise of one check; by its label, its metric, or one for all; the default where nothing was learned."""
    if isinstance(noise, NoiseReport):
        noise = noise.checks
    default = DEFAULT_LATENCY_NOISE if check.kind is CheckKind.LATENCY else DEFAULT_NOISE
    if noise is None or isinstance(noise, Noise):
        return noise or default
    return noise.get(label(check), noise.get(check.metric, default))


def misfits(check: Check) -> Iterator[str]:
    """Limits that the check cannot have, a sentence each."""
    change, absolute, change_text, absolute_text = ALLOWED[check.kind]
    if check.max_change is not None and check.max_change.kind not in change:
        yield f"check {label(check)}: {check.max_change.text!r} is no change of a {check.kind}: write {change_text}."
    if check.absolute is not None and check.absolute.kind not in absolute:
        yield f"check {label(check)}: {check.absolute.text!r} is no limit of a {check.kind}: write {absolute_text}."


@dataclass(frozen=True)
class Part:
    """One kind of limit for some columns: log e-values (W, C, J), ln E (W, C), ln of the evidence that it is kept."""

    single: FloatArray
    log_e: FloatArray
    log_pass: FloatArray


class Weighed(ABC):
    """All checks of one kind over the windows so far.

    log_e, log_pass: ln of the evidence for harm and for safety (W, C).  no_data, burning: (W, C); burning where both
    sides are beyond an absolute limit.  counts: canary's events and base, stable's events and base (W, C, 4); known:
    canary's, stable's (W, C, 2).  single: of the two kinds of limit, from which the beginning of harm is read.
    slowed: where stable itself is suddenly much slower than usual, (W,); empty for kinds that do not know.
    """

    def __init__(self, checks: Sequence[Check]) -> None:
        self.checks = checks
        self.log_e, self.log_pass = Rows[np.float64](), Rows[np.float64]()
        self.no_data, self.burning, self.slowed = Rows[np.bool_](), Rows[np.bool_](), Rows[np.bool_]()
        self.counts, self.known = Rows[np.float64](), Rows[np.bool_]()
        self.single: tuple[Rows[np.float32], Rows[np.float32]] = Rows(), Rows()
        self.limited = np.flatnonzero([check.absolute is not None for check in checks])
        self.compared = np.array([check.max_change is not None or check.absolute is None for check in checks])
        self._no_data = NoData()

    @abstractmethod
    def extend(self, record: Record, scene: Scene) -> None:
        """Weigh new windows."""

    def why_never(self, column: int) -> str:
        """Why the check cannot be judged in any window so far, else empty."""
        return ""

    def learned(self, at: int, since: int) -> list[Learned | None]:
        """What is known of stable's noise in window ``at``, with what was seen from ``since`` on: of each check; None
        for those that do not ask. Checks that have learned the same share one.
        """
        return [None] * len(self.checks)

    def leading(self, column: int, at: int) -> FloatArray:
        """Log e-values (W, J), up to window ``at``, of the limit with more evidence."""
        options = [self.single[0].array[: at + 1, column]] if self.compared[column] else []
        if column in self.limited and len(self.single[1]):
            options.append(self.single[1].array[: at + 1, int(np.searchsorted(self.limited, column))])
        return max((single.astype(float) for single in options), key=lambda single: float(single.sum(axis=0).max()))

    def _keep(self, shown: Arms, time: Timeline, change: Part, limit: Part | None, burning: BoolArray | None) -> None:
        """Several limits of one check: the evidence is their mean, and it passes when every one passes."""
        log_e, log_pass = change.log_e, change.log_pass
        burns = np.zeros(log_e.shape, dtype=bool)
        if limit is not None and burning is not None:
            both = self.compared[self.limited]
            of_change, of_limit = log_e[:, self.limited], limit.log_e
            log_e, log_pass = log_e.copy(), log_pass.copy()
            log_e[:, self.limited] = np.where(both, np.logaddexp(of_change, of_limit) - np.log(2.0), of_limit)
            kept = np.where(both, np.minimum(log_pass[:, self.limited], limit.log_pass), limit.log_pass)
            log_pass[:, self.limited] = kept
            burns[:, self.limited] = burning
            self.single[1].extend(limit.single.astype(np.float32))
        self.single[0].extend(change.single.astype(np.float32))
        self.log_e.extend(log_e)
        self.log_pass.extend(log_pass)
        self.burning.extend(burns)
        self.no_data.extend(self._no_data.extend(shown, time))
        self.counts.extend(columns_of(shown))
        self.known.extend(side_by_side(shown.canary_known, shown.stable_known))


class AgainstLimit:
    """Evidence that the canary is beyond its limit *and* worse than stable, and that it keeps it.

    The smaller of two e-processes, so that a limit which both versions break is not blamed on the canary. Once all
    traffic is on the canary there is no stable to compare with, and the limit counts alone.
    """

    def __init__(self) -> None:
        self._beyond, self._worse = Mixture(), Mixture()
        self._within, self._stable, self._canary = StepMixture(), StepMixture(), StepMixture()
        self._promotable = Promotable()

    def extend(
        self, over: Arms, under: Arms, rate: FloatArray, par: Parameters, limit: FloatArray, scene: Scene
    ) -> tuple[Part, BoolArray]:
        """over, under: counts by which the limit is read for a fail and for a pass; limit: (C,).

        The second result is where both sides are beyond the limit, (W, C).
        """
        time = scene.time
        beyond = beyond_limit(over, par, limit)
        worse = harm_of_change(over, rate, par.plain, scene)
        padding = np.full((*beyond.shape[:-1], worse.shape[-1] - beyond.shape[-1]), -np.inf)
        alone = time.alone[:, None, None]
        worse = np.where(alone, np.concatenate((beyond, np.maximum(padding, -50.0)), axis=-1), worse)
        log_e = np.minimum(self._beyond.extend(beyond, scene.weights), self._worse.extend(worse, scene.weights))
        log_pass = self._within.extend(within_limit(under, par, limit), time.began)
        log_pass = self._promotable.extend(log_pass, under.canary_known & (under.canary_of > 0), time.began)
        burning = self._canary.extend(beyond, time.began) >= BURNING
        burning &= self._stable.extend(beyond_limit(over.swapped, par, limit), time.began) >= BURNING
        return Part(beyond, log_e, log_pass), burning


class WeighedProportions(Weighed):
    """Events out of requests, or out of a base of their own."""

    def __init__(self, checks: Sequence[Check], noise: NoiseOf, baseline: Baseline | None) -> None:
        super().__init__(checks)
        bounds = [tolerated(check) for check in checks]
        self._metrics = [check.metric for check in checks]
        self._par = Parameters(
            np.array([theta for theta, _ in bounds]),
            np.array([delta for _, delta in bounds]),
            np.array([check.direction is Direction.HIGHER_IS_BETTER for check in checks], dtype=bool),
            *noise_columns([noise_of(check, noise) for check in checks]),
        )
        amounts = [check.absolute.amount for check in checks if check.absolute is not None]
        self._limit = np.clip(np.array(amounts), 1e-9, 1.0 - 1e-9)
        self._prior = np.where(self._par.delta > 0, np.minimum(self._par.delta, 0.5), PRIOR_RATE)
        known = baseline.events if baseline is not None else {}
        self._past = Decayed(np.array([known.get(name, (0.0, 0.0)) for name in self._metrics], dtype=float))
        self._harm, self._safe, self._promotable = FilteredMixture(), FilteredStep(), Promotable()
        self._against_limit, self._recorded = AgainstLimit(), Recorded()
        noises = [noise_of(check, noise) for check in checks]
        self._learns = np.array([one is DEFAULT_NOISE for one in noises], dtype=bool)
        self._assumed = [assumed_wander(one, DEFAULT_NOISE) for one in noises]
        names = sorted({check.metric for check, learns in zip(checks, self._learns, strict=True) if learns})
        self._series = np.array([names.index(name) if name in names else 0 for name in self._metrics], dtype=np.int64)
        self._first = np.array([self._metrics.index(name) for name in names], dtype=np.int64)
        self._clumps = ClumpsSeen(np.full(len(names), DEFAULT_NOISE.phi))
        self._seen: Rows[np.float64] = Rows()  # the clumps reckoned with, and how much of that was seen, (W, S, 2)

    def extend(self, record: Record, scene: Scene) -> None:
        time = scene.time
        arms = proportion_arms(record, self._metrics, time.broken)
        par = self._as_clumped(arms, time.start)
        past = self._past.before(side_by_side(arms.stable_events, arms.stable_of), time.start)
        rate = ((past[..., 0] + 0.5) / (past[..., 1] + 0.5 / self._prior)).clip(1e-9, 1.0 - 1e-9)
        likelihood = harm_likelihoods(arms, rate, par, scene, self._learns)
        recorded = self._recorded.extend(of_harm(likelihood), arms, past, self._par, time)
        if time.alone.any():
            likelihood[time.alone, :, :1] = 0.0
            likelihood[time.alone, :, 1:] = recorded[time.alone][..., None]
        stays = self._par.persistence(time)
        log_pass = self._safe.extend(safe_likelihoods(arms, rate, par, scene), stays, time.began)
        log_pass = self._promotable.extend(log_pass, arms.comparable, time.began)
        log_e = self._harm.extend(likelihood, stays, scene.weights)
        change = Part(of_harm(likelihood), log_e, log_pass)
        limit, burning = None, None
        if len(self.limited):
            some = arms[self.limited]
            limit, burning = self._against_limit.extend(
                some, some, rate[:, self.limited], self._par[self.limited], self._limit, scene
            )
        self._keep(arms, time, change, limit, burning)

    def _as_clumped(self, arms: Arms, start: FloatArray) -> Parameters:
        """With what stable has shown so far, one series for all checks of a metric."""
        if not self._learns.any():
            return self._par
        found = self._clumps.extend(arms.stable_events[:, self._first], arms.stable_of[:, self._first], start)
        self._seen.extend(np.stack((found, self._clumps.known), axis=-1))
        return replace(self._par, phi=np.where(self._learns, found[:, self._series], self._par.phi))

    def learned(self, at: int, since: int) -> list[Learned | None]:
        def of(column: int, teacher: Teacher) -> Learned:
            series, wander = teacher
            if series < 0:
                return Learned(None, wander=wander)
            phi, seen = self._seen.array[at, series].tolist()
            events = int(self.counts.array[since:at, column, 2].sum())
            return Learned(self._metrics[column], None, phi, seen, events, wander)

        series = np.where(self._learns, self._series, -1).tolist()
        return once_each(list(zip(series, self._assumed, strict=True)), of)


def assumed_wander(noise: Noise, default: Noise) -> float | None:
    """By how much instances are taken to differ, where that is only assumed."""
    return noise.wander if (noise.tau2, noise.deviation) == (default.tau2, default.deviation) else None


def tolerated(check: Check) -> tuple[float, float]:
    """(theta, delta): canary <= theta * stable + delta; with the sides exchanged where higher is better."""
    limit = check.max_change
    if limit is None:
        return 1.0, 0.0
    if limit.kind is LimitKind.POINTS:
        return 1.0, limit.amount
    if check.direction is Direction.HIGHER_IS_BETTER:
        return 1.0 / (1.0 - min(limit.amount, 0.999)), 0.0
    return 1.0 + limit.amount, 0.0

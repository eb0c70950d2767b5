"""Every check weighed against every window: the arrays from which verdicts are read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from canary_release.core import latency_evidence as latency
from canary_release.core.error_evidence import HARM_FACTORS, tempered
from canary_release.core.held_against import (
    SAFE_ALTERNATIVES,
    Parameters,
    Scene,
    Weighed,
    harm_of_change,
    harm_of_limit,
    promotable,
    rate_before,
    safe_change,
    safe_limit,
    together,
    variance,
)
from canary_release.core.mixture import mixture_log_evidence, step_log_evidence
from canary_release.core.noise import DEFAULT_NOISE, Noise
from canary_release.core.observations import (
    Arms,
    BoolArray,
    FloatArray,
    Histograms,
    histograms,
    proportion_arms,
    value_arrays,
)
from canary_release.core.problems import ReleaseFileError
from canary_release.core.release import Check, CheckKind, Direction, Limit, LimitKind
from canary_release.core.value_evidence import beyond_limit, sign_log_evidence, worse_than_tolerated
from canary_release.core.values import Window

PRIOR_RATE = 0.005  # of events, before stable has been seen; it steers power, never validity
BLOCK = 1 << 17  # array elements worked on at a time, so that they stay in the processor's cache
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

NoiseOf = Noise | Mapping[str, Noise] | None


def label(check: Check) -> str:
    """How a check is called in sentences and results: ``error_rate``, ``page_load_time p95``."""
    return check.metric if check.quantile is None else f"{check.metric} p{100 * check.quantile:g}"


def noise_of(check: Check, noise: NoiseOf) -> Noise:
    """The noise of one check; by its label, its metric, or one for all; the default where nothing was learned."""
    if noise is None or isinstance(noise, Noise):
        return noise or DEFAULT_NOISE
    return noise.get(label(check), noise.get(check.metric, DEFAULT_NOISE))


def weigh(checks: Sequence[Check], windows: Sequence[Window], scene: Scene, noise: NoiseOf) -> list[Weighed]:
    """One entry for each check, in their order. Raises ReleaseFileError for a limit that its check cannot have."""
    problems = [problem for check in checks for problem in _problems(check)]
    if problems:
        raise ReleaseFileError(problems)
    found: dict[int, Weighed] = {}
    places = {kind: [place for place, check in enumerate(checks) if check.kind is kind] for kind in CheckKind}
    for kind, weigh_kind in _KINDS.items():
        if places[kind]:
            chosen = [checks[place] for place in places[kind]]
            results = weigh_kind(chosen, windows, scene, [noise_of(check, noise) for check in chosen])
            found.update(zip(places[kind], results, strict=True))
    return [found[place] for place in range(len(checks))]


def _problems(check: Check) -> Iterator[str]:
    change, absolute, change_text, absolute_text = ALLOWED[check.kind]
    if check.max_change is not None and check.max_change.kind not in change:
        yield f"check {label(check)}: {check.max_change.text!r} is no change of a {check.kind}: write {change_text}."
    if check.absolute is not None and check.absolute.kind not in absolute:
        yield f"check {label(check)}: {check.absolute.text!r} is no limit of a {check.kind}: write {absolute_text}."


# --- proportions ------------------------------------------------------------------------------------------------------


def _weigh_proportions(
    checks: Sequence[Check], windows: Sequence[Window], scene: Scene, noises: Sequence[Noise]
) -> list[Weighed]:
    arms = proportion_arms(windows, [check.metric for check in checks], scene.time.broken)
    tolerated = [_tolerated(check) for check in checks]
    parameters = Parameters(
        theta=np.array([theta for theta, _ in tolerated]),
        delta=np.array([delta for _, delta in tolerated]),
        higher=np.array([check.direction is Direction.HIGHER_IS_BETTER for check in checks], dtype=bool),
        phi=np.array([noise.phi for noise in noises]),
        tau2=np.array([noise.tau2 for noise in noises]),
    )
    prior = np.where(parameters.delta > 0, np.minimum(parameters.delta, 0.5), PRIOR_RATE)
    rate = rate_before(arms, scene, prior)
    weighed = []
    alternatives = max(len(HARM_FACTORS), len(SAFE_ALTERNATIVES))
    for block in _blocks(len(windows), len(checks), alternatives):
        weighed += _weigh_proportion_block(checks[block], arms[block], rate[:, block], parameters[block], scene)
    return weighed


def _blocks(windows: int, columns: int, alternatives: int) -> Iterator[slice]:
    width = max(1, BLOCK // max(1, windows * alternatives))
    return (slice(left, min(left + width, columns)) for left in range(0, columns, width))


def _weigh_proportion_block(
    checks: Sequence[Check], arms: Arms, rate: FloatArray, par: Parameters, scene: Scene
) -> list[Weighed]:
    single, log_e = harm_of_change(arms, rate, par, scene)
    log_pass = safe_change(arms, rate, par, scene)
    weighed = []
    for column, check in enumerate(checks):
        one = slice(column, column + 1)
        parts = [(single[:, column], log_e[:, column], log_pass[:, column])]
        if check.absolute is not None:
            limit = np.array([np.clip(check.absolute.amount, 1e-9, 1.0 - 1e-9)])
            of_limit, log_limit = harm_of_limit(arms[one], rate[:, one], par[one], limit, scene)
            below = safe_limit(arms[one], par[one], limit, scene)
            parts = parts if check.max_change is not None else []
            parts.append((of_limit, log_limit, below))
        leading, total, safe = together(parts)
        weighed.append(Weighed(total, safe, leading, arms[one]))
    return weighed


def _tolerated(check: Check) -> tuple[float, float]:
    """(theta, delta): canary <= theta * stable + delta; with the sides exchanged where higher is better."""
    limit = check.max_change
    if limit is None:
        return 1.0, 0.0
    if limit.kind is LimitKind.POINTS:
        return 1.0, limit.amount
    if check.direction is Direction.HIGHER_IS_BETTER:
        return 1.0 / (1.0 - min(limit.amount, 0.999)), 0.0
    return 1.0 + limit.amount, 0.0


# --- latency ----------------------------------------------------------------------------------------------------------


def _weigh_latency(
    checks: Sequence[Check], windows: Sequence[Window], scene: Scene, noises: Sequence[Noise]
) -> list[Weighed]:
    seen = histograms(windows, scene.time.broken)
    if not len(seen.edges):
        return [_nothing(len(windows)) for _ in checks]
    exceedance, of = latency.exceedance_before(seen, scene.time.start)
    ready = of[:, 0] > 0
    return [
        _weigh_quantile(check, seen, exceedance, ready, scene, noise)
        for check, noise in zip(checks, noises, strict=True)
    ]


def _nothing(windows: int) -> Weighed:
    none = np.zeros((windows, 1))
    unknown = np.zeros((windows, 1), dtype=bool)
    arms = Arms(none, none, none, none, unknown, unknown)
    never = "the metric source gives no latency buckets"
    return Weighed(none[:, 0], np.full(windows, -np.inf), none, arms, never=never)


def _weigh_quantile(
    check: Check, seen: Histograms, exceedance: FloatArray, ready: BoolArray, scene: Scene, noise: Noise
) -> Weighed:
    tolerated = latency.tolerated_exceedance(seen.edges, exceedance, check.max_change)
    wanted = latency.DEFAULT_SHARES if check.quantile is None else (1.0 - check.quantile,)
    edge = np.stack([latency.nearest_edge(tolerated, share) for share in wanted], axis=1)
    arms = seen.at(edge)
    rate = np.take_along_axis(exceedance, edge, axis=1)
    allowed = np.take_along_axis(tolerated, edge, axis=1)
    columns = np.ones(len(wanted))
    par = Parameters(
        columns, 0.0 * columns, np.zeros(len(wanted), dtype=bool), noise.phi * columns, noise.tau2 * columns
    )
    parts = []
    if check.max_change is not None or check.absolute is None:
        parts.append(_slower_than_tolerated(arms, rate, allowed, ready, par, scene))
    if check.absolute is not None:
        parts.append(_slower_than_limit(check, seen, exceedance, par[0:1], scene))
    middle = len(wanted) // 2
    shown = arms[middle : middle + 1]
    never = ""
    if check.absolute is not None and check.absolute.amount > seen.edges[-1]:
        never = (
            f"no latency bucket reaches up to the limit of {check.absolute.text}; the last edge is {seen.edges[-1]:g} s"
        )
        shown = replace(shown, canary_known=np.zeros_like(shown.canary_known))
    single, harm, safe = together(parts)
    return Weighed(harm, safe, single, shown, seen, edge[:, middle], never=never)


def _slower_than_tolerated(
    arms: Arms, rate: FloatArray, allowed: FloatArray, ready: BoolArray, par: Parameters, scene: Scene
) -> tuple[FloatArray, FloatArray, FloatArray]:
    odds_ratio = (allowed / (1.0 - allowed)) / (rate / (1.0 - rate))
    known_rate = np.where(ready[:, None], rate, np.nan)
    single = latency.odds_log_evidence(arms, known_rate, np.maximum(odds_ratio, 1.0), latency.ODDS_FACTORS)
    single = tempered(single / par.phi[:, None], arms, rate, variance(par, scene))
    single = single.reshape(len(rate), 1, -1)
    later = ready[:, None]
    counted = Arms(*(np.where(later, getattr(arms, name), 0) for name in arms.__dataclass_fields__))
    wide = Parameters(np.maximum(allowed / rate, 1.0), par.delta, par.higher, par.phi, par.tau2)
    log_pass = safe_change(counted, rate, wide, scene).min(axis=1)
    return single[:, 0], mixture_log_evidence(single, scene.weights)[:, 0], log_pass


def _slower_than_limit(
    check: Check, seen: Histograms, exceedance: FloatArray, par: Parameters, scene: Scene
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Read at the next edge above the limit for a fail, and at the next one below it for a pass: nothing is guessed."""
    assert check.absolute is not None
    windows, share = len(exceedance), np.array([1.0 - (check.quantile or 0.5)])
    above = int(np.searchsorted(seen.edges, check.absolute.amount))
    below = int(np.searchsorted(seen.edges, check.absolute.amount, side="right")) - 1
    nothing = np.zeros((windows, len(HARM_FACTORS))), np.zeros(windows), np.full(windows, -np.inf)
    if above == len(seen.edges):
        return nothing
    edge = np.full((windows, 1), above)
    single, log_e = harm_of_limit(seen.at(edge), exceedance[:, above : above + 1], par, share, scene)
    if below < 0:
        return single, log_e, nothing[2]
    return single, log_e, safe_limit(seen.at(np.full((windows, 1), below)), par, share, scene)


# --- values -----------------------------------------------------------------------------------------------------------


def _weigh_values(
    checks: Sequence[Check], windows: Sequence[Window], scene: Scene, noises: Sequence[Noise]
) -> list[Weighed]:
    canary, stable = value_arrays(windows, [check.metric for check in checks], scene.time.broken)
    return [_weigh_value(check, canary[:, at], stable[:, at], scene) for at, check in enumerate(checks)]


def _weigh_value(check: Check, canary: FloatArray, stable: FloatArray, scene: Scene) -> Weighed:
    signs = worse_than_tolerated(canary, stable, check.max_change, check.direction)
    parts = []
    if check.max_change is not None or check.absolute is None:
        parts.append(_bets(signs, signs, scene))
    if check.absolute is not None:
        parts.append(_bets(*_limit_signs(check, check.absolute, canary, stable, scene), scene))
    of_canary, of_stable = np.isfinite(canary)[:, None], np.isfinite(stable)[:, None]
    worse = (signs > 0).astype(float)[:, None]
    arms = Arms(worse, of_canary.astype(float), 0.0 * worse, of_stable.astype(float), of_canary, of_stable)
    single, harm, safe = together(parts)
    return Weighed(harm, safe, single, arms, values=(canary, stable))


def _limit_signs(
    check: Check, limit: Limit, canary: FloatArray, stable: FloatArray, scene: Scene
) -> tuple[FloatArray, FloatArray]:
    beyond = beyond_limit(canary, limit, check.direction)
    worse = worse_than_tolerated(canary, stable, None, check.direction)
    return beyond, np.where(scene.time.alone, beyond, worse)


def _bets(signs: FloatArray, also: FloatArray, scene: Scene) -> tuple[FloatArray, FloatArray, FloatArray]:
    logs = [mixture_log_evidence(sign_log_evidence(one)[:, None], scene.weights)[:, 0] for one in (signs, also)]
    log_pass = step_log_evidence(sign_log_evidence(-signs)[:, None], scene.time.first)
    return sign_log_evidence(signs), np.minimum(*logs), promotable(log_pass, signs[:, None] != 0, scene)[:, 0]


_KINDS = {
    CheckKind.PROPORTION: _weigh_proportions,
    CheckKind.LATENCY: _weigh_latency,
    CheckKind.VALUE: _weigh_values,
}

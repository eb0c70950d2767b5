"""Learning a service's noise from its own past, before a rollout.

An instance's events x are held against its share e = X n/N of the whole service's, so what all instances go through
cancels. Two things are left. *Clumps*: how much larger the differences between neighbouring windows are than chance
makes them (phi, the Fano factor; slow noise cancels in differences). *Wander*: how much more than that whole blocks of
windows differ (tau2 and deviation), for blocks up to a third of the history, since what lasts is what misleads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from canary_release.core.clump_learning import clumps, least_by_small_counts, lower, upper
from canary_release.core.frames import record_from_frame
from canary_release.core.noise import DEFAULT_LATENCY_NOISE, DEFAULT_NOISE, Noise
from canary_release.core.noise_report import Baseline, NoiseReport
from canary_release.core.observations import ERROR_RATE, slower_than_edges
from canary_release.core.own_series import clumps_of_series
from canary_release.core.record import STABLE, Edges, FloatArray, Record, record_of
from canary_release.core.release import Check, CheckKind, Release
from canary_release.core.running_sums import HALF_LIFE
from canary_release.core.units import say_duration
from canary_release.core.usual_state import SURE_OF_CLUMPS, unusual
from canary_release.core.values import Window
from canary_release.core.weigh import label

FEWEST_EVENTS = 20.0  # below it nothing is learned, and the defaults hold
FEWEST_WINDOWS = 20
EVENTS_BEFORE = 100.0  # of all instances a window, added where windows are weighed against each other
SAFETY = 1.25  # by which the variance of slow noise, as it adds up, is multiplied
LARGEST_TAU2 = 100.0
LOUDEST = 2.0  # times as many events as usual that a window of the whole service may count with


@dataclass(frozen=True)
class _Past:
    """T windows of K instances of stable; K = 1 is the service as a whole. pairs: events and of how many (T, K, 2).

    slower, of: latency, without the windows in which the whole service was in another state than its usual one: one
    overload of a few seconds would be taken for clumps of hundreds. usual: the sums of slower and of when the history
    ended, older windows counting half every five minutes (B + 1,).
    """

    record: Record
    seconds: float
    instances: int
    pairs: dict[str, FloatArray]
    edges: Edges
    slower: FloatArray
    of: FloatArray
    usual: FloatArray


def learn(release: Release, history: pd.DataFrame | Sequence[Window]) -> NoiseReport:
    """What the judge should allow for, by check, and how stable was doing when the history ended.

    history: stable's windows from before the rollout; with a column ``instance`` every instance's own rows, best an
    hour or more. Without it only clumps can be learned. Where too little happened the defaults hold, which the report
    says. Raises FrameError.
    """
    past = _past(release, history)
    if not len(past.record):
        return NoiseReport(sentences=("the history has no windows: the defaults hold.",))
    checks: dict[str, Noise] = {}
    sentences: list[str] = []
    at_edges = tuple(_of_edge(past, at) for at in range(len(past.edges)))
    for check in release.checks:
        found = _of_check(check, past, at_edges)
        if found is not None:
            checks[label(check)] = found
        sentences.append(_sentence(check, found, past))
    known = tuple(noise or DEFAULT_LATENCY_NOISE for noise in at_edges)
    return NoiseReport(checks, known if any(at_edges) else (), _baseline(past), tuple(sentences))


def _past(release: Release, history: pd.DataFrame | Sequence[Window]) -> _Past:
    names = [check.metric for check in release.checks if check.kind is CheckKind.PROPORTION]
    events = [name for name in names if name != ERROR_RATE]
    if isinstance(history, pd.DataFrame):
        frame = history[history["side"] == "stable"] if "side" in history else history
        record = record_from_frame(frame)
        if "instance" in frame and frame["instance"].nunique() > 1:
            return _of_instances(frame, record, events)
    else:
        record = record_of(history, events, ())
    pairs = {name: of[:, STABLE:, :] for name, of in record.proportions.items()}
    return _assembled(
        record, 1, pairs, record.requests[:, STABLE:], record.errors[:, STABLE:], record.buckets[:, STABLE:]
    )


def _of_instances(frame: pd.DataFrame, record: Record, events: Sequence[str]) -> _Past:
    place = np.searchsorted(record.index, pd.to_numeric(frame["window"]).to_numpy(dtype=np.int64))
    instance, names = pd.factorize(frame["instance"])
    size = len(names)

    def table(column: str) -> FloatArray:
        cells = np.full((len(record), size), np.nan)
        cells[place, instance] = pd.to_numeric(frame[column]).to_numpy(dtype=float)
        return cells

    known = [name for name in events if f"{name}_events" in frame]
    pairs = {name: np.stack((table(f"{name}_events"), table(f"{name}_of")), axis=-1) for name in known}
    columns = _bucket_columns(frame)
    buckets = (
        np.stack([table(name) for name in columns], axis=-1) if columns else np.full((len(record), size, 1), np.nan)
    )
    return _assembled(record, size, pairs, table("requests"), table("errors"), buckets)


def _bucket_columns(frame: pd.DataFrame) -> list[str]:
    names = [str(name) for name in frame.columns if str(name).startswith("le_")]
    return sorted(names, key=lambda name: float(name.removeprefix("le_")))


def _assembled(
    record: Record,
    instances: int,
    pairs: dict[str, FloatArray],
    requests: FloatArray,
    errors: FloatArray,
    buckets: FloatArray,
) -> _Past:
    broken = np.array([reason is not None for reason in record.broken], dtype=bool)
    slower, of, _ = slower_than_edges(buckets, broken)
    clean = {}
    for name, pair in {ERROR_RATE: np.stack((errors, requests), axis=-1), **pairs}.items():
        usable = np.isfinite(pair).all(axis=-1) & ~broken[:, None]
        clean[name] = np.where(usable[..., None], pair, 0.0)
        if instances == 1:  # with several, what all go through cancels by itself
            other, _ = unusual(clean[name][:, 0], record.start, SURE_OF_CLUMPS)
            clean[name][other] = 0.0
    seconds = float(np.median(record.end - record.start)) if len(record) else 1.0
    together = np.concatenate((slower.sum(axis=1), of.sum(axis=1)), axis=1)
    other, usual = unusual(together, record.start)
    slower, of = (np.where(other[:, None, None], 0.0, counts) for counts in (slower, of))
    return _Past(record, seconds, instances, clean, record.edges, slower, of, usual)


def _of_check(check: Check, past: _Past, at_edges: Sequence[Noise | None]) -> Noise | None:
    if check.kind is CheckKind.VALUE:
        return None
    if check.kind is CheckKind.PROPORTION:
        pair = past.pairs.get(check.metric)
        return None if pair is None else _learned(pair[..., 0], pair[..., 1], past.seconds)
    if not past.edges:
        return None
    share = past.slower.sum(axis=(0, 1)) / max(float(past.of.sum()), 1.0)
    wanted = 1.0 - (check.quantile or 0.5)
    return at_edges[int(np.argmin(np.abs(np.log((share + 1e-9) / wanted))))]


def _of_edge(past: _Past, at: int) -> Noise | None:
    """Slow requests come in no clumps, and what a whole service goes through looks like them where traffic is dense."""
    found = _learned(past.slower[..., at], past.of[..., 0], past.seconds, DEFAULT_LATENCY_NOISE)
    if found is None or past.instances > 1:
        return found
    return replace(found, phi=min(found.phi, DEFAULT_LATENCY_NOISE.phi))


def _learned(events: FloatArray, of: FloatArray, seconds: float, default: Noise = DEFAULT_NOISE) -> Noise | None:
    """The noise of counts (T, K) out of (T, K), in windows of ``seconds``; None where too little happened.

    default: for what a service's own series cannot tell.
    """
    if events.sum() < FEWEST_EVENTS or len(events) < FEWEST_WINDOWS:
        return None
    if events.shape[1] == 1:
        return replace(default, phi=upper(*clumps_of_series(events[:, 0], of[:, 0])))
    total = of.sum(axis=1, keepdims=True)
    share = of / np.maximum(total, 1.0)
    rate = events.sum(axis=1, keepdims=True) / np.maximum(total, 1.0)
    expected = rate * of
    less = _less(expected)
    residual, weight = (events - expected) * less, expected * (1.0 - rate) * less
    variance, strength = weight * less * (1.0 - share), weight**2 * (1.0 - share)
    usual = expected + total / max(float(total.mean()), 1.0) * share * EVENTS_BEFORE  # so that no clump weighs itself
    phi, least = clumps(residual, variance, usual * less)
    tau2, deviation = _wander(residual, variance, weight, strength, phi)
    number = float(variance.sum())
    fewest = least_by_small_counts(events, of)
    least = lower(least, number) if fewest is None else min(fewest, least)
    return Noise(upper(phi, number), min(tau2, LARGEST_TAU2), deviation, seconds, least)


def _less(expected: FloatArray) -> FloatArray:
    """By how much windows count less, (T, 1): an incident of the whole service is one repetition of instances' noise,
    not as many as it has events. Not so early that a clump would weigh itself.
    """
    of_all = expected.sum(axis=1, keepdims=True)
    most = LOUDEST * float(np.median(of_all)) + EVENTS_BEFORE
    return np.asarray(most / np.maximum(of_all, most))


def _wander(
    residual: FloatArray, variance: FloatArray, weight: FloatArray, strength: FloatArray, phi: float
) -> tuple[float, float]:
    """(tau2, deviation): from blocks of windows, the largest variance as it adds up, and the variance as it is.

    The deviation is read from the shortest blocks in which chance does not hide it.
    """
    largest, deviation2, sure = 0.0, np.inf, False
    length = 1
    while length == 1 or length <= len(residual) // 3:
        cells = [_blocks(values, length) for values in (residual, variance, weight)]
        share = float(strength.sum()) / max(float((weight**2).sum()), 1e-300)
        squares, chance = float((cells[0] ** 2).sum()), float(phi * cells[1].sum())
        base = max(float((cells[2] ** 2).sum()) * share, 1e-300)
        found, doubt = (squares - chance) / base, float(np.sqrt(2.0 / cells[0].size))
        largest = max(largest, length * found * (1.0 + doubt))
        upper = max(found, 0.0) + 2.0 * doubt * max(squares, chance) / base
        if not sure and upper < deviation2:
            deviation2 = upper
        doubt = max(doubt, _doubt(cells[0] ** 2))  # few large clumps are not to be taken for it
        sure = sure or 2.0 * doubt * max(squares, chance) / base <= max(found, 0.01)
        length *= 2
    tau2 = SAFETY * max(largest, 0.0)
    # Slow noise is seen only a few times, however many windows there are.
    seen = max(residual.size * deviation2 / max(tau2, 1e-12), 2.0)
    return tau2, float(np.sqrt(min(deviation2 * (1.0 + np.sqrt(2.0 / min(seen, residual.size))), 4.0)))


def _doubt(squares: FloatArray) -> float:
    """Relative standard error of their mean as they show it: few large clumps make it more than normal noise would."""
    return float(squares.std() / max(float(squares.mean()) * np.sqrt(squares.size), 1e-300))


def _blocks(values: FloatArray, length: int) -> FloatArray:
    whole = len(values) // length * length
    return np.asarray(values[:whole].reshape(-1, length, values.shape[1]).sum(axis=1))


def _baseline(past: _Past) -> Baseline:
    end = past.record.end
    fresh = 0.5 ** (np.maximum(end[-1] - end, 0.0) / HALF_LIFE)
    events = {name: (pair.sum(axis=1) * fresh[:, None]).sum(axis=0) for name, pair in past.pairs.items()}
    return Baseline(
        events={name: (float(sums[0]), float(sums[1])) for name, sums in events.items()},
        edges=past.edges,
        slower=tuple(past.usual[:-1].tolist()) if past.edges else (),
        requests=float(past.usual[-1]) if past.edges else 0.0,
    )


def _sentence(check: Check, found: Noise | None, past: _Past) -> str:
    seconds = float(past.record.end[-1] - past.record.start[0])
    span = f"{seconds / 3600:.1f} h" if seconds >= 1800 else say_duration(seconds)
    source = f"{span} of {past.instances} instances" if past.instances > 1 else f"{span} of the service"
    if check.kind is CheckKind.VALUE:
        return f"{label(check)}: single numbers have no counts to learn from."
    if found is None:
        return f"{label(check)}: too few events in {source} to learn from; the defaults hold."
    clumps = f"learned from {source}: counts are {found.phi:.2g} times as noisy as chance"
    if past.instances == 1:
        return (
            f"{label(check)}: {clumps}. How far single instances wander cannot be seen in the service's own series; "
            "the default holds for that. Give a history with a column `instance` for a faster judge."
        )
    return f"{label(check)}: {clumps}; one instance's own rate wanders by up to {100 * found.wander:.0f} %."

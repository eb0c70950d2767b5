"""The cells of the bench, and what every judge does in them.

A cell is a service, a plan and a regression (none for a good canary). All judges see the same rollouts, which follow
the plan to its end, so that a late false alarm counts and a late regression can be caught. How early the judge
promotes is measured apart, by rollouts whose weight it decides itself.
"""

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bench.best_test import best_miss_share, promotion_seconds
from bench.bounds import bound_seconds, noisy_bound_seconds
from bench.oracle import Oracle
from bench.peers import PEERS, Rule
from bench.told import Told
from bench.traffic import (
    CANARY,
    FloatArray,
    Plan,
    Regression,
    Rollouts,
    Service,
    environment,
    history,
    observe,
    simulate,
)
from canary_release.core.frames import record_from_frame
from canary_release.core.judge import judge
from canary_release.core.mixture import PASS_WINDOWS
from canary_release.core.noise_learning import learn
from canary_release.core.release import Check, CheckKind, Limit, LimitKind, Release, Step, Target
from canary_release.core.replay import replay

HARM_BUDGET = 0.25
UNSAFE = 0.05
"""Of canaries that are unsafe at the next weight, the share that may be raised early."""
HISTORY_HOURS = 6.0
HISTORY_WINDOW = 60.0
ROLLOUTS_A_HISTORY = 10

LIMITS = {
    "none": None,
    "10%": Limit(LimitKind.RELATIVE, 0.10, "10%"),
    "0.5pp": Limit(LimitKind.POINTS, 0.005, "0.5pp"),
}


@dataclass(frozen=True)
class Cell:
    """kind: ``good`` (no regression), ``bad``, or ``early`` (the judge itself decides when to go on).

    error_limit, latency_limit: what the release file tolerates, as names of LIMITS.
    """

    kind: str
    service: Service
    plan: Plan
    effect: str = "none"
    regression: Regression = field(default_factory=Regression)
    error_limit: str = "none"
    latency_limit: str = "10%"

    @property
    def name(self) -> str:
        ladder = "/".join(f"{100 * weight:g}" for weight in self.plan.ladder)
        service = self.service
        return (
            f"{self.kind}: {self.effect}; {service.noise.name}; {service.rate:g}/s; {100 * service.errors:g} %; "
            f"{service.instances} instances; {ladder}; {self.plan.window:g} s; limits {self.error_limit}, "
            f"{self.latency_limit}"
        )

    def seed(self, base: int) -> int:
        return zlib.crc32(f"{base} {self.name}".encode())

    def release(self, *, early_promotion: bool) -> Release:
        nowhere = Target("nowhere", "none")
        steps = tuple(Step(Decimal(f"{100 * weight:g}"), self.plan.bake) for weight in self.plan.ladder)
        checks = (
            Check("error_rate", CheckKind.PROPORTION, max_change=LIMITS[self.error_limit]),
            Check("page_load_time", CheckKind.LATENCY, quantile=0.95, max_change=LIMITS[self.latency_limit]),
        )
        return Release(
            service="bench",
            load_balancer=nowhere,
            backends=("blue", "green"),
            metrics=nowhere,
            steps=steps,
            checks=checks,
            poll=self.plan.window,
            harm_budget=HARM_BUDGET,
            early_promotion=early_promotion,
        )


@dataclass(frozen=True)
class Row:
    """One judge in one cell; shares are of ``rollouts``, times in seconds after the onset.

    false: rolled back a good canary, or before the onset.  missed: never rolled back.  mean, late: average and 95th
    percentile until the rollback; the average is of the caught.  hurt: requests that failed or were slow because of the
    regression until the rollback.  finish: mean seconds until promotion where the judge decides (``early`` cells);
    finished: share promoted.  unsafe: share that left a step early although the next weight was beyond the harm budget.
    bound, noisy_bound: seconds in which the information comes in at all, without and with clumps and instances.
    least_missed: share that the best test misses.  soonest: mean seconds in which the best promotes a good canary.
    took: seconds of the processor for all rollouts.
    seed: the bench's, from which each cell makes its own.
    """

    cell: str
    kind: str
    judge: str
    rollouts: int
    false: float = np.nan
    missed: float = np.nan
    mean: float = np.nan
    late: float = np.nan
    hurt: float = np.nan
    finish: float = np.nan
    finished: float = np.nan
    unsafe: float = np.nan
    bound: float = np.nan
    noisy_bound: float = np.nan
    least_missed: float = np.nan
    soonest: float = np.nan
    took: float = np.nan
    seed: int = 0


# --- the judge --------------------------------------------------------------------------------------------------------


class Past(StrEnum):
    """What the judge is told of the service before a rollout; the values are what it is called in the tables.

    SERIES: the service's own series, as any metric source remembers it.  INSTANCES: one of every instance of stable.
    """

    NONE = "ours"
    SERIES = "ours, own series"
    INSTANCES = "ours, history"


@dataclass(frozen=True)
class Ours:
    """This project's judge, with one past for each ten rollouts.

    Rollouts that follow the plan are judged and go back when the judge says fail, as every policy has it; where the
    judge decides itself, they go through the replay that users have.
    """

    cell: Cell
    past: Past
    seed: int

    @property
    def name(self) -> str:
        return self.past.value

    def rollback_seconds(self, seen: Rollouts) -> FloatArray:
        release = self.cell.release(early_promotion=False)
        found = np.full(len(seen), np.inf)
        learned = None
        for rollout in range(len(seen)):
            if rollout % ROLLOUTS_A_HISTORY == 0:
                table = self.history_of(rollout)
                learned = None if table is None else learn(release, table)
            crossed = judge(release, record_from_frame(seen.frame(rollout)), noise=learned).crossed
            if crossed is not None:
                found[rollout] = seen.plan.ends[crossed]
        return found

    def history_of(self, rollout: int) -> pd.DataFrame | None:
        if self.past is Past.NONE:
            return None
        seed = self.seed + 1 + rollout // ROLLOUTS_A_HISTORY
        table = history(self.cell.service, HISTORY_HOURS, HISTORY_WINDOW, seed)
        return own_series(table) if self.past is Past.SERIES else table


def own_series(table: pd.DataFrame) -> pd.DataFrame:
    """What is left of a history when instances cannot be told apart: their sums, one row a window."""
    counts = [str(name) for name in table if name in ("requests", "errors") or str(name).startswith("le_")]
    ways: dict[str, Any] = {name: "sum" for name in [*counts, "instances"]}
    together: pd.DataFrame = table.groupby(["window", "start", "end", "side", "weight"], as_index=False).agg(ways)
    return together


def all_judges(cell: Cell, seed: int, learned: bool) -> list[Rule]:
    told = Told(LIMITS[cell.error_limit], LIMITS[cell.latency_limit])
    return [*own_judges(cell, seed, learned), told, Oracle(cell.regression), *PEERS]


def own_judges(cell: Cell, seed: int, learned: bool) -> list[Ours]:
    return [Ours(cell, past, seed) for past in (Past if learned else [Past.NONE])]


# --- measuring --------------------------------------------------------------------------------------------------------


def run(cell: Cell, rollouts: int, base_seed: int, learned: bool) -> list[Row]:
    """Every judge in one cell, on the same rollouts."""
    seed = cell.seed(base_seed)
    if cell.kind == "early":
        rows = [timed(partial(walk_all, ours, rollouts)) for ours in own_judges(cell, seed, learned)]
    else:
        seen = simulate(cell.service, cell.plan, cell.regression, rollouts, seed)
        rows = [timed(partial(judged, cell, judge, seen)) for judge in all_judges(cell, seed, learned)]
    return [replace(row, seed=base_seed) for row in rows]


def timed(work: Callable[[], Row]) -> Row:
    began = time.process_time()
    row = work()
    return replace(row, took=time.process_time() - began)


def judged(cell: Cell, judge: Rule, seen: Rollouts) -> Row:
    return measured(cell, judge.name, judge.rollback_seconds(seen), seen)


def measured(cell: Cell, judge: str, seconds: FloatArray, seen: Rollouts) -> Row:
    """seconds: of each rollout until its rollback, infinite without one."""
    number = len(seen)
    row = Row(cell.name, cell.kind, judge, number)
    if cell.regression.harmless:
        return replace(row, false=float(np.isfinite(seconds).mean()))
    onset = cell.regression.onset
    false, missed = seconds <= onset, np.isinf(seconds)
    caught = seconds[~false & ~missed] - onset
    delays = np.sort(seconds[~false] - onset)
    late = delays[min(len(delays) - 1, int(np.ceil(0.95 * len(delays))) - 1)] if len(delays) else np.nan
    return replace(
        row,
        false=float(false.mean()),
        missed=float(missed.mean()),
        mean=float(caught.mean()) if len(caught) else np.nan,
        late=float(late),
        hurt=float(hurt_until(seen, cell.regression, seconds)[~false].mean()) if (~false).any() else np.nan,
        bound=bound_seconds(cell.service, cell.plan, cell.regression),
        noisy_bound=noisy_bound_seconds(cell.service, cell.plan, cell.regression),
        least_missed=best_miss_share(cell.service, cell.plan, cell.regression),
    )


def hurt_until(seen: Rollouts, regression: Regression, seconds: FloatArray) -> FloatArray:
    """Requests of the canary that failed, or were slower than the edge nearest p95, only because of the regression.

    Expected values given the requests that came, (rollout,).
    """
    around, middle = seen.environment, seen.plan.middle
    failing = around.errors * (regression.error_factor(middle) - 1.0)
    before = seen.service.slow_share(around.stretch)
    after = seen.service.slow_share(around.stretch * regression.latency_factor(middle))
    hurt = seen.requests[CANARY] * (failing + after - before)
    shown = seen.plan.ends[None, :] <= np.minimum(seconds, seen.plan.seconds)[:, None]
    return np.asarray((hurt * shown).sum(axis=1))


# --- when the judge decides -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """outcome: promote, roll_back or unfinished.  left: (step, seconds baked) of the steps that were left upwards."""

    outcome: str
    seconds: float
    left: tuple[tuple[int, float], ...]


def walk_all(ours: Ours, rollouts: int) -> Row:
    """Rollouts whose next weight comes when the judge says so, within the plan's time."""
    cell = ours.cell
    of_environment, *of_steps = np.random.SeedSequence(ours.seed).spawn(1 + len(cell.plan.ladder))
    around = environment(cell.service, cell.plan, rollouts, np.random.default_rng(of_environment))
    tracks = [
        observe(
            cell.service,
            cell.plan,
            cell.regression,
            around,
            np.full(cell.plan.windows, weight),
            np.random.default_rng(of_step),
        )
        for weight, of_step in zip(cell.plan.ladder, of_steps, strict=True)
    ]
    walks = [walk(ours, tracks, rollout) for rollout in range(rollouts)]
    promoted = [one.seconds for one in walks if one.outcome == "promote"]
    backed = [one.seconds for one in walks if one.outcome == "roll_back"]
    good, share = cell.regression.harmless, len(backed) / rollouts
    return Row(
        cell.name,
        cell.kind,
        ours.name,
        rollouts,
        false=share if good else np.nan,
        missed=np.nan if good else 1.0 - share,
        mean=float(np.mean(backed)) if backed else np.nan,
        finish=float(np.mean(promoted)) if promoted else np.nan,
        finished=len(promoted) / rollouts,
        unsafe=float(np.mean([left_unsafely(cell, one) for one in walks])),
        soonest=promotion_seconds(cell.service, cell.plan, HARM_BUDGET, UNSAFE, PASS_WINDOWS) if good else np.nan,
    )


def walk(ours: Ours, tracks: Sequence[Rollouts], rollout: int) -> Walk:
    """Stitch the rollout together from one track a weight, judged again after each change of the weight."""
    plan, release = ours.cell.plan, ours.cell.release(early_promotion=True)
    frames = [track.frame(rollout) for track in tracks]
    taken = np.zeros(plan.windows, dtype=int)
    since, left = 0, list[tuple[int, float]]()
    past = ours.history_of(rollout)
    for step in range(len(tracks)):
        taken[since:] = step
        said = replay(release, stitched(frames, taken), past)["decision"].to_numpy()[since:]
        onward = np.flatnonzero(said != "hold")
        if not len(onward):
            return Walk("unfinished", plan.seconds, tuple(left))
        at = since + int(onward[0])
        if said[onward[0]] != "advance":
            return Walk(str(said[onward[0]]), float(plan.ends[at]), (*left, (step, (at + 1 - since) * plan.window)))
        left.append((step, (at + 1 - since) * plan.window))
        since = at + 1
        if since >= plan.windows:
            return Walk("unfinished", plan.seconds, tuple(left))
    return Walk("unfinished", plan.seconds, tuple(left))


def stitched(frames: Sequence[pd.DataFrame], taken: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> pd.DataFrame:
    """Window by window from the frame that is named in ``taken``."""
    both = np.concatenate([taken, taken])
    parts = [frame[both == step] for step, frame in enumerate(frames) if (both == step).any()]
    together: pd.DataFrame = pd.concat(parts).sort_index().reset_index(drop=True)
    return together


def left_unsafely(cell: Cell, one: Walk) -> bool:
    """Whether a step was left upwards before its bake was over although (theta - 1) w_next is too much harm."""
    upward = [*cell.plan.ladder[1:], 1.0]
    steps = one.left[:-1] if one.outcome == "roll_back" else one.left
    harm = cell.regression.errors - 1.0
    return any(baked < cell.plan.bake and harm * upward[step] >= HARM_BUDGET for step, baked in steps)

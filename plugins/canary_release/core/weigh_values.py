"""Single numbers weighed by bets on who was worse, window by window."""

from collections.abc import Sequence

import numpy as np

from canary_release.core.held_against import Promotable, Scene
from canary_release.core.observations import Arms, value_arrays
from canary_release.core.record import BoolArray, FloatArray, Record
from canary_release.core.release import Check
from canary_release.core.running_sums import Mixture, Rows, StepMixture
from canary_release.core.value_evidence import beyond_limit, sign_log_evidence, worse_than_tolerated
from canary_release.core.weigh import BURNING, Part, Weighed


class WeighedValues(Weighed):
    """values: canary's and stable's numbers, (W, C, 2)."""

    def __init__(self, checks: Sequence[Check]) -> None:
        super().__init__(checks)
        self._metrics = [check.metric for check in checks]
        self._change, self._limit = _Bets(), _Bets()
        self._canary, self._stable = StepMixture(), StepMixture()
        self.values: Rows[np.float64] = Rows()

    def extend(self, record: Record, scene: Scene) -> None:
        time = scene.time
        canary, stable = value_arrays(record, self._metrics, time.broken)
        columns = [(check, canary[:, at], stable[:, at]) for at, check in enumerate(self.checks)]
        signs = np.stack([worse_than_tolerated(c, b, check.max_change, check.direction) for check, c, b in columns], 1)
        change = self._change.extend(signs, signs, scene)
        limit, burning = None, None
        if len(self.limited):
            some = [columns[place] for place in self.limited.tolist()]
            limit, burning = self._against_limits(some, scene)
        known = np.isfinite(canary), np.isfinite(stable)
        worse = (signs > 0).astype(float)
        arms = Arms(worse, known[0].astype(float), 0.0 * worse, known[1].astype(float), *known)
        self.values.extend(np.stack((canary, stable), axis=-1))
        self._keep(arms, time, change, limit, burning)

    def _against_limits(
        self, columns: Sequence[tuple[Check, FloatArray, FloatArray]], scene: Scene
    ) -> tuple[Part, BoolArray]:
        beyond, worse, stable_beyond = [], [], []
        for check, canary, stable in columns:
            assert check.absolute is not None
            beyond.append(beyond_limit(canary, check.absolute, check.direction))
            stable_beyond.append(beyond_limit(stable, check.absolute, check.direction))
            other = worse_than_tolerated(canary, stable, None, check.direction)
            worse.append(np.where(scene.time.alone, beyond[-1], other))
        signs = np.stack(beyond, axis=1)
        part = self._limit.extend(signs, np.stack(worse, axis=1), scene)
        began = scene.time.began
        burning = self._canary.extend(sign_log_evidence(signs), began) >= BURNING
        both = self._stable.extend(sign_log_evidence(np.stack(stable_beyond, axis=1)), began) >= BURNING
        return part, burning & both


class _Bets:
    """Evidence from two rows of signs, of which the smaller counts, and from the opposite bets."""

    def __init__(self) -> None:
        self._first, self._second, self._safe = Mixture(), Mixture(), StepMixture()
        self._promotable = Promotable()

    def extend(self, signs: FloatArray, also: FloatArray, scene: Scene) -> Part:
        single = sign_log_evidence(signs)
        log_e = np.minimum(
            self._first.extend(single, scene.weights), self._second.extend(sign_log_evidence(also), scene.weights)
        )
        log_pass = self._safe.extend(sign_log_evidence(-signs), scene.time.began)
        return Part(single, log_e, self._promotable.extend(log_pass, signs != 0, scene.time.began))

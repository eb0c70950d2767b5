"""Evidence that knows what noise an instance can make: a filter follows it, with and without harm.

Hidden is z, how much worse than stable the canary happens to look because of its instances: stationary, normal,
forgotten at the rate exp(-seconds/lasting). It is followed on Z places by an Ehrenfest urn (Rouwenhorst 1995), which
has the variance and the autocorrelation of that process exactly. Shapes: W windows, C columns, J alternatives, and in
front of them the null; NODES places at which a likelihood is given.
"""

from collections.abc import Iterator
from functools import lru_cache
from math import comb

import numpy as np

from canary_release.core.error_evidence import CAP
from canary_release.core.record import BoolArray, FloatArray, IntArray
from canary_release.core.running_sums import Total

REACH = 4.0  # of 100 and more that are needed: how far one window may in any case raise a small stake
PLACES = 7
_CAPPED = float(np.exp(CAP))
_FLIPS = PLACES - 1
# In standard deviations; the chance of each place is binomial.
POSITIONS = (2.0 * np.arange(PLACES) - _FLIPS) / np.sqrt(_FLIPS)
STATIONARY = np.array([comb(_FLIPS, place) for place in range(PLACES)]) / 2.0**_FLIPS
SPACING = float(POSITIONS[1] - POSITIONS[0])
NODES = POSITIONS[-1] * np.cos(np.pi * (np.arange(5)[::-1] + 0.5) / 5)  # Chebyshev: quartics through them stay close
_LARGEST, _FURTHEST = 1e250, 575.0
_LONGEST, _LONGEST_CAPPED = 32, 8  # windows taken at a time; those after one that meets the cap are taken again
_MOST = 60.0  # of a log likelihood ratio in one window, before the cap
_SAFELY, _FAINT = 300.0, 1e-100  # how far sums may grow, on logarithms, and shrink without a new scale


def _quartics(at: FloatArray) -> FloatArray:
    """From values at the nodes to values at other places, (nodes, places)."""
    columns = [np.prod([(at - b) / (a - b) for b in NODES if b != a], axis=0) for a in NODES]
    return np.array(columns)


def _modes() -> tuple[FloatArray, FloatArray]:
    """What the urn's transitions have in common for every persistence a: K = L diag(a^k) R, rows as distributions."""
    step = np.zeros((PLACES, PLACES))
    for heads in range(PLACES):
        if heads > 0:
            step[heads, heads - 1] = heads / _FLIPS
        if heads < _FLIPS:
            step[heads, heads + 1] = 1.0 - heads / _FLIPS
    values, left = np.linalg.eig(step)
    left = left[:, np.argsort(-values.real)].real
    return left, np.linalg.inv(left)


_QUARTICS = _quartics(POSITIONS)
_ONES = np.ones(PLACES)
_MIDDLE = _quartics(np.zeros(1))[:, 0]
_LEFT, _RIGHT = _modes()


class Filtered:
    """The filters of the null A and of J alternatives M_j, scaled so that A adds up to 1:
        M_j <- ((M_j + stake/J A) K) e^{l_j},  A <- (A K) e^{l_0}.
    Sum M_j is a ratio of likelihoods, so that it is an e-process where instances do what the filter says. In one window
    it grows by no more than the cap, or from a small stake to no more than REACH.
    """

    def __init__(self) -> None:
        self._state: FloatArray | None = None  # (1 + J, C, Z)
        self._ratio = np.zeros(0)

    def regroup(self, parents: IntArray) -> None:
        """Go on with other columns, each a copy of an earlier one."""
        if self._state is not None:
            self._state, self._ratio = np.ascontiguousarray(self._state[:, parents]), self._ratio[parents]

    @np.errstate(over="ignore", invalid="ignore")  # in windows after a cap was met, which are taken again
    def extend(self, likelihood: FloatArray, persistence: FloatArray, stakes: FloatArray) -> FloatArray:
        """Sum M_j, (W, C), from log likelihoods (W, C, 1 + J, nodes), how much of z stays (W, C), stakes (W,)."""
        steps = _Steps(likelihood, persistence, stakes)
        state, ratio = self._state, self._ratio
        if state is None:
            state, ratio = steps.fresh, np.zeros(likelihood.shape[1])
        ratios, at, capped = np.empty(persistence.shape), 0, False
        while at < len(stakes):
            rows = steps.piece(at, _LONGEST_CAPPED if capped else _LONGEST)
            found, over = (steps.take_capped if capped else steps.take)(state, ratio, rows)
            met = bool(over.any())
            if met and not capped:  # from the first of these rows on, they have to be taken again
                found = found[: int(np.argmax(over.any(axis=1)))]
            capped = met
            if not len(found):
                continue
            ratios[at : at + len(found)] = found
            at += len(found)
            state, ratio = steps.states[at - 1], found[-1]
            state = np.ldexp(state, -np.frexp(state[0].sum(axis=-1))[1][:, None])
        self._state, self._ratio = state, ratio
        return ratios


class _Steps:
    """The filters window after window, as far as no cap is met; powers of two are left to the caller."""

    def __init__(
        self, likelihood: FloatArray, persistence: FloatArray, stakes: FloatArray, anew: BoolArray | None = None
    ) -> None:
        self._chances, growth = _chances(likelihood)
        self._growth, self._urn = growth.tolist(), _Urn(persistence)
        self._stakes, self._forget = stakes, np.zeros(len(stakes), dtype=bool) if anew is None else anew
        self.states = np.empty_like(self._chances)
        self._flat, self._flat_chances = (x.reshape(len(x), -1, PLACES) for x in (self.states, self._chances))
        self.fresh = np.zeros(self._chances.shape[1:])  # nothing known yet, nothing staked
        self.fresh[0] = STATIONARY

    def piece(self, at: int, longest: int = _LONGEST) -> slice:
        """Rows from ``at`` on in which nothing grows too large, up to the next step that begins anew."""
        total, end = self._growth[at], at + 1
        last = min(at + longest, len(self._growth))
        while end < last and total + self._growth[end] <= _SAFELY and not self._forget[end]:
            total += self._growth[end]
            end += 1
        return slice(at, end)

    def uncapped(self, state: FloatArray, rows: slice) -> tuple[FloatArray, FloatArray]:
        """A and sum M_j, added up after each window, (W, C), if there were no cap; the states are kept.

        Of the first rows only, at least one, where sums become so small later that they need a new scale.
        """
        for _ in self._moved(state, rows):
            pass
        sums = (self._flat[rows] @ _ONES).reshape(-1, *state.shape[:2])
        of_null, of_harm = sums[:, 0], np.add.reduce(sums[:, 1:], axis=1)
        faint = np.logical_or.reduce(np.minimum(of_null, of_harm) < _FAINT, axis=1).nonzero()[0]
        sound = max(int(faint[0]), 1) if len(faint) else len(sums)
        return of_null[:sound], of_harm[:sound]

    def take(self, state: FloatArray, ratio: FloatArray, rows: slice) -> tuple[FloatArray, BoolArray]:
        """Sum M_j after each window, (W, C), if A were 1, and where that is beyond the cap."""
        of_null, of_harm = self.uncapped(state, rows)
        found = of_harm / of_null
        before = np.concatenate((ratio[None], found[:-1]))
        stakes = self._stakes[rows.start : rows.start + len(found), None]
        most = np.maximum(_CAPPED * (before + stakes), REACH)
        return found, ~(found <= np.minimum(most, _LARGEST))

    def take_capped(self, state: FloatArray, ratio: FloatArray, rows: slice) -> tuple[FloatArray, BoolArray]:
        """The same with every window held to the cap before the next one comes."""
        kinds, columns = state.shape[:2]
        found, over = np.empty((rows.stop - rows.start, columns)), np.zeros((rows.stop - rows.start, columns), bool)
        sums, most = np.empty((kinds, columns)), np.empty(columns)
        steps = zip(self._moved(state, rows), self._stakes[rows].tolist(), found, over, strict=True)
        for at, (flat, stake, total, beyond) in enumerate(steps, start=rows.start):
            np.dot(flat, _ONES, out=sums.reshape(-1))
            np.add.reduce(sums[1:], axis=0, out=total)
            total /= sums[0]
            np.multiply(_CAPPED, ratio + stake, out=most)
            np.maximum(most, REACH, out=most)
            np.minimum(most, _LARGEST, out=most)
            np.less_equal(total, most, out=beyond)
            np.logical_not(beyond, out=beyond)
            if beyond.any():
                capped = np.minimum(total, most)
                self.states[at, 1:] *= np.where(beyond, capped / total, 1.0)[:, None]
                total[:] = capped
            ratio = total
        return found, over

    def _moved(self, state: FloatArray, rows: slice) -> Iterator[FloatArray]:
        """The states after each window, flat; what is done to one is what the next goes on from."""
        kinds, move = len(state), self._urn.move
        flat, fresh = state.reshape(-1, PLACES), self.fresh.reshape(-1, PLACES)
        alike = self.states[rows].reshape(rows.stop - rows.start, kinds, -1)
        nulls, harms = alike[:, 0], alike[:, 1:]
        staked = np.empty(nulls.shape[1])
        each = (self._stakes[rows] / (kinds - 1)).tolist()
        steps = zip(
            each, self._forget[rows].tolist(), self._flat[rows], self._flat_chances[rows], nulls, harms, strict=True
        )
        for at, (stake, forget, target, chances, null, harm) in enumerate(steps, start=rows.start):
            move(fresh if forget else flat, at, target)
            if stake:  # staked before the move, which is the same for all kinds
                np.multiply(null, stake, out=staked)
                np.add(harm, staked, out=harm)
            np.multiply(target, chances, out=target)
            yield target
            flat = target


class _Urn:
    """What the urn makes of states (1 + J, C, Z) in each window; flat, ((1 + J) C, Z)."""

    def __init__(self, persistence: FloatArray) -> None:
        stays = np.minimum(persistence, 0.9999)
        alike = (stays == stays[:, :1]).all(axis=1).tolist()
        # One matrix for all columns, where they are alike.
        self._matrices = [
            _transitions(one) if same else None for one, same in zip(stays[:, 0].tolist(), alike, strict=True)
        ]
        self._powers = np.empty(0) if all(alike) else stays[:, :, None] ** np.arange(PLACES)

    def move(self, flat: FloatArray, at: int, moved: FloatArray) -> None:
        """From ``flat`` to ``moved``."""
        matrix = self._matrices[at]
        if matrix is not None:
            np.dot(flat, matrix, out=moved)
            return
        powers = self._powers[at]
        modes = (flat @ _LEFT).reshape(-1, *powers.shape)
        modes *= powers
        np.dot(modes.reshape(-1, PLACES), _RIGHT, out=moved)
        np.maximum(moved, 0.0, out=moved)  # rounding


@lru_cache(maxsize=256)
def _transitions(stays: float) -> FloatArray:
    """The urn's, (Z, Z), when so much of z is left a window later; windows of one length have the same."""
    return np.maximum((_LEFT * stays ** np.arange(PLACES)) @ _RIGHT, 0.0)


def _chances(likelihood: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Likelihoods at the places, relative to the likeliest of the null, (W, 1 + J, C, Z); and the logarithm of the
    largest in each window, (W,).
    """
    places = likelihood.transpose(0, 2, 1, 3) @ _QUARTICS
    of_null = np.ascontiguousarray(places[:, 0].transpose(2, 0, 1))  # numpy is slow along an axis as short as the last
    places -= of_null.max(axis=0)[:, None, :, None]
    places.clip(-_MOST, _MOST, out=places)
    growth = places.max(axis=(1, 2, 3))
    return np.exp(places, out=places), growth


class FilteredMixture:
    """ln E for the whole rollout, E_t = sum M_j + weights still to come, with a stake on a harm that begins at each
    window; see Mixture.
    """

    def __init__(self) -> None:
        self._filtered, self._weights = Filtered(), Total()

    def regroup(self, parents: IntArray) -> None:
        self._filtered.regroup(parents)

    def extend(self, likelihood: FloatArray, persistence: FloatArray, weights: FloatArray) -> FloatArray:
        """(W, C); see Filtered."""
        _, spent = self._weights.extend(weights)
        ratios = self._filtered.extend(likelihood, persistence, weights)
        return np.log(ratios + np.maximum(1.0 - spent, 1e-300)[:, None])


class FilteredStep:
    """ln of the evidence since the step began, everything staked on its first window; see StepMixture.

    With nothing staked later the cap only lowers all of M alike: the filter runs without it, and each window's growth
    is capped afterwards.
    """

    def __init__(self) -> None:
        self._state: FloatArray | None = None  # (1 + J, C, Z), A and M scaled by powers of two
        self._ratio, self._said = np.zeros(0), np.zeros(0)  # sum M_j on that scale, and what was said of it, (C,)

    def regroup(self, parents: IntArray) -> None:
        """Go on with other columns, each a copy of an earlier one."""
        if self._state is not None:
            self._state = np.ascontiguousarray(self._state[:, parents])
            self._ratio, self._said = self._ratio[parents], self._said[parents]

    def extend(self, likelihood: FloatArray, persistence: FloatArray, began: IntArray) -> FloatArray:
        """(W, C); began: (W,), 0 where the step began before these rows, else one more than the row it began at."""
        anew = began == np.arange(len(began)) + 1
        anew[:1] |= self._state is None
        steps, said = _Steps(likelihood, persistence, anew.astype(float), anew), np.empty(persistence.shape)
        at = 0
        while at < len(began):
            if anew[at]:
                self._state = steps.fresh
                self._ratio, self._said = np.ones(persistence.shape[1]), np.zeros(persistence.shape[1])
            found = self._taken(steps, steps.piece(at))
            said[at : at + len(found)] = found
            at += len(found)
        return said.clip(-_FURTHEST, _FURTHEST)

    def _taken(self, steps: _Steps, rows: slice) -> FloatArray:
        """Of the first of these rows, at least one."""
        assert self._state is not None
        of_null, of_harm = steps.uncapped(self._state, rows)
        found = of_harm / of_null
        with np.errstate(divide="ignore"):
            growth = np.log(found / np.concatenate((self._ratio[None], found[:-1])))
        said = np.add.accumulate(np.concatenate((self._said[None], np.minimum(growth, CAP))), axis=0)[1:]
        null, harm = np.frexp(of_null[-1])[1], np.frexp(of_harm[-1])[1]
        state = steps.states[rows.start + len(found) - 1]
        self._state = np.concatenate((np.ldexp(state[:1], -null[:, None]), np.ldexp(state[1:], -harm[:, None])))
        self._ratio, self._said = np.ldexp(found[-1], null - harm), said[-1]
        return np.asarray(said)


def of_harm(likelihood: FloatArray, cap: float = CAP) -> FloatArray:
    """Log likelihood ratios of each harm if instances made no noise, (W, C, J)."""
    windows, *kinds, nodes = likelihood.shape
    middle = (likelihood.reshape(windows, -1, nodes) @ _MIDDLE).reshape(windows, *kinds)
    return np.asarray(np.minimum(middle[..., 1:] - middle[..., :1], cap))

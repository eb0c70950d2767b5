"""What the bench's own sampling error can explain."""

import math
from statistics import NormalDist

DOUBT = 1e-3


def wilson(share: float, number: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a binomial share (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.5 + 0.5 * confidence)
    middle = share + z * z / (2 * number)
    half = z * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    scale = 1 + z * z / number
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def chance_of_as_many(count: int, number: int, chance: float) -> float:
    """P(Binomial(number, chance) >= count)."""
    logs = (
        math.lgamma(number + 1) - math.lgamma(k + 1) - math.lgamma(number - k + 1)
        + k * math.log(chance) + (number - k) * math.log1p(-chance)
        for k in range(count)
    )  # fmt: skip
    return max(0.0, 1.0 - math.fsum(math.exp(log) for log in logs))


def refuted(share: float, number: int, promised: float) -> bool:
    """Whether so many by chance, if the promise held, would come once in a thousand."""
    return chance_of_as_many(round(share * number), number, promised) < DOUBT


def percent(share: float, number: int) -> str:
    if math.isnan(share):
        return "–"
    low, high = wilson(share, number)
    return f"{100 * share:.1f} % [{100 * low:.1f}–{100 * high:.1f}]"

"""Differences of two means with t intervals, and how many seeds would show one.

Student, "The probable error of a mean", Biometrika 6 (1908): the paired interval. Welch, "The generalization of
'Student's' problem when several different population variances are involved", Biometrika 34 (1947): the unpaired one,
with the degrees of freedom of Satterthwaite, Biometrics Bulletin 2 (1946); few beside more: Mickey and Brown,
"Bounds on the distribution functions of the Behrens-Fisher statistic", Annals of Mathematical Statistics 37 (1966).
Power by the noncentral t distribution: Cohen, Statistical Power Analysis for the Behavioral Sciences (1988), chapter 2.
Several differences at once: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
Statistics 6 (1979).
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scipy.special import nctdtr, stdtr, stdtrit

CONFIDENCE = 0.95
POWER = 0.8
MOST_SEEDS = 1_000_000  # beyond it nobody asks for the exact number
FEW = 4  # seeds from which on Satterthwaite's degrees of freedom serve groups of any size
ALIKE = 1e-9  # a spread of less than this part of the mean is rounding


# One field for each column of the table.
@dataclass(frozen=True)
class Difference:
    """The mean of one group less the mean of another, with its interval.

    One of one seed a group has none, and neither has one whose seeds all differ alike: these tell nothing of chance.
    Metrics in coarse steps do so by chance: two seeds in up to one case of eight.
    """

    mean: float
    error: float | None  # standard error of `mean`
    seeds: tuple[int, int]  # in the first group, in the second
    paired: bool
    spread: float | None  # standard deviation of the difference between one seed of each
    freedom: float | None  # degrees of freedom
    freedom_a_seed: float  # of n seeds in each group there are (n - 1) times as many
    confidence: float = CONFIDENCE  # of the interval; higher where several differences are judged together
    adjusted: float | None = None  # p, corrected for the differences judged together

    @property
    def half_width(self) -> float | None:
        """Half of the interval around `mean`."""
        if self.error is None or self.freedom is None:
            return None
        return quantile(self.freedom, self.confidence) * self.error

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.half_width is not None and abs(self.mean) > self.half_width

    @property
    def p(self) -> float | None:
        """How often chance alone gives so large a difference, or a larger one, of either sign; None with one seed."""
        if self.error is None or self.freedom is None:
            return None
        if self.error == 0:
            return 0.0 if self.mean else 1.0
        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.error))


def together(differences: Sequence[Difference]) -> list[Difference]:
    """The same, judged together by Holm's procedure: by chance alone any is shown in at most 1 of 20 families.

    The smallest p of m is held against 5 %/m, the next against 5 %/(m - 1), and so on until one fails, against whose
    limit all further ones are held. Each interval has the confidence at which its difference was judged, so that it
    leaves zero out where Holm's procedure rejects, and only there. One of one seed a group takes no part.
    """
    made = list(differences)
    ordered = sorted((p, index) for index, each in enumerate(differences) if (p := each.p) is not None)
    adjusted, level = 0.0, 1 - CONFIDENCE
    for rank, (p, index) in enumerate(ordered):
        left = len(ordered) - rank
        if adjusted <= 1 - CONFIDENCE:  # none has failed
            level = (1 - CONFIDENCE) / left
        adjusted = min(max(adjusted, left * p), 1.0)
        made[index] = replace(differences[index], confidence=1 - level, adjusted=adjusted)
    return made


def quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """Half of an interval's width in standard errors."""
    return float(stdtrit(freedom, (1 + confidence) / 2))


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean of `values`; None if there are fewer than two."""
    if len(values) < 2:
        return None
    return quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def paired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """`first` less `second`, values of the same seeds in the same order."""
    each = [a - b for a, b in zip(first, second, strict=True)]
    mean, count = statistics.fmean(each), len(each)
    if count < 2:
        return Difference(mean, None, (count, count), True, None, None, 1.0)
    spread = statistics.stdev(each)
    if mean and spread <= ALIKE * abs(mean):
        return Difference(mean, None, (count, count), True, 0.0, None, 1.0)
    return Difference(mean, spread / math.sqrt(count), (count, count), True, spread, count - 1.0, 1.0)


def unpaired(first: Sequence[float], second: Sequence[float]) -> Difference:
    """`first` less `second`, values of seeds that have nothing to do with each other, by Welch's t.

    Of 2 seeds beside 10 its interval would leave the truth out in up to 12 of 100 cases, of 3 beside 10 in 7. Where a
    group of 2 or 3 meets one half as large again, t has the degrees of freedom of the smaller, and leaves it out in 5
    at most; elsewhere Welch's does in up to 6.
    """
    mean = statistics.fmean(first) - statistics.fmean(second)
    seeds = (len(first), len(second))
    if min(seeds) < 2:
        return Difference(mean, None, seeds, False, None, None, 2.0)
    variances = statistics.variance(first), statistics.variance(second)
    spread = math.sqrt(sum(variances))
    if spread == 0:  # no seed differs from another
        return Difference(mean, None if mean else 0.0, seeds, False, 0.0, None if mean else sum(seeds) - 2.0, 2.0)
    errors = [variance / count for variance, count in zip(variances, seeds, strict=True)]
    freedom = sum(errors) ** 2 / sum(error**2 / (count - 1) for error, count in zip(errors, seeds, strict=True))
    if min(seeds) < FEW and 2 * max(seeds) >= 3 * min(seeds):
        freedom = min(seeds) - 1.0
    a_seed = sum(variances) ** 2 / sum(variance**2 for variance in variances)
    return Difference(mean, math.sqrt(sum(errors)), seeds, False, spread, freedom, a_seed)


def power(effect: float, found: Difference, seeds: int) -> float:
    """The chance that `seeds` seeds in each group show a true difference of `effect`, at the spread of `found`."""
    assert found.spread, "a spread that was measured"
    freedom = found.freedom_a_seed * (seeds - 1)
    shift, limit = abs(effect) / found.spread * math.sqrt(seeds), quantile(freedom, found.confidence)
    # SciPy gives NaN for tails that are below its rounding.
    below, beyond = (0.0 if math.isnan(tail := nctdtr(freedom, shift, at)) else tail for at in (limit, -limit))
    return float(1 - below + beyond)


def seeds_needed(effect: float, found: Difference) -> int | None:
    """The fewest seeds in each group that show a true difference of `effect` in four of five tries.

    None: more than MOST_SEEDS, or no spread was measured.
    """
    if not found.spread or not effect:
        return None
    normal = statistics.NormalDist()
    least = ((normal.inv_cdf((1 + found.confidence) / 2) + normal.inv_cdf(POWER)) * found.spread / abs(effect)) ** 2
    if least > MOST_SEEDS:
        return None
    # The t distribution asks for more than the normal one, and by few: from there on upwards.
    seeds = max(2, math.floor(least))
    while power(effect, found, seeds) < POWER:
        seeds += 1
    return seeds


def detectable(found: Difference) -> float | None:
    """The smallest true difference that as many seeds show in four of five tries, at the spread of `found`.

    None: no spread was measured.
    """
    if not found.spread:
        return None
    seeds = min(found.seeds)
    low, high = 0.0, found.spread
    while power(high, found, seeds) < POWER:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, found, seeds) < POWER else (low, middle)
    return high

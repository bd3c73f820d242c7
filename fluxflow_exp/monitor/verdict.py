"""What a step's held-out losses say about its length, in one sentence."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

FEWEST = 5  # evaluations that a trend is told by: of fewer, all in order are no rarity
SURE = 1.96  # standard deviations; without a trend a statement comes once in forty
LEAST = 1e-3  # relative change that matters, as for a plateau
SPENT = 0.2  # of its highest learning rate: what a schedule leaves at its end, a tenth or less, and no single drop does
# A flow's loss turns when it begins to know its pictures by heart, while what it draws may go on getting better
# (docs/benchmarks/styles.md, "Half an hour, and learning by heart").
RISEN = {
    "val_flow": "more data or augmentation, not more time, lowers it; which publish.weights draws best, measuring tells"
}
FAR = 5.0  # deviations that the last of few values must lie above the lowest; noise does so in at most one course in 25


def verdict(points: Sequence[tuple[int, float]], *, metric: str, rate: float = 1.0) -> str:
    """Say whether a step was too long, too short or neither.

    `points`: (update, held-out loss), at least one; update 0 is a model that was there before. `rate`: the last
    update's, as a share of the highest.
    A trend is told from noise by the order of values alone (Mann 1945; Kendall 1975). The loss has risen when the
    values after the lowest one rise: without a trend their order is random, wherever the lowest one stands. Where the
    lowest is followed by too few for that, by two at least, the last must lie far above it. It is
    falling when those of the last third, at least five, fall, the lowest one is among them, and they have come down
    by a thousandth. Where it still falls while the learning rate runs out, going on has no rate to go on with.
    """
    updates, losses = [update for update, _ in points], [loss for _, loss in points]
    at, last = losses.index(min(losses)), updates[-1]
    where = f"at update {updates[at]:,} of {last:,}" if updates[at] else f"before the first of {last:,} updates"
    low = f"held-out loss ({metric}) was lowest {where}"
    if len(points) < FEWEST:
        return f"{low}; {len(points)} evaluation{'s are' if len(points) > 1 else ' is'} too few to say more"
    tail = losses[-max(FEWEST, len(losses) // 3) :]
    if _rises(losses, at) and _matters(losses[at], losses[-1]):
        return f"{low} and has risen since: {RISEN.get(metric, 'more data, not more time')}"
    if trend(tail) < -SURE and min(tail) == losses[at] and _matters(tail[-1], tail[0]):
        falling = f"held-out loss ({metric}) was still falling at update {last:,}"
        if rate < SPENT:
            left = f"the learning rate has run out ({rate:.2g} of its highest)"
            return f"{falling}, where {left}: a longer schedule may pay"
        return f"{falling}: longer pays"
    return f"{low} and hardly moves any more: longer brings little"


def rate_left(rates: Sequence[Mapping[str, float]]) -> float:
    """Share of its highest that the last of `rates` (player → learning rate) is; of several players the largest."""
    highest = {name: max(each.get(name, 0.0) for each in rates) for name in rates[-1]} if rates else {}
    return max((rates[-1][name] / most for name, most in highest.items() if most > 0), default=1.0)


def trend(values: Sequence[float]) -> float:
    """Mann and Kendall's statistic in standard deviations, above 0 if `values` rise; 0 of fewer than FEWEST."""
    count = len(values)
    if count < FEWEST:
        return 0.0
    rises = sum((later > earlier) - (later < earlier) for earlier, later in combinations(values, 2))
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return (rises - math.copysign(1, rises)) / deviation if rises else 0.0  # less one: for continuity


def _rises(losses: list[float], lowest: int) -> bool:
    after = losses[lowest + 1 :]
    if len(after) >= FEWEST:
        return trend(after) > SURE
    return len(after) > 1 and losses[-1] - losses[lowest] > FAR * roughness(losses)


def roughness(values: Sequence[float]) -> float:
    """Deviation of the noise on a smooth course, at most: of each value from the mean of its two neighbours."""
    apart = [b - (a + c) / 2 for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return math.sqrt(sum(x * x for x in apart) / len(apart) / 1.5)  # σ² and twice σ²/4 make 1.5 σ²


def _matters(lower: float, higher: float) -> bool:
    return higher - lower > LEAST * abs(lower)

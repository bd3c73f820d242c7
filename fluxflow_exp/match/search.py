"""Search for whole-numbered widths at which a model's cost equals a target.

All widths are first scaled together along a secant of log cost over log scale, in coarse steps. Then they change one by
one: the cost of one step of each is found out, and the combination of steps whose predicted cost is nearest is tried,
in coarse steps first and in finer ones only where those do not reach the tolerance.
"""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

Widths = tuple[int, ...]

SCALINGS = 8  # tries of all widths together
REACH = 4  # steps that a width goes either way at a time
TRIES = 6  # of the most promising combinations, at each size of step
STRETCH = 1.3  # how much more than another one a width may grow: proportions are part of a model
SURE = 0.5  # of the tolerance: predicted to be as near, widths are chosen for their proportions alone


@dataclass(frozen=True)
class Space:
    """Where to search: `start`, the sizes of steps of each width from coarse to fine, and what is a model at all."""

    start: Widths
    steps: tuple[Widths, ...]
    allowed: Callable[[Widths], bool]

    def scaled(self, factor: float) -> Widths:
        """The allowed widths nearest to `factor` times those of the start, in coarse steps; the start has factor 1."""
        if factor == 1:
            return self.start
        wanted = [factor * width for width in self.start]
        for steps in self.steps:
            base = tuple(step * max(round(each / step), 1) for each, step in zip(wanted, steps, strict=True))
            near = list(self.around(base, steps))
            if near:
                return min(near, key=lambda widths: _distance(widths, wanted))
        return self.start

    def around(self, base: Widths, steps: Widths) -> Iterator[Widths]:
        """Widths that are admitted within `REACH` steps of `base`."""
        for moves in product(range(-REACH, REACH + 1), repeat=len(base)):
            widths = tuple(b + m * s for b, m, s in zip(base, moves, steps, strict=True))
            if min(widths) > 0 and self.admits(widths):
                yield widths

    def admits(self, widths: Widths) -> bool:
        grown = [width / first for width, first in zip(widths, self.start, strict=True)]
        return max(grown) <= STRETCH * min(grown) and self.allowed(widths)


@dataclass(frozen=True)
class Found:
    widths: Widths
    cost: float
    tried: int  # models

    def off(self, target: float) -> float:
        """Relative difference from `target`."""
        return self.cost / target - 1


def search(space: Space, cost: Callable[[Widths], float], target: float, *, tolerance: float) -> Found:
    """The first widths whose `cost` is `target` to within `tolerance` (relative), else the nearest of those tried."""
    known: dict[Widths, float] = {}

    def ask(widths: Widths) -> float:
        if widths not in known:
            known[widths] = cost(widths)
        return known[widths]

    def best() -> Widths:
        return min((each for each in known if space.admits(each)), key=lambda each: _off(known[each], target))

    _scale(space, ask, target, tolerance)
    for steps in space.steps:
        if _off(known[best()], target) <= tolerance:
            break
        _adjust(space, steps, best(), ask, target, tolerance)
    found = best()
    return Found(found, known[found], len(known))


def _scale(space: Space, ask: Callable[[Widths], float], target: float, tolerance: float) -> None:
    factor, power = 1.0, 2.0  # of convolutions and matrix products between two layers that both grow
    before: tuple[float, float] | None = None
    last: Widths | None = None
    for _ in range(SCALINGS):
        widths = space.scaled(factor)
        if widths == last:
            return
        value, last = ask(widths), widths
        if _off(value, target) <= tolerance:
            return
        if before and before[0] != factor and before[1] != value:
            slope = math.log(value / before[1]) / math.log(factor / before[0])
            power = min(max(slope, 0.5), 3.0)
        before = factor, value
        factor *= (target / value) ** (1 / power)


def _adjust(
    space: Space, steps: Widths, base: Widths, ask: Callable[[Widths], float], target: float, tolerance: float
) -> None:
    here = ask(base)
    slopes = []  # of the cost's logarithm, a channel
    for index, step in enumerate(steps):
        moved = tuple(width + step * (place == index) for place, width in enumerate(base))
        slopes.append(math.log(ask(moved) / here) / step)

    def promise(widths: Widths) -> tuple[float, float]:
        moves = (width - b for width, b in zip(widths, base, strict=True))
        predicted = math.log(here / target) + sum(m * slope for m, slope in zip(moves, slopes, strict=True))
        return max(abs(predicted) - SURE * tolerance, 0), _distortion(widths, space.start)

    for widths in sorted(space.around(base, steps), key=promise)[:TRIES]:
        if _off(ask(widths), target) <= tolerance:
            return


def _off(value: float, target: float) -> float:
    return abs(value / target - 1)


def _distance(widths: Widths, wanted: list[float]) -> float:
    return sum(math.log(width / want) ** 2 for width, want in zip(widths, wanted, strict=True))


def _distortion(widths: Widths, start: Widths) -> float:
    """How far `widths` are from the start's proportions."""
    return statistics.pvariance([math.log(width / first) for width, first in zip(widths, start, strict=True)])

"""Equal time, as measured: a prediction is good enough to search by, not to hold studies to.

The search equates work (TFLOP an update); what is found is timed here, and the work that is aimed at is corrected by
the times seen so far, along a secant of log time over log work, until the times are equal.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

Timer = Callable[[int], list[float]]  # how many updates → the seconds of each

ROUNDS = 6
BLOCK = 5  # updates of one model, then as many of the other: both meet the same machine
LEAP = 1.5  # how many times more or less work a round asks for than the one before, at most


@dataclass(frozen=True)
class Timing:
    """Candidate against reference, over blocks of updates that alternate."""

    reference: float  # median seconds of an update
    candidate: float
    ratio: float  # median over blocks of the candidate's median to the reference's
    low: float  # its quartiles
    high: float
    updates: int  # of each

    def __str__(self) -> str:
        return (
            f"{1000 * self.candidate:.4g} ms an update, the reference {1000 * self.reference:.4g} ms: "
            f"{self.ratio - 1:+.2%} (middle half of {self.updates // BLOCK} blocks {self.low - 1:+.2%} to "
            f"{self.high - 1:+.2%})"
        )


@dataclass(frozen=True)
class Round:
    work: float  # of the model, relative to the reference's
    timing: Timing


def alternate(reference: Timer, candidate: Timer, *, updates: int) -> Timing:
    """Time `updates` updates of each, in blocks by turns."""
    blocks = [(reference(BLOCK), candidate(BLOCK)) for _ in range(max(updates // BLOCK, 2))]
    ratios = [statistics.median(second) / statistics.median(first) for first, second in blocks]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    first, second = (statistics.median(time for block in blocks for time in block[side]) for side in (0, 1))
    return Timing(first, second, ratio, low, high, BLOCK * len(blocks))


def rounds(find: Callable[[float], float], measure: Callable[[], Timing], *, tolerance: float) -> list[Round]:
    """Rounds until the times are equal to within `tolerance` (relative), the nearest one last.

    `find` takes the work to aim at, relative to the reference's, makes the nearest model the present one and gives its
    work; `measure` times that. A model that was timed before ends the search: nothing nearer is to be found.
    """
    made: list[Round] = []
    aim = 1.0
    for _ in range(ROUNDS):
        work = find(aim)
        if any(work == each.work for each in made):
            break
        made.append(Round(work, measure()))
        ratio = made[-1].timing.ratio
        if abs(ratio - 1) <= tolerance:
            break
        step = ratio ** (-1 / _power(made))
        aim = work * min(max(step, 1 / LEAP), LEAP)
    return sorted(made, key=lambda each: -abs(each.timing.ratio - 1))


def _power(made: list[Round]) -> float:
    """The exponent of time in work, from the last two rounds; 1 where they do not tell."""
    if len(made) < 2 or made[-1].work == made[-2].work:
        return 1.0
    (first, second) = made[-2:]
    slope = math.log(second.timing.ratio / first.timing.ratio) / math.log(second.work / first.work)
    return min(max(slope, 0.3), 4.0)

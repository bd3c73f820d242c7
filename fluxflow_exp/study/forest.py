"""The forest plot of an outcome: a row an arm, its difference from the reference and the interval, along one axis.

Places are per cent of the plot's width, so that the page's plot needs no scripts and scales with the window.
"""

import math
from dataclasses import dataclass

from fluxflow_exp.compare.pairs import plain
from fluxflow_exp.monitor.metrics import unit
from fluxflow_exp.study import sentences
from fluxflow_exp.study.answer import Outcome, StudyAnswer
from fluxflow_exp.study.sentences import Verdict

TICKS = 3  # as many or a few more
MARGIN = 0.06  # of the width at each end


@dataclass(frozen=True)
class Row:
    arm: str
    verdict: Verdict
    mean: float | None  # place; None: there is no difference
    low: float | None
    high: float | None
    difference: str  # in words, with its unit
    interval: str
    seeds: str


# One field for each thing that is drawn.
@dataclass(frozen=True)
class Forest:
    title: str
    rows: list[Row]
    zero: float
    small: tuple[float, float] | None  # the places of the smallest difference worth seeing, either way
    ticks: list[tuple[float, str]]
    left: str  # what a place left of zero means
    right: str

    @property
    def grid(self) -> list[float]:
        return [place for place, _ in self.ticks]


def forest(answer: StudyAnswer, outcome: Outcome) -> Forest:
    """All arms but the reference; one without a value has a row that says so."""
    low, high = _range(outcome)

    def place(value: float) -> float:
        return round(100 * (value - low) / (high - low), 3)

    rows = []
    for arm in answer.arms[1:]:
        found = sentences.found_of(outcome, arm.name)
        ends = (found.low, found.high) if found else (None, None)
        rows.append(
            Row(
                arm=arm.name,
                verdict=sentences.verdict(outcome, found),
                mean=place(found.mean) if found else None,
                low=None if ends[0] is None else place(ends[0]),
                high=None if ends[1] is None else place(ends[1]),
                difference=sentences.signed(found, outcome.metric) if found else "-",
                interval=sentences.interval(found, outcome.metric) if found else "none",
                seeds=sentences.seeds(found) if found else "no finished run",
            )
        )
    small = (place(-outcome.smallest), place(outcome.smallest)) if outcome.smallest else None
    other = answer.arms[1].name if len(answer.arms) == 2 else "the arm"
    sides = (f"{answer.reference.name} better", f"{other} better")
    left, right = sides if outcome.higher else (sides[1], sides[0])
    named = sentences.title(outcome.metric)
    of = f"{named} ({symbol})" if (symbol := unit(outcome.metric)) else named
    ticks = [(place(value), text) for value, text in _ticks(low, high)] if outcome.differences else []
    return Forest(of, rows, place(0.0), small, ticks, left, right)


def _range(outcome: Outcome) -> tuple[float, float]:
    """The ends of the axis: zero, all intervals, and the smallest difference worth seeing."""
    values = [0.0, *(each for found in outcome.differences for each in (found.mean, found.low, found.high) if each)]
    if outcome.smallest:
        values += [-outcome.smallest, outcome.smallest]
    low, high = min(values), max(values)
    if low == high:
        return -1.0, 1.0
    margin = MARGIN * (high - low)
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round numbers, of which zero is one."""
    power = 10 ** math.floor(math.log10(high - low))
    steps = [each * power for each in (5, 2, 1, 0.5, 0.2)]
    step = next(each for each in steps if math.floor(high / each) - math.ceil(low / each) + 1 >= TICKS)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [(step * n, plain(step * n, 10 * step) if n else "0") for n in range(first, last + 1)]

"""Groups of runs at equal budget, their differences, and one honest sentence for each."""

import math
import statistics
from dataclasses import dataclass
from itertools import combinations

from fluxflow_exp.compare.curves import BUDGETS, Band, Curve
from fluxflow_exp.compare.differences import Found
from fluxflow_exp.compare.runs import Run
from fluxflow_exp.compare.significance import (
    MOST_SEEDS,
    Difference,
    half_width,
    paired,
    seeds_needed,
    together,
    unpaired,
)
from fluxflow_exp.monitor.metrics import unit


@dataclass(frozen=True)
class Question:
    """The question of a comparison: values of `by`, a held-out metric, and the budget that is equal."""

    by: str
    metric: str
    budget: str
    higher: bool  # whether more of the metric is better
    effect: float | None  # difference whose number of seeds is asked for; None: the observed one
    only_reference: bool = False  # whether the other groups are compared with the reference alone

    @property
    def unit(self) -> str:
        return f" {found}" if (found := unit(self.metric)) else ""


@dataclass(frozen=True)
class Group:
    name: str
    runs: list[Run]  # by seed
    values: list[float]  # of the runs, at the equal budget
    ends: list[float]  # budgets that the runs reached
    band: Band

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def half_width(self) -> float | None:
        return half_width(self.values)

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Pair:
    reference: str
    other: str
    difference: Difference  # other less reference
    needed: int | None  # seeds in each group that would show the effect
    sentence: str


@dataclass(frozen=True)
class Comparison:
    question: Question
    at: float  # the equal budget
    groups: list[Group]  # the reference first
    pairs: list[Pair]
    found: Found
    notes: list[str]
    curves: dict[str, Curve]  # by run

    @property
    def judged(self) -> int:
        """How many pairs have an interval, and were judged together."""
        return sum(pair.difference.half_width is not None for pair in self.pairs)


def pairs(groups: list[Group], question: Question) -> list[Pair]:
    """The second less the first of every two groups, or of the reference and each other one; judged together."""
    chosen = [each for each in combinations(groups, 2) if not question.only_reference or each[0] is groups[0]]
    differences = together([difference(first, second) for first, second in chosen])
    judged = sum(each.half_width is not None for each in differences)
    return [
        pair(first, second, each, question, judged) for (first, second), each in zip(chosen, differences, strict=True)
    ]


def difference(reference: Group, other: Group) -> Difference:
    """`other` less `reference`: paired where both have the same seeds."""
    return (paired if reference.seeds == other.seeds else unpaired)(other.values, reference.values)


def pair(reference: Group, other: Group, found: Difference, question: Question, judged: int) -> Pair:
    """`judged`: how many pairs were judged together."""
    effect = question.effect if question.effect is not None else abs(found.mean)
    needed = seeds_needed(effect, found)
    interval = f"95 % interval{f', Holm-corrected for {judged} pairs,' if judged > 1 else ''}"
    sentence = _sentence(reference.name, other.name, found, needed, question, interval)
    return Pair(reference.name, other.name, found, needed, sentence)


def plain(value: float, scale: float) -> str:
    """`value` with two digits of what is `scale` large."""
    decimals = 2 if scale <= 0 else min(max(1 - math.floor(math.log10(scale)), 0), 10)
    shown = f"{value:.{decimals}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown


def precision(lead: float, low: float, high: float) -> float:
    """The `scale` at which `plain` shows a difference and the ends of its interval, not all of which are zero.

    Two digits of the interval, and one of whatever is smaller: no end may look like zero that is not.
    """
    smallest = min(10 * abs(each) for each in (lead, low, high) if each)
    return min((high - low) / 2 or abs(lead), max(smallest, abs(lead) / 1000))


def reached(comparison: Comparison) -> str:
    """The equal budget in words."""
    budget = comparison.question.budget
    at = f"{comparison.at:,.6g} {BUDGETS[budget]}"
    return f"{at}, parameters alike" if budget == "params" else at


def _sentence(
    reference: str, other: str, found: Difference, needed: int | None, question: Question, interval: str
) -> str:
    wins = (found.mean > 0) == question.higher
    winner, loser = (other, reference) if wins else (reference, other)
    lead, unit, seeds = abs(found.mean), question.unit, _seeds(found)
    if found.half_width is None:
        ahead = (
            f"{winner} is ahead of {loser} by {plain(lead, lead)}{unit}"
            if lead
            else f"{reference} and {other} are equal"
        )
        why = "which takes two seeds of each" if found.spread is None else "since all seeds differ alike"
        return f"{ahead} ({seeds}: no interval, {why}; this may be chance)"
    if not found.half_width and not lead:
        return f"{reference} and {other} are equal to the last digit ({seeds})"
    ends = lead - found.half_width, lead + found.half_width
    scale = precision(lead, *ends)
    low, high = (plain(end, scale) for end in ends)
    by = f"{plain(lead, scale)}{unit}"
    if found.shown:
        return f"{winner} is better than {loser} by {by} ({interval} {low} to {high}, {seeds})"
    return (
        f"{reference} and {other} are not distinguishable at {seeds} ({winner} is ahead by {by}, "
        f"{interval} {low} to {high}); {_would_show(found, needed, question, by)}"
    )


def _would_show(found: Difference, needed: int | None, question: Question, observed: str) -> str:
    """`observed`: the difference as the sentence gives it."""
    if question.effect is None and not found.mean:
        return "no difference was observed to count seeds for: name one with --effect"
    asked = question.effect
    of = f"a difference of {observed if asked is None else f'{plain(asked, asked)}{question.unit}'}"
    if needed is None:
        return f"more than {MOST_SEEDS:,} would be needed to show {of}"
    if needed <= min(found.seeds):
        return f"these would have shown {of} in four of five tries"
    return f"about {needed} of each would show {of} in four of five tries"


def _seeds(found: Difference) -> str:
    first, second = found.seeds  # the other's, the reference's
    if found.paired:
        return f"{first} paired seed{'s' if first > 1 else ''}"
    return f"{second} and {first} seeds, not paired"

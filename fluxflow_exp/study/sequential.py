"""How many seeds a study takes: what differences of few seeds show, when to stop, and how many seeds would be needed.

All is computed from paired differences, an arm's value less the reference's with the same seed. With `seeds: auto`
they are looked at after every seed from the third on, with limits for |t| (`boundary.py`) that chance alone exceeds at
any look of any arm in at most 5 % of studies: an arm of m has 5 %/m (Bonferroni). The intervals cover all true
differences together in 95 % of studies, at whatever seed and for whatever reason one stops. They hold for normal
differences; docs/decisions/0019-seeds-are-added-by-a-t-boundary.md says what happens with others.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import chdtri, nctdtr, stdtr

from fluxflow_exp.compare import significance
from fluxflow_exp.compare.significance import CONFIDENCE, POWER, Difference
from fluxflow_exp.config.bounds import Fraction, NonNegativeInt, PositiveFloat, PositiveInt
from fluxflow_exp.errors import UserError
from fluxflow_exp.study.boundary import FIRST, limit

MOST_SEEDS = 300  # beyond it nobody asks for the exact number
Verdict = Literal["higher", "lower", "smaller", "open"]


@dataclass(frozen=True)
class Judged:
    """What the seeds so far say of an arm."""

    difference: Difference  # its interval is right at any look; none: fewer than 3 seeds, or all differ alike
    verdict: Verdict  # "smaller": than the smallest worth seeing, in either direction; "open": nothing is shown yet
    needed: int | None  # seeds that would show the smallest difference, else that observed; None: no telling, or many
    between: tuple[int | None, int | None] = (None, None)  # the same as these seeds know the spread, to 80 %

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        half = self.difference.half_width
        return None if half is None else self.difference.mean - half

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        half = self.difference.half_width
        return None if half is None else self.difference.mean + half


@dataclass(frozen=True)
class Decision:
    """Whether a study of `seeds: auto` goes on, and with which arms."""

    stop: bool
    reason: str  # why there are no more seeds, else what is known of each arm; without a full stop
    arms: dict[str, Judged]
    undecided: list[str]  # arms that further seeds are for, beside the reference
    needed: int | None  # seeds for the last of these, as in `Judged`


def decide(
    differences: Mapping[str, Sequence[float]],
    *,
    smallest_difference: PositiveFloat | None = None,
    seeds_left: NonNegativeInt | None = None,
    failed: Collection[str] = (),
) -> Decision:
    """Say whether to train another seed of the reference and of the arms still undecided.

    `differences`: every arm of the study but the reference → values of its seeds, in any order; arms may have
    different numbers of them, also none. All count, since the error is shared among them.
    `smallest_difference`: the smallest one worth seeing, in the outcome's unit; without it an arm is decided only by
    a shown difference. `seeds_left`: how many further seeds the budget pays for; None: any number. `failed`: arms of
    which a run has failed. That is their answer, and further seeds of those that do not fail would flatter them; they
    go on to count among those that share the error.
    UserError: a value is not finite, or nothing would ever end the study.
    """
    if smallest_difference is None and seeds_left is None:
        raise UserError("seeds: auto ends by smallest_difference or by budget: give one of them")
    arms = judge(differences, smallest_difference=smallest_difference)
    undecided = [arm for arm, judged in arms.items() if judged.verdict == "open" and arm not in failed]
    needs = [arms[arm].needed for arm in undecided]
    needed = max((each for each in needs if each is not None), default=None) if None not in needs else None
    stop, reason = _stops(arms, undecided, seeds_left, smallest_difference, failed)
    return Decision(stop, reason, arms, undecided, needed)


def judge(
    differences: Mapping[str, Sequence[float]],
    *,
    smallest_difference: PositiveFloat | None = None,
    sequential: bool = True,
) -> dict[str, Judged]:
    """What the seeds say of each arm.

    `sequential` is off where the number of seeds was fixed before the first: intervals are then those of
    `fluxflow_exp.compare`, narrower, and wrong for a study that stopped because of what it saw.
    UserError: a value is not finite.
    """
    for arm, values in differences.items():
        if not all(math.isfinite(value) for value in values):
            raise UserError(
                f"arm {arm}: of its differences from the reference, {list(values)}, one is no finite number"
            )
    found = {arm: _paired(values) for arm, values in differences.items() if len(values)}
    level = (1 - CONFIDENCE) / max(1, len(differences))
    if sequential:
        found = {arm: _at_a_look(each, level) for arm, each in found.items()}
    else:
        found = dict(zip(found, significance.together(list(found.values())), strict=True))
    judged = {}
    for arm in differences:
        each = found.get(arm, Difference(0.0, None, (0, 0), True, None, None, 1.0))
        effect = smallest_difference or each.mean
        few, needed, many = (
            seeds_needed(effect, likely, level) if sequential else significance.seeds_needed(effect, likely)
            for likely in (replace(each, spread=spread_at(each, share)) for share in (0.1, 0.5, 0.9))
        )
        judged[arm] = Judged(each, _verdict(each, smallest_difference), needed, (few, many))
    return judged


def seeds_needed(effect: float, found: Difference, level: float = 1 - CONFIDENCE) -> int | None:
    """The fewest seeds, looked at one by one, that show a true difference of `effect` in four of five tries.

    It is the number by which the last look alone has that power, so that a study is often shorter. None: more than
    MOST_SEEDS, or no spread was measured.
    """
    if not found.spread or not effect or found.freedom is None:
        return None
    normal = statistics.NormalDist()
    ratio = abs(effect) / found.spread
    seeds = max(FIRST, math.floor(((normal.inv_cdf(1 - level / 2) + normal.inv_cdf(POWER)) / ratio) ** 2))
    while seeds <= MOST_SEEDS:
        missed = nctdtr(seeds - 1, ratio * math.sqrt(seeds), limit(seeds, level))
        if not missed > 1 - POWER:  # SciPy gives NaN for tails that are below its rounding
            return seeds
        seeds += 1
    return None


def spread_at(found: Difference, share: Fraction) -> float | None:
    """The spread that the true one is below with a confidence of `share`; None: none was measured.

    At 0.5 it is as likely too large as too small. The standard deviation of few seeds is more often too small: that
    of three by a sixth, in the middle.
    """
    if not found.spread or found.freedom is None:
        return None
    return float(found.spread * math.sqrt(found.freedom / chdtri(found.freedom, share)))


def sentence(judged: Judged, *, smallest_difference: PositiveFloat | None = None) -> str:
    """Such as "3 seeds: spread 0.012; 37 seeds (13 to 289) would show a difference of 0.01 with power 0.8".

    The range is what 3 seeds know of the spread.
    """
    found = judged.difference
    count = _seeds(found.seeds[0])
    if not found.spread or found.freedom is None:
        return f"{count}: {'no spread' if found.spread == 0 else 'too few to tell the spread'}"
    effect = abs(smallest_difference or found.mean)
    of = f"a difference of {effect:.2g}" if smallest_difference else f"the difference seen, {effect:.2g},"
    few, needed, many = (
        f"more than {MOST_SEEDS}" if each is None else f"{each}"
        for each in (judged.between[0], judged.needed, judged.between[1])
    )
    between = "" if few == many else f" ({few} to {many})"
    return f"{count}: spread {found.spread:.2g}; {needed} seeds{between} would show {of} with power {POWER}"


def _paired(values: Sequence[float]) -> Difference:
    found = significance.paired(values, [0.0] * len(values))
    return replace(found, error=None, freedom=None) if found.spread == 0 else found  # alike, also if all are zero


def _at_a_look(found: Difference, level: float) -> Difference:
    """`found` with the interval of this look."""
    seeds = found.seeds[0]
    if seeds < FIRST or found.freedom is None:
        return replace(found, error=None, freedom=None)
    return replace(found, confidence=float(1 - 2 * stdtr(found.freedom, -limit(seeds, level))))


def _verdict(found: Difference, smallest_difference: float | None) -> Verdict:
    half = found.half_width
    if half is None:
        return "open"
    if abs(found.mean) > half:
        return "higher" if found.mean > 0 else "lower"
    # An interval narrower than `smallest_difference` is always at one of these ends: it is narrow enough.
    if smallest_difference is not None and abs(found.mean) + half < smallest_difference:
        return "smaller"
    return "open"


def _stops(
    arms: Mapping[str, Judged],
    undecided: Sequence[str],
    seeds_left: int | None,
    smallest_difference: float | None,
    failed: Collection[str],
) -> tuple[bool, str]:
    if not undecided:
        lost = ", ".join(arm for arm in arms if arm in failed)
        others = "every other arm is decided" if len(failed) < len(arms) else "no other arm is left"
        return True, f"runs of {lost} failed; {others}" if lost else "every arm is decided"
    names = ", ".join(undecided)
    if seeds_left == 0:
        return True, f"the budget pays for no further seed; undecided: {names}"
    found = [arms[arm].difference for arm in undecided]
    if all(each.seeds[0] >= FIRST and each.spread == 0 for each in found):
        way = "give a number of seeds, or an outcome in finer steps"
        return True, f"all seeds of {names} differ alike from the reference, which tells nothing of chance: {way}"
    said = [
        f"{arm} {'has failed' if arm in failed else _said(each, smallest_difference)}" for arm, each in arms.items()
    ]
    return False, said[0] if len(said) == 1 else "".join(f"\n  {each}" for each in said)


def _said(judged: Judged, smallest_difference: float | None) -> str:
    found = judged.difference
    seeds = _seeds(found.seeds[0])
    if judged.low is None or judged.high is None:
        if found.seeds[0] < FIRST:
            return f"is looked at after {FIRST} seeds, and has {found.seeds[0]}"
        return f"differs by {found.mean:.3g} in each of {seeds}"
    between = f"{judged.low:+.3g} to {judged.high:+.3g}"
    if judged.verdict == "open":
        return f"is undecided ({between}). {sentence(judged, smallest_difference=smallest_difference)}"
    if judged.verdict == "smaller":
        return f"differs by less than {smallest_difference:.3g} ({between}, {seeds})"
    return f"is {judged.verdict} by {abs(found.mean):.3g} ({between}, {seeds})"


def _seeds(count: PositiveInt) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"

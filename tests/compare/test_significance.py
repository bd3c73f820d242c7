"""Intervals against closed forms and simulation; numbers of seeds against the power that they promise."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.special import stdtrit

from fluxflow_exp.compare.significance import (
    Difference,
    detectable,
    half_width,
    paired,
    power,
    quantile,
    seeds_needed,
    together,
    unpaired,
)

TRIALS = 1000


def test_quantiles_have_their_closed_forms() -> None:
    # One degree of freedom is Cauchy's distribution, two have an algebraic quantile, many are normal.
    assert quantile(1) == pytest.approx(math.tan(math.pi * 0.475))
    assert quantile(2) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)))
    assert quantile(1e9) == pytest.approx(1.959964, abs=1e-6)


def test_a_paired_interval_is_students() -> None:
    found = paired([1.0, 3.0, 5.0], [0.0, 1.0, 2.0])  # differences 1, 2, 3
    assert (found.mean, found.spread, found.freedom) == (2.0, 1.0, 2.0)
    assert found.half_width == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3))
    assert not found.shown
    assert paired([2.0, 4.0, 6.0], [0.0, 1.0, 2.0]).shown  # 3 leaves zero out, 2 does not


def test_an_unpaired_interval_is_welchs() -> None:
    first, second = [1.0, 2.0, 3.0, 2.0], [10.0, 14.0, 10.0, 14.0, 12.0]  # variances 2/3 and 4
    found = unpaired(first, second)
    errors = 2 / 3 / 4 + 4 / 5
    assert found.mean == -10.0
    assert found.freedom == pytest.approx(errors**2 / ((2 / 3 / 4) ** 2 / 3 + (4 / 5) ** 2 / 4))
    assert found.freedom is not None
    assert found.half_width == pytest.approx(quantile(found.freedom) * math.sqrt(errors))


def test_few_seeds_beside_many_have_the_freedom_of_the_few() -> None:
    assert unpaired([1.0, 2.0], [5.0, 6.0, 8.0]).freedom == 1.0
    assert unpaired([1.0, 2.0, 4.0, 5.0, 6.0], [5.0, 6.0, 8.0]).freedom == 2.0
    assert 1.0 < (unpaired([1.0, 2.0], [5.0, 6.5]).freedom or 0.0) < 2.0  # about as many: Welch's
    assert 2.0 < (unpaired([1.0, 2.0, 4.0, 5.0], [5.0, 6.0, 8.0]).freedom or 0.0) < 5.0


def test_equal_variances_and_counts_make_welch_students_two_sample_interval() -> None:
    found = unpaired([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])
    assert found.freedom == pytest.approx(4.0)
    assert found.half_width == pytest.approx(quantile(4) * math.sqrt(2 / 3))


def test_intervals_and_p_values_are_those_of_scipys_t_tests() -> None:
    first, second = [20.1, 19.4, 21.3, 20.7], [19.9, 18.8, 20.2, 20.6]
    for found, known in (
        (paired(first, second), stats.ttest_rel(first, second)),
        (unpaired(first, second), stats.ttest_ind(first, second, equal_var=False)),
    ):
        assert found.half_width is not None
        low, high = known.confidence_interval()
        assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), rel=1e-12)
        assert (found.p, found.freedom) == pytest.approx((known.pvalue, known.df), rel=1e-12)


def test_one_seed_has_no_interval() -> None:
    for found in (paired([2.0], [1.5]), unpaired([2.0], [1.0, 2.0]), unpaired([2.0, 1.0], [1.0])):
        assert found.half_width is None
        assert not found.shown
        assert seeds_needed(1.0, found) is None
    assert half_width([2.0]) is None


def test_seeds_that_all_differ_alike_have_no_interval() -> None:
    for found in (
        paired([2.0, 3.0], [1.0, 2.0]),
        paired([0.3, 0.4, 0.5], [0.2, 0.3, 0.4]),  # alike but for rounding
        unpaired([1.0, 1.0], [2.0, 2.0]),
    ):
        assert (found.half_width, found.p, found.spread, found.shown) == (None, None, 0.0, False)
        assert together([found])[0].adjusted is None
        assert seeds_needed(1.0, found) is None
    for equal in (paired([1.0, 2.0], [1.0, 2.0]), unpaired([1.0, 1.0], [1.0, 1.0])):
        assert (equal.half_width, equal.p, equal.shown) == (0.0, 1.0, False)


@pytest.mark.parametrize("seeds", [2, 3, 4])
@pytest.mark.parametrize("step", [0.5, 1.0, 2.0])
def test_metrics_in_coarse_steps_are_shown_by_chance_in_at_most_1_of_20(seeds: int, step: float) -> None:
    draws = np.round(np.random.default_rng(seeds).normal(0, 1 / step, (TRIALS, 2, seeds)))
    shown = sum(paired(*trial).shown for trial in draws.tolist()) / TRIALS
    print(f"steps of {step}, {seeds} seeds: {shown:.1%}")
    assert shown <= 0.05 + 3 * (0.05 * 0.95 / TRIALS) ** 0.5


@pytest.mark.parametrize("few", [2, 3])
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_few_seeds_beside_many_are_shown_by_chance_in_at_most_1_of_20(few: int, spread: float) -> None:
    source = np.random.default_rng(few)
    draws = zip(
        source.normal(0, spread, (TRIALS, few)).tolist(), source.normal(0, 1, (TRIALS, 10)).tolist(), strict=True
    )
    shown = sum(unpaired(first, second).shown for first, second in draws) / TRIALS
    print(f"{few} seeds of spread {spread} beside 10: {shown:.1%}")
    assert shown <= 0.05 + 3 * (0.05 * 0.95 / TRIALS) ** 0.5


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_paired_intervals_of_nothing_cover_zero_in_95_of_100(seeds: int) -> None:
    source = np.random.default_rng(seeds)
    shared = source.normal(20, 1.0, (TRIALS, 1, seeds))  # what a seed does to both groups
    draws = shared + source.normal(0, 0.3, (TRIALS, 2, seeds))
    covered = sum(not paired(*trial).shown for trial in draws.tolist()) / TRIALS
    print(f"paired, {seeds} seeds: {covered:.1%}")
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("seeds", [(3, 3), (5, 4), (10, 5), (10, 10)])
def test_unpaired_intervals_of_nothing_cover_zero_in_95_of_100(seeds: tuple[int, int]) -> None:
    source = np.random.default_rng(seeds)
    # Spreads differ, as Welch allows and Student's two-sample interval does not.
    draws = [
        (source.normal(20, 1.0, seeds[0]).tolist(), source.normal(20, 2.0, seeds[1]).tolist()) for _ in range(TRIALS)
    ]
    covered = sum(not unpaired(*trial).shown for trial in draws) / TRIALS
    print(f"unpaired, {seeds} seeds: {covered:.1%}")
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("pairs", [True, False])
def test_the_seeds_that_are_named_show_a_planted_effect_at_the_stated_power(effect: float, pairs: bool) -> None:
    compare = paired if pairs else unpaired
    # A pilot whose spread is 1 exactly: of the differences, or of each group's 1/√2.
    side = [-math.sqrt(0.5), 0.0, math.sqrt(0.5)] if not pairs else [-1.0, 0.0, 1.0]
    pilot = compare(side, [0.0, 0.0, 0.0] if pairs else side)
    assert pilot.spread == pytest.approx(1.0)
    needed = seeds_needed(effect, pilot)
    assert needed is not None
    assert power(effect, pilot, needed) >= 0.8
    assert needed == 2 or power(effect, pilot, needed - 1) < 0.8
    source = np.random.default_rng(7)
    draws = source.normal(0, math.sqrt(0.5), (TRIALS, 2, needed))
    draws[:, 0] += effect
    seen = sum(compare(*trial).shown for trial in draws.tolist()) / TRIALS
    stated = power(effect, pilot, needed)
    print(f"{compare.__name__}, effect {effect}: {needed} seeds, stated {stated:.1%}, seen {seen:.1%}")
    assert seen == pytest.approx(stated, abs=0.04)


def test_differences_judged_together_have_the_p_values_of_holm() -> None:
    # Of p = 0.01, 0.04, 0.03 Holm's are 0.03, 0.06, 0.06: the first is shown, at 0.05/3; 0.03 fails at 0.05/2.
    found = together([_with_p(each) for each in (0.01, 0.04, 0.03)])
    assert [each.adjusted for each in found] == pytest.approx([0.03, 0.06, 0.06])
    assert [each.shown for each in found] == [True, False, False]
    assert [1 - each.confidence for each in found] == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2])
    assert [each.p for each in found] == pytest.approx([0.01, 0.04, 0.03])


def test_one_difference_is_judged_as_if_alone_and_one_seed_takes_no_part() -> None:
    alone = _with_p(0.04)
    (same, without) = together([alone, paired([1.0], [0.0])])
    assert same == replace(alone, adjusted=same.adjusted)
    assert same.adjusted == pytest.approx(0.04)
    assert without.adjusted is None


def test_by_chance_alone_any_of_six_pairs_is_shown_in_at_most_one_of_20_families() -> None:
    source = np.random.default_rng(4)
    shown = 0
    for groups in source.normal(20, 1.0, (TRIALS, 4, 5)).tolist():
        together_found = together([paired(a, b) for a, b in combinations(groups, 2)])
        shown += any(each.shown for each in together_found)
    assert shown / TRIALS <= 0.06
    assert shown, "or nothing would ever be shown"


def _with_p(p: float) -> Difference:
    """A difference of four degrees of freedom whose p value is this."""
    mean = float(stdtrit(4.0, 1 - p / 2))  # in standard errors
    return Difference(mean, 1.0, (5, 5), True, 5**0.5, 4.0, 1.0)


def test_the_number_of_seeds_is_that_of_published_tables() -> None:
    # Cohen (1988): two groups, d = 0.5, two-sided 5 %, power 80 %: 64 of each; paired d = 0.5: 34.
    assert seeds_needed(0.5 * 1.0, unpaired([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])) == 64
    assert seeds_needed(0.5, paired([-1.0, 0.0, 1.0], [0.0, 0.0, 0.0])) == 34


def test_an_effect_too_small_for_any_budget_has_no_number() -> None:
    pilot = paired([-1.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    assert seeds_needed(1e-6, pilot) is None
    assert seeds_needed(0.0, pilot) is None


@pytest.mark.parametrize("count", [2, 5, 20])
def test_what_is_detectable_has_the_power_that_is_promised(count: int) -> None:
    found = paired([1.0, 2.5, 2.0, 4.0, 3.5] * 4, [0.0] * 20)
    fewer = replace(found, seeds=(count, count), freedom=count - 1.0)
    effect = detectable(fewer)
    assert effect is not None
    assert power(effect, fewer, count) == pytest.approx(0.8, abs=1e-6)
    assert seeds_needed(effect * 1.001, fewer) == count


def test_nothing_is_detectable_without_a_spread() -> None:
    assert detectable(paired([1.0], [0.5])) is None
    assert detectable(paired([1.0, 1.0], [0.5, 0.5])) is None

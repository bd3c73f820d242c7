"""The rule against closed forms; its errors, power and coverage in simulated studies whose truth is known."""

import math

import numpy as np
import pytest
from scipy.special import stdtrit

from fluxflow_exp.compare.significance import paired
from fluxflow_exp.errors import UserError
from fluxflow_exp.study.boundary import limit
from fluxflow_exp.study.sequential import decide, judge, seeds_needed, sentence, spread_at
from tests.helpers.simulated_studies import differences, run

PILOT = [0.0, 0.012, 0.024]  # spread 0.012
STUDIES = 2_000


def error(share: float) -> float:
    """Three standard errors of a share among simulated studies."""
    return 3 * math.sqrt(share * (1 - share) / STUDIES)


def test_at_three_seeds_each_of_two_arms_has_a_seventh_of_half_of_the_error() -> None:
    found = judge({"wide": PILOT, "deep": [1.0, 2.0, 4.0]})
    half = float(stdtrit(2, 1 - 0.05 / 2 / 7 / 2)) * 0.012 / math.sqrt(3)
    assert (found["wide"].low, found["wide"].high) == pytest.approx((0.012 - half, 0.012 + half), rel=1e-6)
    assert found["wide"].verdict == "open"


def test_a_number_of_seeds_fixed_before_has_the_intervals_of_a_comparison() -> None:
    found = judge({"wide": [2.0, 4.0, 6.0]}, sequential=False)["wide"]
    assert found.difference.half_width == pytest.approx(float(stdtrit(2, 0.975)) * 2 / math.sqrt(3))
    assert judge({"wide": [2.0, 4.0, 6.0]})["wide"].high > found.high


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.0, 1.01, 0.99, 1.02], "higher"),
        ([-1.0, -1.01, -0.99, -1.02], "lower"),
        ([0.01, -0.01, 0.02, 0.0], "smaller"),
        ([1.0, -1.0, 0.5, 0.0], "open"),
        ([1.0, 1.01], "open"),
        ([1.0, 1.0, 1.0], "open"),  # no spread: nothing is known of chance
        ([], "open"),
    ],
)
def test_verdicts(values: list[float], verdict: str) -> None:
    assert judge({"wide": values}, smallest_difference=0.5)["wide"].verdict == verdict


def test_an_interval_narrower_than_the_smallest_difference_decides() -> None:
    source = np.random.default_rng(2)
    narrow = 0
    for mean in source.uniform(-2, 2, 300):
        found = judge({"wide": source.normal(mean, 0.3, 8).tolist()}, smallest_difference=1.0)["wide"]
        if found.high - found.low < 1.0:
            narrow += 1
            assert found.verdict != "open"
    assert narrow > 100


def test_a_study_goes_on_for_the_arms_that_are_open() -> None:
    found = decide({"wide": [1.0, 1.01, 0.99, 1.02], "deep": PILOT, "new": [0.1]}, smallest_difference=0.01)
    assert not found.stop
    assert found.undecided == ["deep", "new"]
    assert found.needed is None  # of an arm nothing is known
    assert "wide is higher by 1 (" in found.reason
    assert (
        "\n  deep is undecided (-0.13 to +0.154). 3 seeds: spread 0.012; 46 seeds (16 to more than 300) would show"
        in found.reason
    )
    assert "new is looked at after 3 seeds, and has 1" in found.reason


def test_a_study_ends_when_all_is_decided_and_when_the_budget_is_used_up() -> None:
    done = decide({"wide": [1.0, 1.01, 0.99, 1.02], "deep": [0.01, -0.01, 0.02, 0.0]}, smallest_difference=0.5)
    assert done.stop
    assert done.undecided == []
    assert done.reason == "every arm is decided"
    poor = decide({"deep": PILOT}, seeds_left=0)
    assert poor.stop
    assert poor.reason == "the budget pays for no further seed; undecided: deep"
    assert not decide({"deep": PILOT}, seeds_left=1).stop


def test_an_arm_of_which_a_run_failed_gets_no_further_seed_and_still_shares_the_error() -> None:
    open_, lost = [0.1, -0.1, 0.05], [0.2]
    found = decide({"wide": open_, "deep": lost, "odd": []}, smallest_difference=0.01, failed={"deep", "odd"})
    assert not found.stop
    assert found.undecided == ["wide"]
    assert found.reason.splitlines()[2:] == ["  deep has failed", "  odd has failed"]
    assert found.arms["wide"] != decide({"wide": open_}, smallest_difference=0.01).arms["wide"]  # a third of the error
    assert found.arms["wide"] == decide({"wide": open_, "a": [], "b": []}, smallest_difference=0.01).arms["wide"]
    shown = {"wide": [1.0, 1.01, 0.99], "deep": lost}
    done = decide(shown, seeds_left=9, failed={"deep"})
    assert (done.stop, done.reason) == (True, "runs of deep failed; every other arm is decided")
    assert decide({"deep": lost}, seeds_left=9, failed={"deep"}).reason == "runs of deep failed; no other arm is left"


def test_seeds_that_all_differ_alike_end_a_study_that_waits_for_them_alone() -> None:
    for values in ([0.25, 0.25, 0.25], [0.3 - 0.2, 0.4 - 0.3, 0.5 - 0.4]):  # the latter alike but for rounding
        same = decide({"deep": values}, smallest_difference=0.1)
        assert same.stop
        assert same.reason.startswith("all seeds of deep differ alike from the reference")
        assert (
            f"deep differs by {values[0]:.3g} in each of 3 seeds"
            in decide({"deep": values, "wide": PILOT}, seeds_left=1).reason
        )
    assert not decide({"deep": [0.25, 0.25, 0.25], "wide": PILOT}, smallest_difference=0.1).stop


def test_what_cannot_be_decided_is_refused() -> None:
    with pytest.raises(UserError, match="seeds: auto ends by smallest_difference or by budget"):
        decide({"deep": PILOT})
    with pytest.raises(UserError, match=r"arm deep: .* one is no finite number"):
        decide({"deep": [0.1, math.nan]}, seeds_left=3)


def test_the_sentence_says_spread_and_seeds() -> None:
    found = judge({"deep": PILOT}, smallest_difference=0.01)["deep"]
    assert sentence(found, smallest_difference=0.01) == (
        "3 seeds: spread 0.012; 37 seeds (13 to 289) would show a difference of 0.01 with power 0.8"
    )
    assert sentence(judge({"deep": PILOT[:2]})["deep"]) == "2 seeds: too few to tell the spread"
    assert sentence(judge({"deep": [1.0, 1.0, 1.0]})["deep"]) == "3 seeds: no spread"
    many = judge({"deep": PILOT}, smallest_difference=1e-5)["deep"]
    assert "more than 300 seeds would show" in sentence(many, smallest_difference=1e-5)
    seen = judge({"deep": PILOT}, sequential=False)["deep"]
    assert "14 seeds (6 to 77) would show the difference seen, 0.012," in sentence(seen)
    clear = judge({"deep": [1.0, 1.001, 1.002]})["deep"]
    assert sentence(clear) == "3 seeds: spread 0.001; 3 seeds would show the difference seen, 1, with power 0.8"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_true_spread_is_below_that_of_three_seeds_as_often_as_is_said(share: float) -> None:
    values = np.random.default_rng(5).normal(size=(STUDIES, 3)).tolist()
    above = [spread_at(paired(each, [0.0] * 3), share) >= 1 for each in values]
    assert np.mean(above) == pytest.approx(share, abs=error(share))


def test_the_number_said_after_three_seeds_is_as_often_too_large_as_too_small() -> None:
    true = seeds_needed(1.0, paired([-1.0, 0.0, 1.0], [0.0] * 3))
    values = np.random.default_rng(6).normal(size=(250, 3)).tolist()
    said = [judge({"deep": each}, smallest_difference=1.0)["deep"].needed or math.inf for each in values]
    assert abs(np.median(said) - true) <= 2


@pytest.mark.parametrize("effect", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("arms", [1, 3])
def test_the_seeds_that_are_named_show_a_planted_difference_with_power(effect: float, arms: int) -> None:
    pilot = paired([-1.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    needed = seeds_needed(effect, pilot, 0.05 / arms)
    assert needed is not None
    values = differences("normal", STUDIES, arms, needed) + effect
    last = np.abs(values.mean(2)) > limit(needed, 0.05 / arms) * values.std(2, ddof=1) / math.sqrt(needed)
    before = values[..., :-1]
    but_one = limit(needed - 1, 0.05 / arms) * before.std(2, ddof=1) / math.sqrt(needed - 1)
    assert last.mean() >= 0.8 - error(0.8)  # arms of a study share their reference, and count as one
    assert (np.abs(before.mean(2)) > but_one).mean() <= 0.8 + error(0.8)
    shown = run(values).shown.mean()
    print(f"effect {effect}, {arms} arms: {needed} seeds show {shown:.1%}, {last.mean():.1%} at the last look")
    assert shown >= max(0.8, last.mean())


@pytest.mark.parametrize("arms", [1, 3, 6])
def test_of_2000_studies_of_nothing_at_most_one_of_20_finds_something(arms: int) -> None:
    found = run(differences("normal", STUDIES, arms, 40)).shown.any(1).mean()
    print(f"{arms} arms: {found:.1%}")
    assert found <= 0.05 + error(0.05)
    assert found >= 0.02, "or nothing would ever be shown"


@pytest.mark.parametrize("true", [0.0, 0.5, 1.0])
def test_intervals_cover_where_a_study_stopped(true: float) -> None:
    found = run(differences("normal", STUDIES, 3, 40) + true, smallest=1.0)
    covered = found.covers(np.full(3, true)).mean()
    print(f"true {true}: {covered:.1%} cover, {found.seeds.mean():.1f} seeds")
    assert covered >= 0.95 - error(0.95)
    assert (found.seeds < 40).mean() > 0.3, "or nothing would have stopped"


def test_without_a_budget_a_difference_worth_seeing_is_shown_and_seldom_called_smaller() -> None:
    found = run(differences("normal", STUDIES, 1, 60) + 1.0, smallest=1.0)
    assert found.shown.mean() >= 0.95 - error(0.95)
    assert found.smaller.mean() <= 0.025 + error(0.025)


def test_the_simulated_rule_is_the_rule() -> None:
    values = differences("normal", 15, 2, 12, seed=3) + np.array([0.0, 1.5])[:, None]
    simulated = run(values, smallest=1.2)
    for study, each in enumerate(values.tolist()):
        for arm in range(2):
            # Beside an arm that nobody looks at, so that both are judged among two.
            for seeds in range(3, 13):
                found = judge({"other": [], "arm": each[arm][:seeds]}, smallest_difference=1.2)["arm"]
                if found.verdict != "open" or seeds == 12:
                    break
            assert simulated.seeds[study, arm] == seeds
            assert simulated.half[study, arm] == pytest.approx(found.difference.half_width)
            assert simulated.shown[study, arm] == (found.verdict in ("higher", "lower"))
            assert simulated.smaller[study, arm] == (found.verdict == "smaller")

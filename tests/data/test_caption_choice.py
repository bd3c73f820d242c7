"""Which of several captions is chosen, and how often."""

import random
from collections import Counter

import pytest

from fluxflow_exp.data.caption_choice import chosen, heaviest, weight_of, weights_of

CHOICES = (("a cat", 1.0), ("a black cat on a sofa", 5.0), ("cat, sofa", 2.5), ("Katze", 5.0))


def test_captions_are_chosen_as_often_as_they_weigh() -> None:
    draws = 20_000
    counts = Counter(chosen(CHOICES, random.Random(seed)) for seed in range(draws))
    for caption, weight in CHOICES:
        share = weight / 13.5
        assert counts[caption] / draws == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5), caption


def test_a_choice_is_a_single_draw_and_the_same_of_the_same_generator() -> None:
    mine, theirs = random.Random(3), random.Random(3)
    assert chosen(CHOICES, mine) == chosen(CHOICES, random.Random(3))
    theirs.random()
    assert mine.getstate() == theirs.getstate()


def test_where_nothing_is_chosen_the_first_of_the_heaviest_stands() -> None:
    assert heaviest(CHOICES) == "a black cat on a sofa"


def test_weights_are_numbers_above_zero() -> None:
    assert [weight_of(each) for each in (None, "", 2, 0.5, "3e-1")] == [1, 1, 2, 0.5, 0.3]
    assert weights_of(None, 2) == [1, 1]
    assert weights_of([2, None], 2) == [2, 1]
    for wrong in (0, -1, "two", float("nan"), float("inf"), True, [1]):
        with pytest.raises(ValueError, match="its caption_weight must be a number above 0, not"):
            weight_of(wrong)
    for several in (3, [1], "1,2", [1, 2, 3]):
        with pytest.raises(ValueError, match="must be a list of 2 numbers, one for each caption, not"):
            weights_of(several, 2)

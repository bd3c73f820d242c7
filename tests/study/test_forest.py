"""The axis of a forest plot."""

import random

from fluxflow_exp.study.forest import forest
from tests.helpers.answers import difference, made_answer


def test_an_axis_has_three_marks_or_a_few_more_and_zero_is_one() -> None:
    of_chance = random.Random(3)
    for scale in (1e-4, 0.01, 1.0, 300.0):
        for _ in range(50):
            low, high = sorted(scale * of_chance.gauss(0, 1) for _ in range(2))
            answer = made_answer(difference(low, high))
            plot = forest(answer, answer.deciding)
            assert 3 <= len(plot.ticks) <= 8
            assert [place for place, text in plot.ticks if text == "0"] == [plot.zero]
            assert all(0 <= place <= 100 for place, _ in plot.ticks)

"""The limits against closed forms, and against simulated studies that are looked at after every seed."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import stdtrit

from fluxflow_exp.study.boundary import limit, limits, spent


@pytest.mark.parametrize("only", [3, 4, 5, 8, 20])
def test_an_error_spent_at_one_look_gives_students_quantile(only: int) -> None:
    # Nothing is stopped before, so that t after any number of seeds has Student's distribution.
    (found,) = itertools.islice(limits(0.05, lambda seeds: float(seeds >= only)), only - 3, only - 2)
    assert found == pytest.approx(stdtrit(only - 1, 0.975), rel=1e-3)


def test_the_first_look_spends_its_part_alone() -> None:
    assert limit(3, 0.05) == pytest.approx(stdtrit(2, 1 - 0.05 / 7 / 2), rel=1e-9)
    assert limit(3, 0.01) == pytest.approx(stdtrit(2, 1 - 0.01 / 7 / 2), rel=1e-9)


def test_limits_lie_between_one_look_and_the_sum_over_looks() -> None:
    for seeds in range(4, 40):
        step = 0.05 * (spent(seeds) - spent(seeds - 1))
        assert stdtrit(seeds - 1, 1 - 0.05 / 2) < limit(seeds, 0.05) < stdtrit(seeds - 1, 1 - step / 2)


def test_more_arms_have_wider_limits_at_every_look() -> None:
    for seeds in range(3, 30):
        assert limit(seeds, 0.05) < limit(seeds, 0.025) < limit(seeds, 0.01)


def test_the_error_is_spent_without_end() -> None:
    parts = [spent(seeds) for seeds in range(2, 10_000)]
    assert parts[0] == 0
    assert spent(8) == 0.5
    assert all(a < b < 1 for a, b in itertools.pairwise(parts))


@pytest.mark.parametrize("of", [spent, lambda seeds: 1 - 1 / (seeds - 1)])
def test_as_many_studies_of_nothing_are_stopped_by_each_look_as_is_spent(of: Callable[[int], float]) -> None:
    studies, most, level = 40_000, 24, 0.2
    found = np.array(list(itertools.islice(limits(level, of), most - 2)))
    values = np.random.default_rng(1).normal(size=(studies, most))
    count = np.arange(1, most + 1)
    mean = values.cumsum(1) / count
    squares = np.square(values).cumsum(1) - count * mean**2
    t = np.abs(mean * np.sqrt(count))[:, 2:] / np.sqrt(squares[:, 2:] / (count - 1)[2:])
    stopped = np.maximum.accumulate(t > found, axis=1).mean(0)
    for seeds, share in zip(range(3, most + 1), stopped, strict=True):
        said = level * of(seeds)
        assert share == pytest.approx(said, abs=4 * math.sqrt(said * (1 - said) / studies)), seeds

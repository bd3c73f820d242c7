"""What becomes of pictures at the shapes they are trained at."""

import numpy as np
import pytest

from fluxflow_exp.data.buckets import bucket_sizes, nearest
from fluxflow_exp.data.check.proportions import fitting, largest, overrides, proposed, shapes_of

SIZES = np.array([(256, 256), (256, 512), (128, 512), (200, 400)])


def test_a_square_keeps_the_inverse_of_the_ratio() -> None:
    found = shapes_of(SIZES, 256, 1.0)
    assert found.kept == pytest.approx((1 + 1 / 2 + 1 / 4 + 1 / 2) / 4)
    assert found.enlarged == 0.5, "those of 128 and 200 px"
    assert found.counts == {(256, 256): 4}


def test_shapes_are_those_that_training_takes() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(64, 900, (300, 2))
    choices = bucket_sizes(256, 2.0)
    taken = [nearest((int(height), int(width)), choices) for height, width in sizes]
    found = shapes_of(sizes, 256, 2.0)
    assert found.counts == {size: taken.count(size) for size in choices if size in taken}
    enlarged = [h < size[0] or w < size[1] for (h, w), size in zip(sizes.tolist(), taken, strict=True)]
    assert found.enlarged == pytest.approx(np.mean(enlarged))


def test_no_wider_range_than_pays_is_proposed() -> None:
    assert overrides(proposed(np.array([(512, 512)] * 99 + [(300, 900)]), 256), 256) == "data.img_size=256"
    upright = proposed(np.array([(600, 400), (400, 600), (500, 500)]), 256)
    assert overrides(upright, 256) == "data.img_size=256 data.buckets=1.6"


def test_the_largest_size_enlarges_one_in_twenty_at_most() -> None:
    sides = np.array([[100, 300]] * 5 + [[330, 400]] * 95)
    assert largest(sides) == 320
    assert largest(np.array([[8, 9]])) == 16


def test_small_pictures_are_trained_at_their_own_size() -> None:
    small = np.array([[32, 40]] * 60 + [[300, 400]] * 40)
    assert fitting(small, 256) == 32
    assert fitting(small[30:], 256) == 256, "most are large enough"
    assert fitting(small, 16) == 16

"""Statistics of whole images against closed forms."""

import pytest
import torch

from fluxflow_exp.losses.appearance import ColorStatistics, Contrast, Histogram
from fluxflow_exp.losses.frequency import Frequency

IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("loss", [ColorStatistics(), Histogram(), Contrast(), Frequency()])
def test_an_exact_copy_costs_nothing_and_every_other_one_gets_a_gradient(loss):
    for term in loss(IMAGES, IMAGES).values():
        assert term.shape == (2,)
        assert term.abs().max() < 1e-10
    found = (0.5 * IMAGES + 0.1).requires_grad_()
    sum(term.sum() for term in loss(found, IMAGES).values()).backward()
    assert found.grad.abs().max() > 0


def test_color_statistics_of_a_shift_are_its_square():
    shift = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    assert ColorStatistics()(IMAGES + shift, IMAGES)["color_stats"].tolist() == pytest.approx([0.14 / 3] * 2, rel=1e-4)


def test_the_histogram_ignores_places_and_measures_a_shift():
    shuffled = IMAGES.flatten(2)[:, :, torch.randperm(64)].view_as(IMAGES)
    assert Histogram()(shuffled, IMAGES)["histogram"].abs().max() < 1e-7
    assert Histogram()(IMAGES + 0.5, IMAGES)["histogram"].tolist() == pytest.approx([0.25, 0.25], rel=1e-5)
    black, white = torch.full_like(IMAGES, -1), torch.full_like(IMAGES, 1)
    assert Histogram()(black, white)["histogram"].tolist() == [1.0, 1.0]


def test_the_histogram_is_the_difference_of_cumulative_histograms():
    other = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    edges = torch.linspace(-1, 1, 20_001)
    found = [(x.flatten(2)[..., None] <= edges).double().mean(2) for x in (other, IMAGES)]
    expected = (found[0] - found[1]).abs().mean((1, 2))
    torch.testing.assert_close(Histogram()(other, IMAGES)["histogram"].double(), expected, rtol=1e-3, atol=1e-4)


def test_contrast_of_half_the_deviation():
    half = IMAGES * 0.5
    assert Contrast()(half, IMAGES)["contrast"].tolist() == pytest.approx([0.25, 0.25], rel=1e-3)
    assert Contrast()(torch.zeros_like(IMAGES), torch.zeros_like(IMAGES))["contrast"].tolist() == [0.0, 0.0]


def test_a_constant_error_is_low_and_a_chessboard_is_high():
    even = Frequency()(IMAGES + 0.5, IMAGES)
    assert even["l1_low"].tolist() == pytest.approx([0.5, 0.5])
    assert even["l1_high"].abs().max() < 1e-6
    board = torch.ones(8, 8)
    board[::2, ::2] = board[1::2, 1::2] = -1
    rough = Frequency()(IMAGES + board, IMAGES)
    assert rough["l1_high"].min() > 0.8
    assert rough["l1_low"].max() < 0.15


def test_statistics_of_a_sample_do_not_depend_on_the_batch():
    other = IMAGES.flip(0) * 0.7
    for loss in (ColorStatistics(), Histogram(), Contrast(), Frequency()):
        together = loss(other, IMAGES)
        for i in range(2):
            alone = loss(other[i : i + 1], IMAGES[i : i + 1])
            assert all(torch.equal(alone[name][0], together[name][i]) for name in together)

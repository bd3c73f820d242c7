"""Equivariance against decoders that are known to be equivariant, or not."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fluxflow_exp.losses.equivariance import Equivariance, halved, turned

TURNS = torch.arange(4)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def repeated(latents: Tensor) -> Tensor:
    """A decoder that commutes with scale and rotation: each latent is a square of four pixels a side."""
    return F.interpolate(latents, scale_factor=4, mode="nearest")


@pytest.mark.parametrize("size", [(4, 4), (2, 6), (5, 4), (5, 5)])
def test_a_decoder_that_commutes_costs_nothing(size: tuple[int, int]) -> None:
    latents = drawn(4, 3, *size)
    images = repeated(halved(latents, 1)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    height, width = (4 * side for side in size)
    images = F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2]))  # an odd row or column is cut
    terms = Equivariance()(latents, images, TURNS, repeated)
    torch.testing.assert_close(terms["equivariance"], torch.zeros(4))


def test_a_decoder_that_does_not_pays_l1_and_squared_error() -> None:
    latents, images = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 16, 16), 0.5)
    terms = Equivariance()(latents, images, TURNS[:2], repeated)
    torch.testing.assert_close(terms["equivariance"], torch.full((2,), 0.5 + 0.25))
    gradient = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
    latents = F.avg_pool2d(gradient, 4)
    for turn in (0, 2):
        mirrored = Equivariance()(latents, gradient, TURNS[turn : turn + 1], lambda z: repeated(z).flip(3))
        assert float(mirrored["equivariance"]) > 0.3


def test_each_sample_is_turned_by_its_own_number() -> None:
    images = drawn(4, 3, 6, 6)
    for found, image, turn in zip(turned(images, TURNS), images, TURNS.tolist(), strict=True):
        assert torch.equal(found, torch.rot90(image, turn, (1, 2)))
    wide = drawn(4, 3, 4, 6)
    for found, image, turn in zip(turned(wide, TURNS), wide, TURNS.tolist(), strict=True):
        assert torch.equal(found, torch.rot90(image, turn // 2 * 2, (1, 2)))


def test_halving_averages_squares_of_pixels() -> None:
    images = drawn(1, 2, 8, 12)
    assert halved(images, 2).shape == (1, 2, 4, 6)
    torch.testing.assert_close(halved(images, 2)[0, 1, 1, 2], images[0, 1, 2:4, 4:6].mean())
    assert halved(images, 4).shape == (1, 2, 4, 4)  # 12 pixels are three cells, of which two are kept


def test_turns_are_drawn_from_the_source() -> None:
    turns = [Equivariance(rotation=on).turns(200, torch.Generator().manual_seed(3)) for on in (True, True, False)]
    assert torch.equal(turns[0], turns[1])
    assert set(turns[0].tolist()) == {0, 1, 2, 3}
    assert not turns[2].any()


def test_it_weighs_as_much_however_seldom_it_is_done() -> None:
    loss = Equivariance(weight=0.3, every=4)
    assert [update for update in range(9) if loss.due(update)] == [0, 4, 8]
    assert loss.weight == pytest.approx(1.2)


@pytest.mark.parametrize("wrong", [{"weight": 0.0}, {"every": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Equivariance(**wrong)  # type: ignore[arg-type]

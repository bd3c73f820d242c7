"""Changed views of pictures against closed forms, and how often and which of them are drawn."""

import math

import pytest
import torch
from torch import Tensor

from fluxflow_exp.losses.augmentation import (
    NUMBERS,
    ROTATION,
    SCALE,
    SHIFT,
    Augmentation,
    changed,
    changes,
)

CLOSE = {"atol": 1e-4, "rtol": 0.0}


def pictures(height: int = 16, width: int = 16) -> Tensor:
    return torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def one(images: Tensor, **how: float) -> Tensor:
    """All changed alike, by what is named."""
    names = ("mirrored", "angle", "scale", "right", "down")
    row = [how.get(name, 0.0) for name in names]
    return changed(images, torch.tensor([row]).expand(len(images), -1))


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_nothing_and_mirrors_and_whole_pixels_are_exact(size: tuple[int, int]) -> None:
    images = pictures(*size)
    torch.testing.assert_close(one(images), images, **CLOSE)
    torch.testing.assert_close(one(images, mirrored=1), images.flip(-1), **CLOSE)
    ground = images[..., [0, 0, -1, -1], [0, -1, 0, -1]].mean(-1)[..., None, None]
    right, down = 1, 2  # pixels
    moved = one(images, right=right / (SHIFT * size[1]), down=down / (SHIFT * size[0]))
    torch.testing.assert_close(moved[..., down:, right:], images[..., :-down, :-right], **CLOSE)
    torch.testing.assert_close(moved[..., :down, :], ground.expand(-1, -1, down, size[1]), **CLOSE)
    torch.testing.assert_close(moved[..., :right], ground.expand(-1, -1, size[0], right), **CLOSE)


def test_a_quarter_is_clockwise_and_comes_after_the_mirror() -> None:
    images = pictures()
    quarter = one(images, mirrored=1, angle=90 / ROTATION)
    torch.testing.assert_close(quarter, images.flip(-1).rot90(-1, (-2, -1)), **CLOSE)


def test_a_rectangle_turns_without_shear() -> None:
    inside = torch.zeros(1, 1, 16, 32)
    inside[..., 5:11, 13:19] = 1  # a square in the middle
    turned = one(inside.expand(-1, 3, -1, -1), angle=90 / ROTATION)
    torch.testing.assert_close(turned, inside.expand(-1, 3, -1, -1), **CLOSE)


def test_the_widest_scale_enlarges_and_one_picture_does_not_reach_another() -> None:
    ramp = torch.linspace(-1, 1, 41).expand(2, 3, 41, 41).clone()
    ramp[1] = 0.5
    large = changed(ramp, torch.tensor([[0, 0, 1.0, 0, 0], [0.0] * NUMBERS]))
    # torch's cubic is no exact line between pixels.
    torch.testing.assert_close(large[0, :, 4:-4, 4:-4], ramp[0, :, 4:-4, 4:-4] / SCALE, atol=5e-3, rtol=0)
    torch.testing.assert_close(large[1], ramp[1], **CLOSE)


def test_autocast_moves_no_place() -> None:
    images, how = pictures(), torch.tensor([changes(str(i), 1) for i in range(3)])
    with torch.autocast("cpu", torch.bfloat16):
        found = changed(images, how)
    assert torch.equal(found, changed(images, how))


def test_a_view_is_its_names_alone_and_within_the_bounds() -> None:
    every = torch.tensor([changes(f"{name}.png", view) for name in range(400) for view in range(1, 4)])
    assert len({tuple(row) for row in every.tolist()}) == len(every)
    assert set(every[:, 0].tolist()) == {0.0, 1.0}
    assert every[:, 0].mean() == pytest.approx(0.5, abs=3 * math.sqrt(0.25 / len(every)))
    assert every[:, 1:].abs().max() <= 1
    assert every[:, 1:].std(0).tolist() == pytest.approx([1 / math.sqrt(3)] * 4, rel=0.1)
    assert changes("a.png", 3) == changes("a.png", 3) != changes("a.png", 2)
    assert changes("a.png", 0) == [0.0] * NUMBERS


def test_views_are_drawn_as_often_as_asked_by_their_keys() -> None:
    augmentation = Augmentation(probability=0.3, views=4)
    views = torch.tensor(augmentation.choose(8000, 0, "flow", 1))
    for view, share in enumerate([0.7, 0.1, 0.1, 0.1]):
        assert (views == view).float().mean() == pytest.approx(share, abs=0.02)
    assert augmentation.choose(8, 0, "flow", 1) == augmentation.choose(8, 0, "flow", 1)
    assert augmentation.choose(50, 0, "flow", 1) != augmentation.choose(50, 0, "flow", 2)
    assert 0 not in Augmentation(probability=1.0, views=2).choose(50, 0)


def test_all_views_begin_with_the_pictures_themselves() -> None:
    images, names = pictures(), ["a", "b", "c"]
    found = list(Augmentation(views=3).all_views(images, names))
    assert torch.equal(found[0], images)
    for view in (1, 2):
        for row, name in enumerate(names):
            alone = changed(images[row : row + 1], torch.tensor([changes(name, view)]))
            torch.testing.assert_close(found[view][row], alone[0], **CLOSE)


def test_of_what_is_unchanged_the_embedding_says_nothing() -> None:
    embedding = Augmentation().embedding(8)
    assert not embedding(torch.randn(4, NUMBERS)).any()  # before it has learnt
    torch.nn.init.normal_(embedding[2].weight)
    assert not embedding(torch.zeros(4, NUMBERS)).any()
    assert embedding(torch.randn(4, NUMBERS)).abs().min() > 0

"""Augmentation that does not leak into what is drawn (Karras et al. 2022, arXiv 2206.00364, appendix F.2).

Some drawings of a training picture are of a changed view of it: mirrored or not, rotated, scaled and shifted a little.
The flow transformer is told by how much, and told zeros of a picture as it is, as in sampling: it draws pictures as
they are and learns from more. A picture has a few views, which its name decides, so that their latents can be kept.
"""

import math
import random
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor, nn

from fluxflow_exp.seeding import derive, generator

ROTATION, SCALE, SHIFT = 15.0, 1.25, 0.125  # the widest: degrees, a factor, a share of the side
NUMBERS = 5  # mirrored 0 or 1; clockwise, larger, right and down, each in [-1, 1] of the widest


class Drawn(NamedTuple):
    """Of each sample of a rank's share."""

    views: Tensor  # (share,), whole numbers; 0 is the picture itself
    changes: Tensor  # (share, NUMBERS), zeros of the picture itself


class Augmentation:
    """With `probability` a drawing of a picture is one of its `views` - 1 changed ones, each as often."""

    def __init__(
        self, *, probability: Annotated[float, Interval(gt=0, le=1)] = 0.5, views: Annotated[int, Ge(2)] = 8
    ) -> None:
        self.probability, self.views = probability, views

    def __str__(self) -> str:
        return f"{self.probability:.0%} of drawings are of one of {self.views - 1} changed views of their picture"

    @property
    def token(self) -> list[Any]:
        """What decides beside a picture and its name on how its views look."""
        return [self.views, ROTATION, SCALE, SHIFT]

    def choose(self, count: int, *keys: str | int) -> list[int]:
        """The views of a global batch of `count` samples, drawn from `keys`."""
        source = generator(*keys, "augmentation")
        changed = torch.rand(count, generator=source) < self.probability
        views: list[int] = (changed * torch.randint(1, self.views, (count,), generator=source)).tolist()
        return views

    def all_views(self, images: Tensor, names: list[str]) -> Iterator[Tensor]:
        """The pictures (n, 3, height, width) in [-1, 1], then each changed view of them."""
        yield images
        for view in range(1, self.views):
            yield changed(images, torch.tensor([changes(name, view) for name in names]).to(images.device))

    def embedding(self, width: int) -> nn.Sequential:
        """Changes (…, NUMBERS) → (…, `width`): zero at zero, whatever the weights, and everywhere at first."""
        last = nn.Linear(width, width, bias=False)
        nn.init.zeros_(last.weight)
        return nn.Sequential(nn.Linear(NUMBERS, width, bias=False), nn.SiLU(), last)


def changes(name: str, view: int) -> list[float]:
    """How a `view` of the sample `name` is changed: NUMBERS of them."""
    if view == 0:
        return [0.0] * NUMBERS
    draw = random.Random(derive("view", name, view))
    return [float(draw.random() < 0.5), *(draw.uniform(-1, 1) for _ in range(NUMBERS - 1))]


def changed(images: Tensor, changes: Tensor) -> Tensor:
    """Pictures (n, 3, height, width) in [-1, 1], each mirrored, rotated, scaled and shifted by its row of `changes`.

    Around a picture lies the mean colour of its corners. Bicubic, with places in float32 under any autocast: these are
    no products of matrices.
    """
    height, width = images.shape[-2:]
    mirrored, angle, scale, right, down = changes.to(images.device)[..., None, None].unbind(1)
    across = torch.arange(width, device=images.device) + 0.5 - width / 2 - SHIFT * width * right
    along = (torch.arange(height, device=images.device) + 0.5 - height / 2)[:, None] - SHIFT * height * down
    angle, scale = math.radians(ROTATION) * angle, SCALE**scale
    x = (angle.cos() * across + angle.sin() * along) / scale * (1 - 2 * mirrored)
    y = (angle.cos() * along - angle.sin() * across) / scale
    places = torch.stack([x * (2 / width), y * (2 / height)], -1)
    ground = images[..., :: height - 1, :: width - 1].mean((2, 3), keepdim=True)
    found = F.grid_sample(images - ground, places, mode="bicubic", padding_mode="zeros", align_corners=False)
    return torch.empty_like(images).copy_((found + ground).clamp(-1, 1))  # laid out in memory as they are

"""Equivariance of a decoder (EQ-VAE; Kouzelis et al. 2025, arXiv 2502.09509): smaller or turned latents are to give
smaller or turned images, which makes latents that a flow learns sooner."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow_exp.config.bounds import PositiveFloat, PositiveInt
from fluxflow_exp.losses.terms import Terms, per_sample


class Equivariance:
    """`weight` × (L1 + squared error) between the decoded transform of latents and the transform of their images.

    The transform halves height and width by averages of 2 × 2 and, with `rotation`, turns each sample by 0, 90, 180 or
    270 degrees (images that are not square by 0 or 180). It is done at every `every`-th update, then `every` times as
    strongly, beside all other losses: decoding a quarter of the size costs a quarter of a decoder's pass.
    """

    def __init__(self, *, weight: PositiveFloat = 0.5, every: PositiveInt = 2, rotation: bool = True) -> None:
        if weight <= 0 or every < 1:
            raise ValueError(f"equivariance: weight must be positive and every at least 1, not {weight}, {every}")
        self.weight, self.every, self.rotation = weight * every, every, rotation

    def due(self, update: int) -> bool:
        return update % self.every == 0

    def turns(self, count: int, source: torch.Generator) -> Tensor:
        """Quarter turns of `count` samples, (count,) in 0 … 3, on the generator's device."""
        return torch.randint(4 if self.rotation else 1, (count,), generator=source, device=source.device)

    def __call__(self, latents: Tensor, images: Tensor, turns: Tensor, decode: Callable[[Tensor], Tensor]) -> Terms:
        """Latents (batch, vae_dim, h, w) of images (batch, 3, height, width) in [-1, 1]; `turns` (batch,).

        `decode` makes images of latents. Gives `equivariance`, (batch,).
        """
        step = images.shape[-1] // latents.shape[-1]
        found = decode(turned(halved(latents, 1), turns))
        error = found.float() - turned(halved(images, step), turns).float()
        return {"equivariance": per_sample(error.abs() + error.square())}


def halved(x: Tensor, step: int) -> Tensor:
    """(batch, c, h, w) → half of it; first cut to an even number of cells of `step` pixels."""
    height, width = (side // (2 * step) * 2 * step for side in x.shape[-2:])
    return F.avg_pool2d(x[..., :height, :width], 2)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """(batch, c, h, w), each sample turned by its number of quarter turns; of what is not square, by an even number.

    By choices, not by indices: the gradient of those is not the same each time on a GPU.
    """
    turns = turns[:, None, None, None]
    if x.shape[-2] == x.shape[-1]:
        x = torch.where(turns % 2 == 1, torch.rot90(x, 1, (2, 3)), x)
    return torch.where(turns >= 2, x.flip(2, 3), x)

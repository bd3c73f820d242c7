"""The posterior: a compressor's distribution over the latents of an image, and which images have one."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Posterior(NamedTuple):
    """A diagonal Gaussian, (batch, vae_dim, h, w) each, and what turns its values into latents, if anything does.

    With a `logvar` of None it is one point, the mean.
    """

    mean: Tensor
    logvar: Tensor | None
    finish: Callable[[Tensor], Tensor] | None = None

    def sample(self, noise: Tensor) -> Tensor:
        """Latents of mean + σ·noise for standard normal `noise` of the same shape."""
        if self.logvar is None:
            return self.mode()
        return self._finished(self.mean + torch.exp(0.5 * self.logvar) * noise)

    def mode(self) -> Tensor:
        """Latents of the mean."""
        return self._finished(self.mean)

    def _finished(self, values: Tensor) -> Tensor:
        return values if self.finish is None else self.finish(values)


def check_sides(images: Tensor, downscale: int) -> None:
    """ValueError: the height or width of `images`, (batch, 3, height, width), is no multiple of `downscale`."""
    height, width = images.shape[-2:]
    if height % downscale or width % downscale:
        raise ValueError(f"image sides must be multiples of {downscale}, not {width}x{height}")

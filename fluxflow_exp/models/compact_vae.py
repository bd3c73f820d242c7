"""The compact autoencoder: residual blocks and pixel (un)shuffle, and no path around the KL bottleneck.

A stage halves (compressor) or doubles (expander) height and width. Down- and upsampling carry a parameter-free
shortcut (Chen et al. 2024, DC-AE, section 3.2): averaged pixel-unshuffle, repeated pixel-shuffle.
"""

from itertools import pairwise
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from fluxflow_exp.config.bounds import NonNegativeInt, PositiveInt
from fluxflow_exp.models.layers import (
    ActivationName,
    Chain,
    ChannelNorm,
    Conv2d,
    Region,
    activate,
    make_activation,
    pixel_shuffle,
    pixel_unshuffle,
    run,
)
from fluxflow_exp.models.posterior import Posterior, check_sides
from fluxflow_exp.models.spade import Spade


class Compressor(nn.Module):
    """The VAE encoder: images (batch, 3, height, width) in [-1, 1] → Posterior at 1/2^len(widths) of the size.

    `widths` are the channels after each halving, `blocks` the residual blocks a stage. ValueError from `forward`:
    height or width is no multiple of `downscale`.
    """

    def __init__(
        self,
        *,
        vae_dim: PositiveInt,
        widths: Annotated[list[PositiveInt], MinLen(1)],
        blocks: NonNegativeInt = 1,
        activation: ActivationName = "silu",
    ) -> None:
        super().__init__()
        self.vae_dim, self.downscale = vae_dim, 2 ** len(widths)
        self.checkpointing = False
        self.stages = nn.ModuleList()
        previous = 3
        for width in widths:
            inner = [Residual(width, activation) for _ in range(blocks)]
            self.stages.append(Chain(Down(previous, width), *inner))
            previous = width
        self.head = Chain(ChannelNorm(previous), nn.Conv2d(previous, 2 * vae_dim, 3, padding=1))

    def forward(self, images: Tensor) -> Posterior:
        return self.posterior(self.moments(images))

    def moments(self, images: Tensor) -> Tensor:
        """All that `posterior` needs, (batch, 2·vae_dim, h, w) in float32."""
        check_sides(images, self.downscale)
        x = images
        for stage in self.stages:
            x = run(stage, x, checkpointing=self.checkpointing)
        moments: Tensor = self.head(x).float()
        return moments

    def posterior(self, moments: Tensor) -> Posterior:
        mean, logvar = moments.chunk(2, 1)
        # Starts at σ = exp(-2): the first reconstructions are not drowned in noise.
        return Posterior(mean, (logvar - 4).clamp(-30, 20))


class Expander(nn.Module):
    """The VAE decoder: latents (batch, vae_dim, h, w) → images (batch, 3, height, width) near [-1, 1], unclamped.

    Takes the compressor's arguments; `widths` are used from last to first. With `spade` every stage begins with a
    modulation by the latents, which a call can leave out.
    """

    def __init__(
        self,
        *,
        vae_dim: PositiveInt,
        widths: Annotated[list[PositiveInt], MinLen(1)],
        blocks: NonNegativeInt = 1,
        spade: bool = False,
        activation: ActivationName = "silu",
    ) -> None:
        super().__init__()
        self.spade = self.has_spade = spade
        self.upscale_by = 2 ** len(widths)
        self.checkpointing = False
        self.modulations = nn.ModuleList(Spade(vae_dim, width) for width in (widths[::-1] if spade else []))
        self.stem = nn.Conv2d(vae_dim, widths[-1], 3, padding=1)
        self.stages = nn.ModuleList()
        for width, following in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True):
            inner = [Residual(width, activation) for _ in range(blocks)]
            self.stages.append(Chain(*inner, Up(width, following)))
        self.head = Chain(ChannelNorm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution, where the GAN's gradient is weighed."""
        weight = self.head[-1].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, latents: Tensor, spade: bool | None = None) -> Tensor:
        modulated = self.spade if spade is None else spade
        x = self.stem(latents)
        for index, stage in enumerate(self.stages):
            if modulated:
                x = run(self.modulations[index], x, latents, checkpointing=self.checkpointing)
            x = run(stage, x, checkpointing=self.checkpointing)
        images: Tensor = self.head(x)
        return images


class Residual(Region):
    """x + conv(activation(conv(norm(x)))); (batch, channels, h, w), same shape.

    A Bezier activation takes five channels for one, so its hidden width is channels/3 instead of channels: the
    first convolution then costs 5/3 and the second 1/3 of a plain block's, two plain convolutions together.
    """

    def __init__(self, channels: int, activation: ActivationName) -> None:
        super().__init__()
        act, expansion = make_activation(activation, dim=1)
        hidden = channels if expansion == 1 else _bezier_width(channels)
        self.norm = ChannelNorm(channels)
        self.widen = Conv2d(channels, hidden * expansion, 3, padding=1)
        self.activation = act
        self.narrow = nn.Conv2d(hidden, channels, 3, padding=1)
        nn.init.zeros_(self.narrow.weight)
        assert self.narrow.bias is not None
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.narrow(activate(self.widen, self.activation, self.norm(x)))
        return x + change


class Down(Region):
    """(batch, c, 2h, 2w) → (batch, channels, h, w)."""

    def __init__(self, previous: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(4 * previous, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = pixel_unshuffle(x)
        halved: Tensor = self.conv(x) + _resize_channels(x, self.channels)
        return halved


class Up(Region):
    """(batch, c, h, w) → (batch, channels, 2h, 2w)."""

    def __init__(self, previous: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(previous, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle(self.conv(x) + _resize_channels(x, 4 * self.channels))


def shortcuts(widths: list[int]) -> tuple[bool, ...]:
    """Which stages of these `widths` have a shortcut, of compressor and expander alike: where the channels divide."""
    return tuple(_divide(4 * previous, width) for previous, width in pairwise([3, *widths]))


def _bezier_width(channels: int) -> int:
    """A third of `channels`; from 64 on as a multiple of 8, which matrix units ask for."""
    return max(channels // 3, 1) if channels < 64 else 8 * round(channels / 24)


def _divide(first: int, second: int) -> bool:
    return first % second == 0 or second % first == 0


def _resize_channels(x: Tensor, channels: int) -> Tensor:
    """Average groups of channels, or repeat them, where the numbers divide; else nothing is added."""
    have = x.shape[1]
    if have % channels == 0:
        return torch.unflatten(x, 1, (channels, have // channels)).mean(2)
    if channels % have == 0:
        return x.repeat_interleave(channels // have, 1)
    return x.new_zeros(())

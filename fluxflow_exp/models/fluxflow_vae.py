"""The published FluxFlow 0.3 autoencoder: compressor and expander whose weights load both ways.

Layers and names of tensors are those of the package `fluxflow` 0.3.1, but for `context_mixer`, which nothing there
calls. With another activation than `bezier` the channels after each activation stay the same, the curves on mean,
log-variance and colours become the identity, a shift and tanh, and no Bezier curve is left. Only Bezier weights are
interchangeable.

Two properties are FluxFlow's and not advice: the content latent is added after sampling, past the KL bottleneck, and
transposed convolutions of 16 × 16 make the expander costly. `compact` has neither.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.config.bounds import NonNegativeInt, PositiveInt
from fluxflow_exp.models.bezier import TrainableBezier
from fluxflow_exp.models.dilated_conv import DilatedConv2d
from fluxflow_exp.models.initialisation import keep_size
from fluxflow_exp.models.layers import (
    ActivationName,
    AlignedConv2d,
    Chain,
    Conv2d,
    ConvActivation,
    DownConv2d,
    Region,
    activate,
    make_activation,
    run,
)
from fluxflow_exp.models.posterior import Posterior, check_sides
from fluxflow_exp.models.spade import Spade
from fluxflow_exp.models.transposed_conv import UpConv2d

SKIP_SCALE = 0.1  # of the nearest-neighbour shortcut around an upsampling block
# Initial control points. Those of the log-variance are FluxFlow's less 4: σ begins at exp(-2), so that the first
# reconstructions are not drowned in noise.
LOGVAR_START = -4.0
MEAN_POINTS, LOGVAR_POINTS, RGB_POINTS = (-2.0, -0.5, 0.5, 2.0), (-7.0, -5.0, -3.0, -1.0), (-1.0, 0.25, 0.75, 1.0)


class Compressor(nn.Module):
    """Images (batch, 3, height, width) in [-1, 1] → Posterior on a grid of 1/2^downscales.

    Its latents are the sampled values plus position and content codes, after self-attention over all positions.
    ValueError: `vae_dim` is no multiple of `attn_heads`, or (from `forward`) a side is no multiple of `downscale`.
    """

    def __init__(
        self,
        *,
        vae_dim: PositiveInt = 128,
        downscales: PositiveInt = 4,
        attn_layers: NonNegativeInt = 4,
        attn_heads: PositiveInt = 8,
        attn_ff_mult: PositiveInt = 2,
        activation: ActivationName = "bezier",
    ) -> None:
        super().__init__()
        if vae_dim % attn_heads:
            raise ValueError(f"vae_dim={vae_dim} must be a multiple of attn_heads={attn_heads}")
        self.vae_dim, self.downscale, self.checkpointing = vae_dim, 2**downscales, False
        widths = stage_widths(vae_dim, downscales)
        pairs = list(pairwise(widths))
        self.encoder_first_step = nn.ModuleList(
            _activated(AlignedConv2d, a, b, 3, activation, padding=1, bias=False) for a, b in pairs
        )
        self.encoder_z = nn.ModuleList(_activated(DownConv2d, b, b, 8, activation) for _, b in pairs)
        self.width = widths[-1]
        self.latent_proj = _two(widths[-1], vae_dim, activation)
        self.mu_proj = _two(vae_dim, vae_dim, activation)
        self.logvar_proj = _two(vae_dim, vae_dim, activation)
        curves = activation == "bezier"
        self.mu_activation = TrainableBezier(vae_dim, points=MEAN_POINTS) if curves else nn.Identity()
        self.logvar_activation = TrainableBezier(vae_dim, points=LOGVAR_POINTS) if curves else nn.Identity()
        # SiLU and its like give at least -0.28: without this σ could not fall below 0.87.
        self.logvar_shift = 0.0 if curves else LOGVAR_START
        self.token_attn = nn.ModuleList(
            TokenBlock(vae_dim, attn_heads, attn_ff_mult, activation) for _ in range(attn_layers)
        )

    def forward(self, images: Tensor) -> Posterior:
        return self.posterior(self.moments(images))

    def moments(self, images: Tensor) -> Tensor:
        """All that `posterior` needs: mean, log-variance and content, (batch, 3·vae_dim, h, w) in float32."""
        check_sides(images, self.downscale)
        x = torch.cat([images, _coordinates(images)], 1)
        for step, halve in zip(self.encoder_first_step, self.encoder_z, strict=True):
            x = run(step, x, checkpointing=self.checkpointing)
            x = run(halve, x, checkpointing=self.checkpointing)
        content = self.latent_proj(x[:, : self.width])  # without what aligned convolutions add on a GPU
        mean = self.mu_activation(self.mu_proj(content)).float()
        logvar = (self.logvar_activation(self.logvar_proj(content)).float() + self.logvar_shift).clamp(-30, 20)
        return torch.cat([mean, logvar, content.float()], 1)

    def posterior(self, moments: Tensor) -> Posterior:
        mean, logvar, content = moments.chunk(3, 1)
        return Posterior(mean, logvar, lambda values: self._attend(values, content))

    def _attend(self, values: Tensor, content: Tensor) -> Tensor:
        height, width = values.shape[-2:]
        codes = position_codes(height, width, self.vae_dim, device=values.device)
        x = (values + content).flatten(2).transpose(1, 2) + codes
        for block in self.token_attn:
            x = run(block, x, checkpointing=self.checkpointing)
        return torch.unflatten(x.transpose(1, 2), 2, (height, width))


class Expander(nn.Module):
    """Latents (batch, vae_dim, h, w) → images (batch, 3, h·2^upscales, w·2^upscales) near [-1, 1].

    `spade`: whether decoding uses the latents as SPADE context unless the call says otherwise. The SPADE layers are
    part of the weights either way.
    """

    has_spade = True

    def __init__(
        self,
        *,
        vae_dim: PositiveInt = 128,
        upscales: PositiveInt = 4,
        spade: bool = False,
        activation: ActivationName = "bezier",
    ) -> None:
        super().__init__()
        self.spade, self.checkpointing, self.upscale_by = spade, False, 2**upscales
        self.upscale = nn.Module()
        self.upscale.layers = nn.ModuleList(UpBlock(vae_dim, activation) for _ in range(upscales))
        self.to_rgb_conv = Chain(
            nn.Conv2d(vae_dim, 96, 3, padding=1),
            nn.GroupNorm(8, 96),
            nn.SiLU(),
            nn.Conv2d(96, 48, 3, padding=1),
            nn.GroupNorm(8, 48),
            nn.SiLU(),
            nn.Conv2d(48, 3, 1),
        )
        self.rgb_activation = TrainableBezier(3, points=RGB_POINTS) if activation == "bezier" else nn.Tanh()

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution, where the GAN's gradient is weighed."""
        weight = self.to_rgb_conv[-1].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, latents: Tensor, spade: bool | None = None) -> Tensor:
        context = latents if (self.spade if spade is None else spade) else None
        x = latents
        for layer in self.upscale.layers:  # type: ignore[union-attr]
            x = run(layer, x, context, checkpointing=self.checkpointing)
        images: Tensor = self.rgb_activation(run(self.to_rgb_conv, x, checkpointing=self.checkpointing))
        return images


class UpBlock(nn.Module):
    """(batch, c, h, w) → (batch, c, 2h, 2w); `context` modulates, None leaves that out."""

    def __init__(self, channels: int, activation: ActivationName) -> None:
        super().__init__()
        self.spade = Spade(channels, channels)
        self.conv1 = nn.Sequential(
            *_activated(UpConv2d, channels, channels, 16, activation),
            *_activated(DilatedConv2d, channels, channels, 5, activation, dilation=2),
        )

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        up, first, convolution, second = self.conv1
        wide = activate(up, first, x if context is None else self.spade(x, context))
        change = activate(convolution, second, wide)
        return change + SKIP_SCALE * F.interpolate(x, scale_factor=2.0, mode="nearest")


class TokenBlock(Region):
    """Pre-norm self-attention and feed-forward over tokens (batch, n, width), same shape."""

    def __init__(self, width: int, heads: int, multiple: int, activation: ActivationName) -> None:
        super().__init__()
        act, expansion = make_activation(activation, dim=-1)
        hidden = width * multiple
        self.norm1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, hidden * expansion), act, nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        updated: Tensor = x + self.ff(self.norm2(x))
        return updated


def stage_widths(vae_dim: int, downscales: int) -> list[int]:
    """Channels before the first stage (colours and two coordinates) and after each: evenly spaced up to vae_dim."""
    return [round(width) for width in torch.linspace(5, max(vae_dim, 8), downscales + 1, device="cpu").tolist()]


def position_codes(height: int, width: int, channels: int, *, device: torch.device) -> Tensor:
    """Fixed sines (even) and cosines (odd channels) of y in the first half of the channels and x in the second.

    (height·width, channels) in raster order (Vaswani et al. 2017, section 3.5, for two axes).
    """
    of_x = channels // 2
    y = _sinusoid(height, channels - of_x, device)[:, None].expand(-1, width, -1)
    x = _sinusoid(width, of_x, device)[None].expand(height, -1, -1)
    return torch.cat([y, x], -1).flatten(0, 1)


def _sinusoid(length: int, channels: int, device: torch.device) -> Tensor:
    rates = torch.exp(torch.arange(0, channels, 2, device=device) * (-math.log(10000.0) / channels))
    angles = torch.arange(length, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :channels]


def _coordinates(images: Tensor) -> Tensor:
    """x, then y, from -1 to 1: (batch, 2, height, width)."""
    batch, _, height, width = images.shape
    x = torch.linspace(-1, 1, width, device=images.device, dtype=images.dtype).expand(height, width)
    y = torch.linspace(-1, 1, height, device=images.device, dtype=images.dtype)[:, None].expand(height, width)
    return torch.stack([x, y]).expand(batch, -1, -1, -1)


def _activated(
    layer: Callable[..., nn.Conv2d | nn.ConvTranspose2d],
    channels_in: int,
    channels_out: int,
    kernel: int,
    activation: ActivationName,
    **options: int | bool,
) -> ConvActivation:
    act, expansion = make_activation(activation, dim=1)
    convolution = layer(channels_in, channels_out * expansion, kernel, **options)
    keep_size(convolution, activation)
    return ConvActivation(convolution, act)


def _two(channels_in: int, channels_out: int, activation: ActivationName) -> nn.Sequential:
    """Two activated 1 × 1 convolutions."""
    return nn.Sequential(
        _activated(Conv2d, channels_in, channels_out, 1, activation),
        _activated(Conv2d, channels_out, channels_out, 1, activation),
    )

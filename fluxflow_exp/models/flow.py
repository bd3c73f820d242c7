"""The flow transformer: velocity of noisy latents, given time and text.

A diffusion transformer (Peebles & Xie 2023) with adaptive norms by time and pooled text, 2-D rotary positions (Su et
al. 2021, half of a head for each axis), query-key RMS norm (Esser et al. 2024), and cross-attention to all text tokens.
On request it has long skips between blocks (Bao et al. 2023), one modulation for all blocks (Chen et al. 2023), and
values that go on from the first block (Zhou et al. 2024): none of these changes what an untrained model computes. And
tokens may begin with their absolute places (Peebles & Xie 2023).

Shapes: B batch, D latent channels, h × w latent grid, N = (h/p)·(w/p) tokens, C width, L text tokens.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.config.bounds import PositiveFloat, PositiveInt
from fluxflow_exp.models.flow_block import Block, norm, places, rotary
from fluxflow_exp.models.layers import ActivationName, run
from fluxflow_exp.models.text_encoder import Text, padded

TIME_FEATURES = 128


class FlowProcessor(nn.Module):
    """(latents (B, D, h, w) of unit scale, time (B,) in [0, 1] with 1 = noise, Text) → velocity (B, D, h, w).

    `latent_mean` and `latent_std`, (D,), are the data's latent statistics, measured before training and stored with
    the weights. ValueError from `forward`: h or w is no multiple of `patch_size`.

    `long_skips`: what block i gives reaches block depth-1-i, too, where others lie between the two (U-ViT, Bao et al.
    2023). `shared_modulation`: one projection of time and text modulates all blocks, each with a bias of its own
    (adaLN-single; Chen et al. 2023, arXiv 2310.00426). `value_residual`: self-attention's values are mixed with those
    of the first block by learned weights (Zhou et al. 2024, arXiv 2410.17897). `absolute_positions`: cosines and sines
    of its place are added to each token at first (Vaswani et al. 2017). Rotary positions are relative: by themselves
    they give a constant image a constant velocity, whatever the weights, and places follow from the noise alone.
    """

    latent_mean: Tensor
    latent_std: Tensor

    # The size, and an option a key, each with its type: that is what a model's YAML may say.
    def __init__(
        self,
        *,
        vae_dim: PositiveInt,
        width: PositiveInt,
        depth: PositiveInt,
        heads: PositiveInt,
        text_dim: PositiveInt,
        patch_size: PositiveInt = 1,
        mlp_ratio: PositiveFloat = 4.0,
        activation: ActivationName = "silu",
        long_skips: bool = False,
        shared_modulation: bool = False,
        value_residual: bool = False,
        absolute_positions: bool = False,
    ) -> None:
        super().__init__()
        for name, asked, least in (("long_skips", long_skips, 3), ("value_residual", value_residual, 2)):
            if asked and depth < least:
                raise ValueError(f"{name} needs a depth of at least {least}, not {depth}: it would join nothing")
        if width % heads or (width // heads) % 4:
            raise ValueError(f"width / heads must be a multiple of 4 for 2-D rotary positions: {width} / {heads}")
        self.patch_size, self.width, self.head_dim, self.text_dim = patch_size, width, width // heads, text_dim
        self.checkpointing = False
        self.skips = long_skips_of(depth) if long_skips else {}
        self.value_residual, self.absolute_positions = value_residual, absolute_positions
        self.register_buffer("latent_mean", torch.zeros(vae_dim))
        self.register_buffer("latent_std", torch.ones(vae_dim))
        self.embed = nn.Linear(vae_dim * patch_size**2, width)
        self.time = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(text_dim, width)
        self.text_norm = nn.RMSNorm(text_dim, eps=1e-6)
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                text_dim,
                mlp_ratio,
                activation,
                skip=index in self.skips.values(),
                shared_modulation=shared_modulation,
                values=("takes" if index else "gives") if value_residual else None,
            )
            for index in range(depth)
        )
        # Without a bias: each block has one of its own.
        self.shared_modulation = nn.Linear(width, 6 * width, bias=False) if shared_modulation else None
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, vae_dim * patch_size**2)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        if self.shared_modulation is not None:
            nn.init.zeros_(self.shared_modulation.weight)

    def normalise(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents to unit scale, channel by channel."""
        return (latents - self.latent_mean.view(-1, 1, 1)) / self.latent_std.view(-1, 1, 1)

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents * self.latent_std.view(-1, 1, 1) + self.latent_mean.view(-1, 1, 1)

    def forward(
        self, latents: Tensor, time: Tensor, text: Text, *, taps: Sequence[int] = (), extra: Tensor | None = None
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """`taps`: numbers of blocks, from 1, whose outputs (B, N, C) are given beside the velocity, in that order.

        `extra` (B, C) is added to what is said of time and text.
        """
        p = self.patch_size
        height, width = latents.shape[-2:]
        if height % p or width % p:
            raise ValueError(f"the latent grid {width}x{height} does not divide into patches of {p}")
        x = self.embed(F.pixel_unshuffle(latents, p).flatten(2).transpose(1, 2))
        if self.absolute_positions:
            x = x + places(height // p, width // p, x.shape[-1], device=x.device).to(x.dtype)
        if latents.is_cuda:
            text = padded(text)
        words = self.text_norm(text.tokens)
        told = self.time(time_features(time)) + self.pooled(_masked_mean(words, text.mask))
        condition = F.silu(told if extra is None else told + extra)
        rotation = rotary(height // p, width // p, self.head_dim, device=x.device)
        mask = text.mask[:, None, None, :]
        x, tapped = self._through_blocks(x, condition, words, mask, rotation, taps)
        shift, scale = self.modulation(condition)[:, None].chunk(2, -1)
        x = self.out(norm(x) * (1 + scale) + shift)
        velocity = F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (height // p, width // p)), p)
        return (velocity, [tapped[number] for number in taps]) if taps else velocity

    def _through_blocks(
        self,
        x: Tensor,
        condition: Tensor,
        words: Tensor,
        mask: Tensor,
        rotation: Tensor,
        taps: Sequence[int],
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """What the last block gives, and by their numbers what those of `taps` give."""
        modulation = condition if self.shared_modulation is None else self.shared_modulation(condition)
        waiting: dict[int, Tensor] = {}  # what goes on over a long skip, by the block that takes it
        tapped: dict[int, Tensor] = {}
        values = None
        for index, block in enumerate(self.blocks):
            skipped = waiting.pop(index, None)
            x = run(block, x, modulation, words, mask, rotation, skipped, values, checkpointing=self.checkpointing)
            if self.value_residual and index == 0:
                x, values = x
            if index in self.skips:
                waiting[self.skips[index]] = x
            if index + 1 in taps:
                tapped[index + 1] = x
        return x, tapped


def long_skips_of(depth: int) -> dict[int, int]:
    """Blocks i → depth-1-i, from 0, without neighbours: what the block before gives is a block's input already."""
    return {index: depth - 1 - index for index in range(depth // 2) if depth - 1 - index > index + 1}


def time_features(time: Tensor) -> Tensor:
    """Sines and cosines of `time` (B,) in [0, 1] at 64 frequencies from 1 to 1000, (B, 128) (Vaswani et al. 2017)."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), TIME_FEATURES // 2, device=time.device))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def _masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(1) / weight.sum(1)

"""The flow transformer: velocity of noisy latents, given time and text.

A diffusion transformer (Peebles & Xie 2023) with adaptive norms by time and pooled text, 2-D rotary positions (Su et
al. 2021, half of a head for each axis), query-key RMS norm (Esser et al. 2024), and cross-attention to all text tokens.

Shapes: B batch, D latent channels, h × w latent grid, N = (h/p)·(w/p) tokens, C width, L text tokens.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.config.bounds import PositiveFloat, PositiveInt
from fluxflow_exp.models.layers import ActivationName, Region, make_activation, run
from fluxflow_exp.models.text_encoder import Text, padded

TIME_FEATURES = 128


class FlowProcessor(nn.Module):
    """(latents (B, D, h, w) of unit scale, time (B,) in [0, 1] with 1 = noise, Text) → velocity (B, D, h, w).

    `latent_mean` and `latent_std`, (D,), are the data's latent statistics, measured before training and stored with
    the weights. ValueError from `forward`: h or w is no multiple of `patch_size`.
    """

    latent_mean: Tensor
    latent_std: Tensor

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
    ) -> None:
        super().__init__()
        if width % heads or (width // heads) % 4:
            raise ValueError(f"width / heads must be a multiple of 4 for 2-D rotary positions: {width} / {heads}")
        self.patch_size, self.head_dim, self.text_dim = patch_size, width // heads, text_dim
        self.checkpointing = False
        self.register_buffer("latent_mean", torch.zeros(vae_dim))
        self.register_buffer("latent_std", torch.ones(vae_dim))
        self.embed = nn.Linear(vae_dim * patch_size**2, width)
        self.time = nn.Sequential(nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.pooled = nn.Linear(text_dim, width)
        self.text_norm = nn.RMSNorm(text_dim, eps=1e-6)
        self.blocks = nn.ModuleList(Block(width, heads, text_dim, mlp_ratio, activation) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, vae_dim * patch_size**2)
        for layer in (self.modulation, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def normalise(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents to unit scale, channel by channel."""
        return (latents - self.latent_mean.view(-1, 1, 1)) / self.latent_std.view(-1, 1, 1)

    def denormalise(self, latents: Tensor) -> Tensor:
        return latents * self.latent_std.view(-1, 1, 1) + self.latent_mean.view(-1, 1, 1)

    def forward(self, latents: Tensor, time: Tensor, text: Text) -> Tensor:
        p = self.patch_size
        height, width = latents.shape[-2:]
        if height % p or width % p:
            raise ValueError(f"the latent grid {width}x{height} does not divide into patches of {p}")
        x = self.embed(F.pixel_unshuffle(latents, p).flatten(2).transpose(1, 2))
        if latents.is_cuda:
            text = padded(text)
        words = self.text_norm(text.tokens)
        condition = F.silu(self.time(time_features(time)) + self.pooled(_masked_mean(words, text.mask)))
        rotation = rotary(height // p, width // p, self.head_dim, device=x.device)
        mask = text.mask[:, None, None, :]
        for block in self.blocks:
            x = run(block, x, condition, words, mask, rotation, checkpointing=self.checkpointing)
        shift, scale = self.modulation(condition)[:, None].chunk(2, -1)
        x = self.out(_norm(x) * (1 + scale) + shift)
        return F.pixel_shuffle(x.transpose(1, 2).unflatten(2, (height // p, width // p)), p)


class Block(Region):
    """Self-attention, cross-attention to text, and MLP; (B, N, C), same shape. Starts as the identity but for text."""

    def __init__(self, width: int, heads: int, text_dim: int, mlp_ratio: float, activation: ActivationName) -> None:
        super().__init__()
        self.attention = Attention(width, heads, width)
        self.cross = Attention(width, heads, text_dim)
        act, expansion = make_activation(activation, dim=-1)
        # A Bezier activation takes five channels for one: 1/3 of the hidden width costs what a plain MLP does.
        hidden = int(width * mlp_ratio) if expansion == 1 else int(width * mlp_ratio) // 3
        self.mlp = nn.Sequential(nn.Linear(width, hidden * expansion), act, nn.Linear(hidden, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.cross.out.weight)

    def forward(self, x: Tensor, condition: Tensor, words: Tensor, mask: Tensor, rotation: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        y = _norm(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(y, y, rotation=rotation)
        x = x + self.cross(_norm(x), words, mask=mask)
        y = _norm(x) * (1 + scale2) + shift2
        updated: Tensor = x + gate2 * self.mlp(y)
        return updated


class Attention(nn.Module):
    """Queries from x (B, N, C), keys and values from `source` (B, M, S), with query-key RMS norm."""

    def __init__(self, width: int, heads: int, source_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(source_width, 2 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, source: Tensor, *, mask: Tensor | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        """`mask` (B, 1, 1, M): True where a key may be seen. `rotation` as `rotary` gives it."""
        query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        value = value.to(query.dtype)
        seen = F.scaled_dot_product_attention(query, key.to(query.dtype), value, attn_mask=mask)
        result: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return result


def time_features(time: Tensor) -> Tensor:
    """Sines and cosines of `time` (B,) in [0, 1] at 64 frequencies from 1 to 1000, (B, 128) (Vaswani et al. 2017)."""
    frequencies = torch.exp(torch.linspace(0, math.log(1000), TIME_FEATURES // 2, device=time.device))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def rotary(height: int, width: int, head_dim: int, *, device: torch.device) -> Tensor:
    """Cosines and sines of the rotation angles of a grid in raster order, (2, height·width, head_dim/2).

    The first half of the angles follows y, the second x.
    """
    count = head_dim // 4
    frequencies = 100.0 ** -(torch.arange(count, device=device) / count)
    y = torch.arange(height, device=device)[:, None, None] * frequencies
    x = torch.arange(width, device=device)[None, :, None] * frequencies
    shape = (height, width, count)
    angles = torch.cat([y.expand(shape), x.expand(shape)], -1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs (i, i + head_dim/2) of x (B, heads, N, head_dim) by their angles."""
    cosine, sine = rotation.to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(tokens.dtype)[..., None]
    return (tokens * weight).sum(1) / weight.sum(1)

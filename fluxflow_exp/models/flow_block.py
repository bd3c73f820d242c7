"""A block of the flow transformer: attention to itself and to the text, and an MLP, modulated by time and text.

B batch, N tokens of the latent grid, C width, L text tokens.
"""

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.models.head_norm import EPSILON, head_norm
from fluxflow_exp.models.layers import ALIGNMENT, ActivationName, Region, make_activation


class Block(Region):
    """Self-attention, cross-attention to text, and MLP; (B, N, C), same shape. Starts as the identity but for text.

    With `skip` it takes (B, N, C) of an earlier block. `values`: it gives those of its self-attention, (B, heads, N,
    C/heads), beside its output, or takes the ones of another block. With `shared_modulation` its modulation is a bias
    to one that is given, (B, 6C).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        text_dim: int,
        mlp_ratio: float,
        activation: ActivationName,
        *,
        skip: bool,
        shared_modulation: bool,
        values: Literal["gives", "takes"] | None,
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, width, mixes_values=values == "takes")
        self.gives_values = values == "gives"
        self.cross = Attention(width, heads, text_dim)
        act, expansion = make_activation(activation, dim=-1)
        # A Bezier activation takes five channels for one: 1/3 of the hidden width costs what a plain MLP does.
        hidden = int(width * mlp_ratio) if expansion == 1 else int(width * mlp_ratio) // 3
        self.mlp = MLP(nn.Linear(width, hidden * expansion), act, nn.Linear(hidden, width))
        self.modulation: nn.Module = Bias(6 * width) if shared_modulation else nn.Linear(width, 6 * width)
        for parameter in self.modulation.parameters():
            nn.init.zeros_(parameter)
        nn.init.zeros_(self.cross.out.weight)
        # U-ViT's linear layer of both, side by side, with its half for x fixed at the identity: half of its work and
        # weights, no weight decay on the path of x, and at zero it is the model without the skip.
        self.skip = nn.Linear(width, width, bias=False) if skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        words: Tensor,
        mask: Tensor,
        rotation: Tensor,
        skipped: Tensor | None = None,
        values: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        if self.skip is not None:
            x = x + self.skip(skipped)
        y = norm(x) * (1 + scale1) + shift1
        attended, own = self.attention(y, y, rotation=rotation, first_values=values)
        x = x + gate1 * attended
        x = x + self.cross(norm(x), words, mask=mask)[0]
        y = norm(x) * (1 + scale2) + shift2
        updated: Tensor = x + gate2 * self.mlp(y)
        return (updated, own) if self.gives_values else updated


class MLP(nn.Sequential):
    """Linear, activation, linear; (…, C), same shape. A GPU computes it with a multiple of 8 hidden channels.

    The missing ones are zeros: all activations make zeros of zeros. Matrix units take others several times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        first, activation, last = self
        # A layer whose place an adapter has taken computes by itself.
        if x.is_cuda and type(first) is type(last) is nn.Linear and last.in_features % ALIGNMENT:
            return self.aligned(x)
        made: Tensor = last(activation(first(x)))
        return made

    def aligned(self, x: Tensor) -> Tensor:
        first, activation, last = cast(tuple[nn.Linear, nn.Module, nn.Linear], tuple(self))
        more = -last.in_features % ALIGNMENT
        rows = (0, more * (first.out_features // last.in_features))
        hidden = F.linear(x, F.pad(first.weight, (0, 0, *rows)), F.pad(first.bias, rows))
        return F.linear(activation(hidden), F.pad(last.weight, (0, more)), last.bias)


class Bias(nn.Module):
    """x (…, C) plus a learned bias."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.to(x.dtype)


class Attention(nn.Module):
    """Queries from x (B, N, C), keys and values from `source` (B, M, S), with query-key RMS norm.

    With `mixes_values` it takes values of another block and mixes them with its own, at first half and half.
    """

    def __init__(self, width: int, heads: int, source_width: int, *, mixes_values: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(source_width, 2 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads, eps=EPSILON)
        self.key_norm = nn.RMSNorm(width // heads, eps=EPSILON)
        self.out = nn.Linear(width, width, bias=False)
        self.mix = nn.Parameter(torch.full((2,), 0.5)) if mixes_values else None

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        *,
        mask: Tensor | None = None,
        rotation: Tensor | None = None,
        first_values: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(B, N, C), and the values, (B, heads, M, C/heads).

        `mask` (B, 1, 1, M): True where a key may be seen. `rotation` as `rotary` gives it.
        """
        # Queries first: in the backward pass adapters add to the gradient of x in the opposite order, which rounds.
        query = head_norm(self.query(x), self.query_norm.weight, rotation)
        key, value = self.key_value(source).chunk(2, -1)
        key = head_norm(key, self.key_norm.weight, rotation)
        value = value.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.mix is not None:
            assert first_values is not None
            value = self.mix[0] * first_values + self.mix[1] * value
        seen = F.scaled_dot_product_attention(query, key.to(query.dtype), value.to(query.dtype), attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2)), value


def rotary(height: int, width: int, head_dim: int, *, device: torch.device) -> Tensor:
    """Cosines and sines of the rotation angles of a grid in raster order, (2, height·width, head_dim/2).

    The first half of the angles follows y, the second x.
    """
    count = head_dim // 4
    return _waves(height, width, 100.0 ** -(torch.arange(count, device=device) / count))


def places(height: int, width: int, channels: int, *, device: torch.device) -> Tensor:
    """Cosines and sines of a grid's places in raster order, y before x, (height·width, channels).

    Their periods are 4 to 64 tokens: longer ones would be nearly the same everywhere on a latent grid.
    """
    count = channels // 4
    periods = 4 * 16.0 ** (torch.arange(count, device=device) / count)
    return torch.cat(tuple(_waves(height, width, 2 * math.pi / periods)), -1)


def _waves(height: int, width: int, frequencies: Tensor) -> Tensor:
    """(2, height·width, 2·frequencies)."""
    y = torch.arange(height, device=frequencies.device)[:, None, None] * frequencies
    x = torch.arange(width, device=frequencies.device)[None, :, None] * frequencies
    shape = (height, width, len(frequencies))
    angles = torch.cat([y.expand(shape), x.expand(shape)], -1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()])


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)

"""Layers of diffusers' autoencoders as they train fast: of the same names, weights and results, to rounding.

On a CPU they compute what the library computes. On a GPU its group norms, upsampling and first and last convolution are
costly, and stand here in another form.
"""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.models.layers import AlignedConv2d, Chain, Region, run

Layer = TypeVar("Layer", bound=nn.Module)


def adapt(half: Any) -> None:
    """Put these layers into an encoder or a decoder, and mark what is compiled as one piece: its stages and ends."""
    for name, module in list(half.named_modules()):
        replaced = _replaced(module)
        if replaced is not None:
            half.set_submodule(name, replaced)
    for name in ("conv_in", "conv_out"):
        end = getattr(half, name)
        if type(end) is nn.Conv2d:
            setattr(half, name, _with_weights(EndConv2d(end.in_channels, end.out_channels, 3, padding=1), end))
    stages = half.down_blocks if hasattr(half, "down_blocks") else half.up_blocks
    for index, stage in enumerate(stages):
        if isinstance(stage, nn.Sequential):
            stages[index] = Stage(*stage)
        else:
            Region.register(type(stage))
    if hasattr(half, "mid_block"):
        Region.register(type(half.mid_block))
    if isinstance(getattr(half, "conv_norm_out", None), GroupNorm) and isinstance(half.conv_act, nn.SiLU):
        half.conv_norm_out, half.conv_act = _norm(half.conv_norm_out, NormSiLU), nn.Identity()


class Stage(Chain):
    """Layers that are compiled together; with `checkpointing` each is computed again in the backward pass."""

    checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = run(layer, x, checkpointing=self.checkpointing)
        return x


class GroupNorm(nn.GroupNorm):
    """torch's. Of (batch, channels, h, w) a GPU takes the sums of each channel first, along its memory."""

    def forward(self, x: Tensor) -> Tensor:
        return self.by_channels(x) if x.is_cuda and x.ndim == 4 else super().forward(x)

    def by_channels(self, x: Tensor) -> Tensor:
        """The same from the sums of each channel's values and squares in float32, in the dtype of `x`."""
        batch, channels = x.shape[:2]
        values = x.float()
        sums = torch.stack([values.sum((2, 3)), values.square().sum((2, 3))])
        mean, square = sums.view(2, batch, self.num_groups, -1).mean(-1) / x[0, 0].numel()
        deviation = torch.rsqrt((square - mean.square()).clamp_min(0) + self.eps)
        each = channels // self.num_groups
        scale = self.weight * deviation.repeat_interleave(each, 1)
        shift = self.bias - mean.repeat_interleave(each, 1) * scale
        found: Tensor = (values * scale[..., None, None] + shift[..., None, None]).to(x.dtype)
        return found


class NormSiLU(GroupNorm, Region):
    """A group norm and the SiLU after it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2 and a 3 × 3 convolution: (batch, c, h, w) → (batch, channels, 2h, 2w).

    Of the nine pixels under a kernel only four differ. A GPU adds up the weights of equal ones and does 2 × 2
    convolutions of the small picture, one for each of the four places in a pixel: 16 products instead of 36.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, output_size: None = None) -> Tensor:
        return self.by_places(x) if x.is_cuda else self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))

    def by_places(self, x: Tensor) -> Tensor:
        # The rows 0 | 1, 2 of a kernel meet the pixels above and here for an upper place, 0, 1 | 2 here and below for a
        # lower one; columns likewise.
        weight = torch.cat([self._halved(rows, columns) for rows in (1, 2) for columns in (1, 2)]).to(x.dtype)
        bias = None if self.conv.bias is None else self.conv.bias.repeat(4).to(x.dtype)
        convolved = F.conv2d(x, weight, bias, padding=1).permute(0, 2, 3, 1)  # channels stay innermost in memory
        height, width = x.shape[-2:]
        places = [
            part[:, lower : lower + height, right : right + width]
            for part, (lower, right) in zip(convolved.chunk(4, -1), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True)
        ]
        rows = [torch.stack(places[first : first + 2], 3) for first in (0, 2)]  # batch, h, w, 2, channels
        return torch.stack(rows, 2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)

    def _halved(self, rows: int, columns: int) -> Tensor:
        """The kernel (out, in, 2, 2) whose first row is the sum of the first `rows`, and so on."""
        weight = self.conv.weight
        tall = torch.stack([weight[:, :, :rows].sum(2), weight[:, :, rows:].sum(2)], 2)
        return torch.stack([tall[..., :columns].sum(3), tall[..., columns:].sum(3)], 3)


class EndConv2d(AlignedConv2d, Region):
    """A convolution from or to few channels, which a GPU computes with multiples of 8."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, : self.out_channels]


def _replaced(module: nn.Module) -> nn.Module | None:
    """What stands in the place of a layer of the library; None: itself."""
    if isinstance(module, nn.Dropout) and module.p == 0:  # it would draw numbers all the same
        return nn.Identity()
    if type(module) is nn.GroupNorm and module.affine:
        return _norm(module, GroupNorm)
    if type(module).__name__ == "Upsample2D" and _is_plain(module):
        return Upsample(module.conv)  # type: ignore[arg-type]
    return None


def _is_plain(upsample: Any) -> bool:
    """Whether an Upsample2D is a nearest-neighbour one and a 3 × 3 convolution, and nothing else."""
    conv, other = getattr(upsample, "conv", None), upsample.norm is not None or upsample.use_conv_transpose
    return bool(isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3) and upsample.interpolate and not other)


def _norm(norm: nn.GroupNorm, kind: type[GroupNorm]) -> GroupNorm:
    made = kind(norm.num_groups, norm.num_channels, norm.eps)
    return _with_weights(made, norm)


def _with_weights(made: Layer, source: nn.Module) -> Layer:
    made.weight, made.bias = source.weight, source.bias
    return made

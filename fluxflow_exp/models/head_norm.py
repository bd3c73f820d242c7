"""Query-key norm and rotary positions of an attention's heads; on a GPU by a kernel of ours."""

from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6
_KERNELS = find_spec("triton") is not None  # it comes with torch wherever torch can use a GPU but on Windows


def head_norm(x: Tensor, weight: Tensor, rotation: Tensor | None = None) -> Tensor:
    """RMS norm over the channels of each head (Esser et al. 2024), then, with `rotation`, rotary positions.

    x (batch, tokens, heads · channels), `weight` (channels,); (batch, heads, tokens, channels) in the precision of x.
    `rotation` (2, tokens, channels / 2): cosines and sines by which pairs (i, i + channels / 2) are rotated (Su et al.
    2021).
    """
    if x.is_cuda and _KERNELS and x.dtype != torch.float64:  # the kernel computes in float32
        from fluxflow_exp.models import head_norm_triton

        # As rows: torch's compiler would bring a tensor of more dimensions into an order of its own, by copying it.
        rows = x.flatten(0, 1)
        made: Tensor = head_norm_triton.head_norm(rows, weight, EPSILON, rotation)
        return made.view(*x.shape[:2], x.shape[-1] // len(weight), len(weight)).transpose(1, 2)
    heads = torch.unflatten(x, -1, (-1, len(weight))).transpose(1, 2)
    heads = F.rms_norm(heads, (len(weight),), weight, EPSILON)
    return heads if rotation is None else rotate(heads, rotation)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate pairs (i, i + channels / 2) of x (batch, heads, tokens, channels) by their angles."""
    cosine, sine = rotation.to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], -1)

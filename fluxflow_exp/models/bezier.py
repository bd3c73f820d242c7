"""Bezier activations: the output is a point on a cubic Bezier curve whose parameter and control points are inputs.

B(t) = (1-t)³p₀ + 3(1-t)²t p₁ + 3(1-t)t²p₂ + t³p₃.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PreActivation = Literal["sigmoid", "tanh", "silu", "none"]

_PRE: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "none": lambda x: x,
}


_KERNELS = find_spec("triton") is not None  # it comes with torch wherever torch can use a GPU but on Windows


def bezier(t: Tensor, p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor) -> Tensor:
    """B(t) by de Casteljau's three levels of interpolation; the arguments broadcast."""
    a, b, c = torch.lerp(p0, p1, t), torch.lerp(p1, p2, t), torch.lerp(p2, p3, t)
    return torch.lerp(torch.lerp(a, b, t), torch.lerp(b, c, t), t)


class BezierActivation(nn.Module):
    """Five neighbouring channels (t, p₀, p₁, p₂, p₃) of `dim` become one: (…, 5·c, …) → (…, c, …).

    `t_pre` acts on t, `p_pre` on the four control points. With sigmoid and silu (FluxFlow's convolutions) the output
    is a convex combination of values ≥ -0.2785. ValueError: the channels are not a multiple of five.

    On a GPU one fused kernel computes it in float32 and keeps nothing but its input; channels that are not innermost
    in memory are copied first, and the result has them innermost. It has no second derivative there.
    """

    def __init__(self, *, dim: int = 1, t_pre: PreActivation = "sigmoid", p_pre: PreActivation = "silu") -> None:
        super().__init__()
        self.dim, self.t_pre, self.p_pre = dim, t_pre, p_pre

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias` (5c,) is added to x first, at no cost: a convolution before it can leave that out."""
        channels = x.shape[self.dim]
        if channels % 5:
            raise ValueError(f"a Bezier activation needs a multiple of five channels, not {channels}")
        dim = self.dim % x.ndim
        if x.is_cuda and _KERNELS:
            return self._fused(x, dim, bias)
        if bias is not None:
            x = x + bias.to(x.dtype).view(-1, *[1] * (x.ndim - 1 - dim))
        grouped = x.view(*x.shape[:dim], channels // 5, 5, *x.shape[dim + 1 :])
        t, *points = grouped.unbind(dim + 1)
        pre = _PRE[self.p_pre]
        return bezier(_PRE[self.t_pre](t), *(pre(p) for p in points))

    def _fused(self, x: Tensor, dim: int, bias: Tensor | None = None) -> Tensor:
        from fluxflow_exp.models import bezier_triton

        last = x.movedim(dim, -1)
        # As rows: torch's compiler would bring a tensor of four dimensions into an order of its own, by copying it.
        made: Tensor = bezier_triton.bezier(last.reshape(-1, last.shape[-1]), self.t_pre, self.p_pre, bias)
        return made.view(*last.shape[:-1], -1).movedim(-1, dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, t_pre={self.t_pre}, p_pre={self.p_pre}"


class TrainableBezier(nn.Module):
    """A learnt curve a channel: t = sigmoid(x), control points are parameters (channels,); the shape stays.

    `points` are the initial control points p₀…p₃, the same for each channel of `dim`.
    """

    def __init__(
        self,
        channels: int,
        *,
        points: tuple[float, float, float, float] = (0.0, 0.25, 0.75, 1.0),
        dim: int = 1,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.p0, self.p1, self.p2, self.p3 = (nn.Parameter(torch.full((channels,), p)) for p in points)

    def forward(self, x: Tensor) -> Tensor:
        shape = [1] * x.ndim
        shape[self.dim] = -1
        points = (p.to(x.dtype).view(shape) for p in (self.p0, self.p1, self.p2, self.p3))
        return bezier(torch.sigmoid(x), *(p.expand_as(x) for p in points))

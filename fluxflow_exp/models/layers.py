"""Layers that several models share."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fluxflow_exp.models.bezier import BezierActivation

ActivationName = Literal["bezier", "silu", "gelu", "relu"]


def make_activation(name: ActivationName, *, dim: int) -> tuple[nn.Module, int]:
    """An activation over channel dimension `dim`, and how many channels it takes for each one that it gives."""
    if name == "bezier":
        return BezierActivation(dim=dim), 5
    return {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}[name](), 1


class ChannelNorm(nn.Module):
    """RMS norm over the channels of each pixel (Zhang & Sennrich 2019): (batch, channels, h, w), same shape.

    Statistics of one pixel alone: neither the image size nor the batch changes what it does.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-6)
        return x * (scale * self.weight.view(-1, 1, 1)).to(x.dtype)


def run(block: nn.Module, *inputs: Any, checkpointing: bool) -> Any:
    """Call `block`; with `checkpointing` its inside is recomputed in the backward pass instead of kept."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)

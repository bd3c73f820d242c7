"""Spatially adaptive normalisation (Park et al. 2019): a map of the context scales and shifts every pixel."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow_exp.models.layers import Region

HIDDEN = 128


class Spade(Region):
    """norm(x)·(1 + γ) + β, where γ and β are convolutions of the context resized to x.

    x (batch, channels, h, w), context (batch, context_channels, h', w') → x's shape. The norm is a group norm without
    parameters, in at most 32 groups: it sees one sample, so that neither batch nor micro-batch changes it.
    """

    def __init__(self, context_channels: int, channels: int) -> None:
        super().__init__()
        self.groups = math.gcd(32, channels)
        self.mlp_shared = nn.Sequential(nn.Conv2d(context_channels, HIDDEN, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(HIDDEN, channels, 3, padding=1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        context = resize(context, x.shape[-2], x.shape[-1])
        shared = self.mlp_shared(context)
        modulated: Tensor = F.group_norm(x, self.groups) * (1 + self.mlp_gamma(shared)) + self.mlp_beta(shared)
        return modulated


def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, (batch, channels, h, w) → (batch, channels, height, width), pixels being areas (corners not aligned).

    On a GPU by two matrix products: torch's own gradient there adds in any order, or, deterministic, takes as long as
    the convolutions around it.
    """
    if not x.is_cuda:
        return F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
    return resize_by_products(x, height, width)


def resize_by_products(x: Tensor, height: int, width: int) -> Tensor:
    rows, columns = (_interpolation(*each, x) for each in ((x.shape[2], height), (x.shape[3], width)))
    last = x.permute(0, 2, 3, 1)
    tall = torch.unflatten(rows @ last.flatten(2), 2, last.shape[2:])
    return (columns @ tall).permute(0, 3, 1, 2)


def _interpolation(length: int, to: int, like: Tensor) -> Tensor:
    """The matrix (to, length) of a linear interpolation."""
    unit = torch.eye(length, device=like.device, dtype=torch.float32)[None]
    return F.interpolate(unit, to, mode="linear", align_corners=False)[0].t().to(like.dtype)

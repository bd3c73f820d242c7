"""Spatially adaptive normalisation (Park et al. 2019): a map of the context scales and shifts every pixel."""

import math

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
        context = F.interpolate(context, x.shape[-2:], mode="bilinear", align_corners=False)
        shared = self.mlp_shared(context)
        modulated: Tensor = F.group_norm(x, self.groups) * (1 + self.mlp_gamma(shared)) + self.mlp_beta(shared)
        return modulated

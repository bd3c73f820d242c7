"""How often a flow model trains at which time; t = 1 is noise."""

import math
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

TimeDistribution = Literal["logit_normal", "uniform", "cosine"]

TABLE = 4096  # points of the inverse distribution of `cosine`
OFFSET = 0.008  # of FluxFlow's weighting cos²((t + offset) / (1 + offset) · π/2)


def draw(normal: Tensor, *, distribution: TimeDistribution, mean: float, std: float) -> Tensor:
    """Standard normal numbers (batch,) → times in (0, 1).

    logit_normal: sigmoid(N(mean, std²)) (Esser et al. 2024, section 3.1). cosine: FluxFlow's weighting, which hardly
    ever trains the noise end (1 in 600 times lies above 0.9) although sampling starts there.
    """
    if distribution == "logit_normal":
        return torch.sigmoid(mean + std * normal)
    uniform: Tensor = torch.special.ndtr(normal)
    if distribution == "uniform":
        return uniform.clamp(1e-5, 1 - 1e-5)
    position = uniform.clamp(0, 1 - 1e-6) * (TABLE - 1)
    table, below = _inverse_cosine(normal.device), position.long()
    return torch.lerp(table[below], table[below + 1], position - below)


def shift_time(time: Tensor, shift: float) -> Tensor:
    """More time near the noise end for larger images (Esser et al. 2024, eq. 23): s·t / (1 + (s - 1)·t)."""
    return shift * time / (1 + (shift - 1) * time)


@cache
def _inverse_cosine(device: torch.device) -> Tensor:
    """Times at TABLE even steps of the cumulative distribution, worked out on the CPU: the same for every device."""
    time = torch.linspace(0, 1, 8 * TABLE, dtype=torch.float64)
    angle = (time + OFFSET) / (1 + OFFSET) * math.pi / 2
    cumulative = angle / 2 + torch.sin(2 * angle) / 4
    share = (cumulative - cumulative[0]) / (cumulative[-1] - cumulative[0])
    wanted = torch.linspace(0, 1, TABLE, dtype=torch.float64)
    inverse = np.interp(wanted.numpy(), share.numpy(), time.numpy())
    return torch.from_numpy(inverse).float().to(device)

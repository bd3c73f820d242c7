"""Rectified flow (Liu et al. 2023; Lipman et al. 2023): straight paths between data and noise."""

import torch
from torch import Tensor

from fluxflow_exp.losses.terms import Terms, per_sample


def shift_time(time: Tensor, shift: float) -> Tensor:
    """More time near the noise end for larger images (Esser et al. 2024, eq. 23): s·t / (1 + (s - 1)·t)."""
    return shift * time / (1 + (shift - 1) * time)


class RectifiedFlow:
    """x_t = (1 - t)·data + t·noise, velocity = noise - data; t = 1 is noise.

    Times are logit-normal, sigmoid(N(time_mean, time_std²)) (Esser et al. 2024, section 3.1), then shifted.
    """

    name = "rectified_flow"

    def __init__(self, *, time_mean: float = 0.0, time_std: float = 1.0, shift: float = 1.0) -> None:
        if time_std <= 0 or shift <= 0:
            raise ValueError(f"time_std and shift must be positive, not {time_std} and {shift}")
        self.time_mean, self.time_std, self.shift = time_mean, time_std, shift

    def times(self, normal: Tensor) -> Tensor:
        """Standard normal numbers (batch,) → times in (0, 1)."""
        return shift_time(torch.sigmoid(self.time_mean + self.time_std * normal), self.shift)

    def interpolate(self, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """(batch, channels, h, w) at `time` (batch,)."""
        t = time.view(-1, 1, 1, 1)
        return (1 - t) * data + t * noise

    def __call__(self, velocity: Tensor, data: Tensor, noise: Tensor) -> Terms:
        """`flow`: squared error of the predicted velocity, (batch,)."""
        return {"flow": per_sample((velocity.float() - (noise - data)).square())}

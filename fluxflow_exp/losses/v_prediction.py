"""v-prediction (Salimans & Ho 2022, section 2.4) on the variance-preserving path of linear β."""

import torch
from torch import Tensor

from fluxflow_exp.config.bounds import PositiveFloat
from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.losses.terms import Terms, per_sample

BETA_FIRST, BETA_LAST = 0.1, 20.0  # 1000 steps from 1e-4 to 0.02, as FluxFlow trains (Ho et al. 2020), made continuous


class VPrediction(RectifiedFlow):
    """x = cos φ·data + sin φ·noise with cos² φ = ᾱ(t); the prediction is v = cos φ·noise - sin φ·data = dx/dφ.

    ᾱ(t) = exp(-β₀t - (β₁ - β₀)t²/2) (Song et al. 2021, eq. 33). Takes RectifiedFlow's arguments.
    """

    name = "v_prediction"

    def interpolate(self, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        angle = angle_at(time).view(-1, 1, 1, 1)
        return angle.cos() * data + angle.sin() * noise

    def __call__(self, velocity: Tensor, data: Tensor, noise: Tensor, time: Tensor) -> Terms:
        """`flow`: squared error of the predicted v, (batch,)."""
        angle = angle_at(time).view(-1, 1, 1, 1)
        return {"flow": per_sample((velocity.float() - (angle.cos() * noise - angle.sin() * data)).square())}

    def grid(self, steps: int, *, shift: PositiveFloat | None = None) -> Tensor:
        """Angles at even times: v is the derivative by the angle."""
        return angle_at(super().grid(steps, shift=shift))

    def time_at(self, position: Tensor) -> Tensor:
        spread = BETA_LAST - BETA_FIRST
        decay = -2 * torch.log(position.double().cos())
        return (((BETA_FIRST**2 + 2 * spread * decay).sqrt() - BETA_FIRST) / spread).to(position.dtype)


def angle_at(time: Tensor) -> Tensor:
    """φ(t) = arccos √ᾱ(t), from 0 at data to almost π/2 at noise."""
    t = time.double()
    alpha_bar = torch.exp(-BETA_FIRST * t - 0.5 * (BETA_LAST - BETA_FIRST) * t.square())
    return torch.atan2((1 - alpha_bar).sqrt(), alpha_bar.sqrt()).to(time.dtype)

"""v-prediction against closed forms."""

import math

import pytest
import torch

from fluxflow_exp.losses.v_prediction import VPrediction, angle_at
from fluxflow_exp.samplers import SAMPLERS, times


def test_alpha_bar_is_that_of_the_thousand_steps():
    """The continuous path beside the product of 1 - β over 1000 linear steps."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha = (1 - betas).cumprod(0).sqrt()
    for index in (0, 250, 500, 750):
        time = torch.tensor((index + 1) / 1000, dtype=torch.float64)
        assert angle_at(time).cos().item() == pytest.approx(alpha[index].item(), abs=3e-3)


def test_time_and_angle_are_inverse():
    time = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(VPrediction().time_at(angle_at(time)), time, atol=1e-6, rtol=1e-6)


def test_another_shift_moves_the_angles_to_those_of_other_times():
    objective = VPrediction(shift=2.0)
    assert torch.equal(objective.grid(5), angle_at(times(5, shift=2.0)))
    assert torch.equal(objective.grid(5, shift=0.5), angle_at(times(5, shift=0.5)))


def test_the_true_v_has_no_loss():
    data, noise, time = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3), torch.rand(4)
    angle = angle_at(time).view(-1, 1, 1, 1)
    v = angle.cos() * noise - angle.sin() * data
    objective = VPrediction()
    assert objective(v, data, noise, time)["flow"].abs().max() < 1e-10
    x = objective.interpolate(data, noise, time)
    torch.testing.assert_close(angle.cos() * x - angle.sin() * v, data)


@pytest.mark.parametrize("sampler", ["heun", "ab2"])
def test_sampling_with_the_exact_field_of_gaussian_data_gives_that_gaussian(sampler):
    """For data N(m, s²), E[v | x] is known, and the flow takes N(0, 1) to N(m, s²)."""
    mean, deviation = 2.0, 0.5
    objective = VPrediction()

    def field(x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        c, s = place.cos().view(-1, 1), place.sin().view(-1, 1)
        variance = c**2 * deviation**2 + s**2
        rest = x - c * mean
        data = mean + c * deviation**2 / variance * rest
        noise = s / variance * rest
        return c * noise - s * data

    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    *_, x = SAMPLERS[sampler](field, noise, objective.grid(100))
    assert x.mean().item() == pytest.approx(mean, abs=0.02)
    assert x.std().item() == pytest.approx(deviation, abs=0.02)
    assert math.isfinite(float(x.abs().max()))

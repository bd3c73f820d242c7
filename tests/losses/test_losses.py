"""Losses against closed forms."""

import math

import pytest
import torch

from fluxflow_exp.evaluation.similarity import psnr
from fluxflow_exp.losses.flow_matching import RectifiedFlow
from fluxflow_exp.losses.kl import KL
from fluxflow_exp.losses.reconstruction import Reconstruction
from fluxflow_exp.losses.times import shift_time


def test_reconstruction_is_the_mean_error_of_each_sample():
    images = torch.zeros(2, 3, 4, 4)
    found = torch.stack([torch.full((3, 4, 4), 0.5), torch.full((3, 4, 4), -1.0)])
    terms = Reconstruction()(found, images)
    assert terms["l1"].tolist() == [0.5, 1.0]
    assert terms["mse"].tolist() == [0.25, 1.0]
    assert set(terms) == {"l1", "mse"}  # log_mse where it has a weight


def test_the_logarithm_of_the_squared_error_falls_as_psnr_rises():
    images = torch.zeros(3, 3, 4, 4)
    found = torch.stack([torch.full((3, 4, 4), error) for error in (0.0, 0.1, 1.0)]).requires_grad_()
    terms = Reconstruction(l1=0.0, mse=0.0, log_mse=1.0)(found, images)
    torch.testing.assert_close(terms["log_mse"], torch.tensor([0.0, math.log(1 + 1e2), math.log(1 + 1e4)]))
    decibels = psnr(found.detach()[1:], images[1:])
    values = terms["log_mse"].detach()
    fallen = (values[2] - values[1]) * 10 / math.log(10)
    assert float(fallen) == pytest.approx(float(decibels[0] - decibels[1]), abs=0.05)  # the floor is far below
    (gradient,) = torch.autograd.grad(terms["log_mse"].sum(), found)
    assert gradient.isfinite().all()
    assert not gradient[0].any()


def test_reconstruction_needs_a_weight():
    with pytest.raises(ValueError, match="not all 0"):
        Reconstruction(l1=0.0, mse=0.0)
    assert Reconstruction(l1=0.0, mse=0.0, log_mse=0.1).weights["log_mse"] == 0.1


def test_kl_is_that_of_torch_distributions():
    mean, logvar = torch.randn(3, 5, 2, 2), torch.randn(3, 5, 2, 2)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    unit = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(posterior, unit).mean((2, 3)).sum(1)
    torch.testing.assert_close(KL()(mean, logvar)["kl"], expected)


def test_free_bits_stop_the_gradient_of_a_channel_below_the_floor():
    mean = torch.zeros(1, 2, 1, 1)
    mean[0, 1] = 3.0
    mean.requires_grad_()
    loss = KL(free_bits=0.5)
    floored = loss(mean, torch.zeros(1, 2, 1, 1))[loss.summed]
    assert floored.item() == pytest.approx(0.5 + 4.5)
    floored.sum().backward()
    assert mean.grad.flatten().tolist() == [0.0, 3.0]


def test_beta_rises_by_half_a_cosine():
    kl = KL(weight=2.0, warmup=100)
    assert [kl.beta(u, updates=1000) for u in (0, 50, 100, 500)] == pytest.approx([0.0, 1.0, 2.0, 2.0])
    assert KL(weight=2.0, warmup=0.5).beta(250, updates=1000) == pytest.approx(1.0)
    assert KL(weight=2.0).beta(0, updates=10) == 2.0


def test_rectified_flow_is_exact_for_the_true_velocity():
    data, noise, time = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3), torch.rand(4)
    flow = RectifiedFlow()
    assert flow(noise - data, data, noise, time)["flow"].abs().max() == 0
    x = flow.interpolate(data, noise, time)
    torch.testing.assert_close(x - time.view(-1, 1, 1, 1) * (noise - data), data)
    assert torch.equal(flow.interpolate(data, noise, torch.ones(4)), noise)


def test_the_shift_moves_time_towards_noise_and_keeps_the_ends():
    time = torch.tensor([0.0, 0.5, 1.0])
    assert shift_time(time, 3.0).tolist() == pytest.approx([0.0, 0.75, 1.0])
    assert torch.equal(shift_time(time, 1.0), time)

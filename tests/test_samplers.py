"""Samplers against an equation with a known solution: dx/dt = x, so x(0) = x(1)/e."""

import math

import pytest
import torch

from fluxflow_exp.samplers import SAMPLERS, guided, times


def solve(name, steps):
    *_, last = SAMPLERS[name](lambda x, t: x, torch.ones(2, 3, dtype=torch.float64), times(steps))
    return last


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2)])
def test_the_error_falls_with_the_order(name, order):
    exact = math.exp(-1)
    errors = [(solve(name, steps) - exact).abs().max().item() for steps in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_times_run_from_noise_to_data():
    assert times(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    with pytest.raises(ValueError, match="at least one"):
        times(0)


def test_guidance_extrapolates_from_the_unconditional_field():
    field = guided(lambda x, t: x + 1, lambda x, t: x, scale=3.0)
    assert field(torch.zeros(1), torch.zeros(1)).item() == 3.0


def test_scale_one_never_asks_the_unconditional_field():
    def never(x, t):
        raise AssertionError("asked")

    assert guided(lambda x, t: x, never, scale=1.0)(torch.ones(1), torch.ones(1)).item() == 1.0

"""Samplers against an equation with a known solution: dx/dt = x, so x(0) = x(1)/e."""

import math

import pytest
import torch

from fluxflow_exp.samplers import SAMPLERS, guided, interval_problem, stretches, times


def solve(name, steps):
    *_, last = SAMPLERS[name](lambda x, t: x, torch.ones(2, 3, dtype=torch.float64), times(steps))
    return last


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2), ("ab2", 2)])
def test_the_error_falls_with_the_order(name, order):
    exact = math.exp(-1)
    errors = [(solve(name, steps) - exact).abs().max().item() for steps in (32, 64)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("shift", [0.5, 3.0])
def test_adams_bashforth_is_of_second_order_on_uneven_steps(shift):
    """dx/dt = x + t, so x = (x₁ + 2)·e^(t - 1) - t - 1: one evaluation a step."""
    calls = []

    def velocity(x, t):
        calls.append(t)
        return x + t[0].double()

    errors = []
    for steps in (64, 128):
        *_, last = SAMPLERS["ab2"](velocity, torch.ones(2, 3, dtype=torch.float64), times(steps, shift=shift))
        errors.append((last - (3 / math.e - 1)).abs().max().item())
    assert len(calls) == 64 + 128
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_adams_bashforth_is_exact_where_the_velocity_is_linear_in_time(shift):
    """But for the first step, which is Euler's: dx/dt = t gives x(0) = x(1) - 1/2 and half a square of that step."""
    grid = times(7, shift=shift)
    *_, last = SAMPLERS["ab2"](lambda x, t: t[:, None].double(), torch.zeros(2, 1, dtype=torch.float64), grid)
    assert last[0].item() == pytest.approx(-0.5 - (1 - grid[1].item()) ** 2 / 2, abs=1e-6)


def test_one_step_of_adams_bashforth_is_euler():
    assert torch.equal(solve("ab2", 1), solve("euler", 1))


def gaussian(x, t):
    """Return the exact velocity of data N(2, 0.5²)."""
    t = t[:, None].double()
    share = (1 - t) * 0.25 / ((1 - t) ** 2 * 0.25 + t**2)
    rest = x - (1 - t) * 2
    return t / ((1 - t) ** 2 * 0.25 + t**2) * rest - 2 - share * rest


def test_twenty_evaluations_come_much_nearer_than_fifty_of_euler():
    noise = torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = 2 + 0.5 * noise
    errors = {}
    for name, steps in (("euler", 50), ("ab2", 20)):
        *_, last = SAMPLERS[name](gaussian, noise, times(steps))
        errors[name] = (last - exact).abs().max().item()
    assert 5 * errors["ab2"] < errors["euler"]


def test_guidance_acts_on_the_steps_that_begin_within_its_interval():
    grid = times(5)
    found = [(part.tolist(), scale) for part, scale in stretches(grid, grid, scale=3.0, interval=[0.2, 0.8])]
    parts = [(grid[:2].tolist(), 1.0), (grid[1:5].tolist(), 3.0), (grid[4:].tolist(), 1.0)]
    assert found == parts


@pytest.mark.parametrize(("scale", "interval"), [(3.0, None), (1.0, [0.2, 0.8]), (3.0, [0.0, 1.0])])
def test_without_an_interval_the_path_is_one(scale, interval):
    grid = times(5, shift=2.0)
    ((whole, kept),) = stretches(grid, grid, scale=scale, interval=interval)
    assert torch.equal(whole, grid)
    assert kept == scale


@pytest.mark.parametrize(
    "interval", [0.5, [], [0.5], [0.8, 0.2], [0.5, 0.5], [-0.1, 1], [0, 1.5], [0, math.nan], [0, 0.5, 1]]
)
def test_what_is_no_interval_is_said(interval):
    assert "two times from 0 (the picture) to 1 (noise)" in interval_problem(interval)


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

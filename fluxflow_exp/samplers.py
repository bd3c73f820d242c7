"""Integration of dx/dt = velocity(x, t) from noise (t = 1) to data (t = 0)."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from fluxflow_exp.losses.times import shift_time

SamplerName = Literal["euler", "heun"]
Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x (batch, …), time (batch,)) → dx/dt of x's shape."""


def times(steps: int, *, shift: float = 1.0) -> Tensor:
    """steps + 1 times from 1 to 0, spaced evenly before the resolution shift; float64."""
    if steps < 1:
        raise ValueError(f"a sampler needs at least one step, not {steps}")
    return shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)


def euler(velocity: Velocity, noise: Tensor, times: Tensor) -> Iterator[Tensor]:
    """Explicit Euler: one evaluation a step, global error O(h). Yields x after each step."""
    x = noise
    for now, then in _intervals(times):
        x = x + (then - now) * velocity(x, _full(x, now))
        yield x


def heun(velocity: Velocity, noise: Tensor, times: Tensor) -> Iterator[Tensor]:
    """Heun's trapezoid: two evaluations a step, global error O(h²). Yields x after each step."""
    x = noise
    for now, then in _intervals(times):
        slope = velocity(x, _full(x, now))
        ahead = velocity(x + (then - now) * slope, _full(x, then))
        x = x + (then - now) * 0.5 * (slope + ahead)
        yield x


SAMPLERS: dict[str, Callable[[Velocity, Tensor, Tensor], Iterator[Tensor]]] = {
    "euler": euler,
    "heun": heun,
}


def guided(velocity: Velocity, unconditional: Velocity, *, scale: float) -> Velocity:
    """Classifier-free guidance u + s·(c - u) (Ho & Salimans 2022); s = 1 is the conditional field alone."""
    if scale == 1.0:
        return velocity

    def field(x: Tensor, time: Tensor) -> Tensor:
        without = unconditional(x, time)
        return without + scale * (velocity(x, time) - without)

    return field


def _intervals(times: Tensor) -> Iterator[tuple[float, float]]:
    return pairwise(times.tolist())


def _full(x: Tensor, time: float) -> Tensor:
    return torch.full((x.shape[0],), time, device=x.device, dtype=torch.float32)

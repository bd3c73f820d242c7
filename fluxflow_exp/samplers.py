"""Integration of dx/dt = velocity(x, t) from noise (t = 1) to data (t = 0)."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor

from fluxflow_exp.losses.times import shift_time

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


def ab2(velocity: Velocity, noise: Tensor, times: Tensor) -> Iterator[Tensor]:
    """Two-step Adams-Bashforth on steps of any lengths (Hairer, Nørsett & Wanner 1993, section III.5).

    One evaluation a step, global error O(h²); the first step is Euler's. Yields x after each step.
    """
    x, before, length = noise, None, 1.0
    for now, then in _intervals(times):
        slope = velocity(x, _full(x, now))
        change = torch.zeros_like(slope) if before is None else (slope - before) / length
        x = x + (then - now) * (slope + 0.5 * (then - now) * change)
        before, length = slope, then - now
        yield x


SAMPLERS: dict[str, Callable[[Velocity, Tensor, Tensor], Iterator[Tensor]]] = {
    "euler": euler,
    "heun": heun,
    "ab2": ab2,
}


def guided(velocity: Velocity, unconditional: Velocity, *, scale: float) -> Velocity:
    """Classifier-free guidance u + s·(c - u) (Ho & Salimans 2022); s = 1 is the conditional field alone."""
    if scale == 1.0:
        return velocity

    def field(x: Tensor, time: Tensor) -> Tensor:
        without = unconditional(x, time)
        return without + scale * (velocity(x, time) - without)

    return field


def interval_problem(interval: Sequence[float]) -> str | None:
    """Say what is wrong with an interval of guidance, for users; None: nothing."""
    given = interval if isinstance(interval, Sequence) else [interval]  # one number is a likely slip
    if len(given) == 2 and 0 <= given[0] < given[1] <= 1:
        return None
    shown = " ".join(f"{each:g}" for each in given)
    return f"is two times from 0 (the picture) to 1 (noise), the lower one first, not {shown or 'empty'}"


def stretches(
    positions: Tensor, times: Tensor, *, scale: float, interval: Sequence[float] | None
) -> list[tuple[Tensor, float]]:
    """Cut the path of a sampler where guidance begins and ends (Kynkäänniemi et al. 2024): [(positions, scale), …].

    `positions` and the `times` there, (steps + 1,), run from noise to data. A step is guided if its first time lies in
    (low, high] of `interval`; the scale of the others is 1. Each stretch is a path of its own, since multistep samplers
    must not extrapolate across the jump of the field.
    """
    if scale == 1.0 or interval is None:
        return [(positions, scale)]
    low, high = (each + 1e-6 for each in interval)  # times may be rounded
    inside = [low < time <= high for time in times[:-1].tolist()]
    found, first = [], 0
    for guides, steps in groupby(inside):
        last = first + len(list(steps))
        found.append((positions[first : last + 1], scale if guides else 1.0))
        first = last
    return found


def _intervals(times: Tensor) -> Iterator[tuple[float, float]]:
    return pairwise(times.tolist())


def _full(x: Tensor, time: float) -> Tensor:
    return torch.full((x.shape[0],), time, device=x.device, dtype=torch.float32)

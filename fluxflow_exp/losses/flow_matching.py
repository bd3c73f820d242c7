"""Rectified flow (Liu et al. 2023; Lipman et al. 2023): straight paths between data and noise."""

from typing import Any

from torch import Tensor

from fluxflow_exp.config.bounds import PositiveFloat, Real
from fluxflow_exp.losses import times as time_draws
from fluxflow_exp.losses.terms import Terms, per_sample
from fluxflow_exp.losses.times import TimeDistribution
from fluxflow_exp.samplers import times as even_times


class RectifiedFlow:
    """x_t = (1 - t)·data + t·noise, velocity = noise - data; t = 1 is noise.

    `time_distribution`, `time_mean` and `time_std` say how often which t is trained (see `losses.times`), `shift`
    moves all of them towards noise. ValueError: time_std or shift is not positive.
    """

    name = "rectified_flow"

    def __init__(
        self,
        *,
        time_distribution: TimeDistribution = "logit_normal",
        time_mean: Real = 0.0,
        time_std: PositiveFloat = 1.0,
        shift: PositiveFloat = 1.0,
    ) -> None:
        if time_std <= 0 or shift <= 0:
            raise ValueError(f"time_std and shift must be positive, not {time_std} and {shift}")
        self.time_distribution: TimeDistribution = time_distribution
        self.time_mean, self.time_std, self.shift = time_mean, time_std, shift

    def facts(self) -> dict[str, Any]:
        """Return what a generator must know beside the weights."""
        return {"objective": self.name, "shift": self.shift}

    def times(self, normal: Tensor) -> Tensor:
        """Standard normal numbers (batch,) → times in (0, 1)."""
        drawn = time_draws.draw(normal, distribution=self.time_distribution, mean=self.time_mean, std=self.time_std)
        return time_draws.shift_time(drawn, self.shift)

    def interpolate(self, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """(batch, channels, h, w) at `time` (batch,)."""
        t = time.view(-1, 1, 1, 1)
        return (1 - t) * data + t * noise

    def __call__(self, velocity: Tensor, data: Tensor, noise: Tensor, time: Tensor) -> Terms:
        """`flow`: squared error of the predicted velocity, (batch,)."""
        return {"flow": per_sample((velocity.float() - (noise - data)).square())}

    def grid(self, steps: int, *, shift: PositiveFloat | None = None) -> Tensor:
        """steps + 1 positions along the path from noise to data; the prediction is dx/d(position). float64.

        `shift`: None: that of training.
        """
        return even_times(steps, shift=self.shift if shift is None else shift)

    def time_at(self, position: Tensor) -> Tensor:
        """The model's time at positions of `grid`: here the same."""
        return position
